"""A scene of a real model, tiny and untrained, in the worker's own engine: what a client asks shows in the clip, and
nothing of it in the next one."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.checkpoint import pack, unpack
from adaspa_worker.offer import check
from adaspa_worker.pipeline import NotFinite, load
from diffusers import WanPipeline
from interrupted import Stop, stop_at
from tiny_catalog import model_spec
from tiny_loras import WAN, diffusers, entry, low_ranks
from tiny_wan import denoise, save_pipeline
from torch import Tensor

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import ASKED

STEPS = 6
ATTENTION = {"block_size": 16, "sparsity": 0.6, "steps": STEPS, "warmup": 2, "searches": [2, 4], "dense_tail": 0}
USUAL = ASKED | {"model": "tiny", "steps": STEPS, "negative_prompt": "a blue square"}


def params(**changes: Any) -> JobParams:
    return JobParams.model_validate(USUAL | changes)


class Modelled(Scene):
    """A model's engine is asked for one clip after another."""

    name = "by hand: a model's own clips"
    promise = "a clip is that of its prompt, seed and settings, whatever ran before, and its report says what ran"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="model-") as name:
            folder = save_pipeline(Path(name) / "tiny")
            low = low_ranks(WanPipeline.from_pretrained(folder).transformer, WAN)
            loras = [entry(Path(name) / "look.safetensors", diffusers(low))]
            changes: dict[str, Any] = {"loras": loras, "attention": ATTENTION, "memory": {"dtype": "float32"}}
            spec = ModelSpec.model_validate(model_spec(folder, **changes))
            check(spec, folder)
            engine: Any = load(spec, folder)
            self.plain(engine, folder)
            self.settings(engine)
            self.adapters(engine, low)
            self.resumed(engine)
            self.schedules(engine)
            self.texts(engine)
            self.numbers(engine)

    def plain(self, engine: Any, folder: Path) -> None:
        """With dense attention it is diffusers' own clip."""
        pipe = WanPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        for changes in (
            {},
            {"negative_prompt": None, "seed": 3},
            {"guidance_scale": 1.0},
            {"steps": 3, "num_frames": 5},
        ):
            asked = params(quality="exact", **changes)
            made = pipe(
                prompt=asked.prompt,
                negative_prompt=asked.negative_prompt,
                height=asked.height,
                width=asked.width,
                num_frames=asked.num_frames,
                num_inference_steps=asked.steps,
                guidance_scale=asked.guidance_scale,
                generator=torch.Generator().manual_seed(asked.seed),
                output_type="np",
                **engine.spec.call,
            )
            latents = engine.denoise(asked, engine.encode_prompt(asked, {}), lambda *_: None)
            frames = np.stack(list(engine.frames(latents, lambda: None)))
            engine.reset()
            assert frames.shape == (asked.num_frames, asked.height, asked.width, 3), frames.shape
            off = np.abs(frames - 255 * made.frames[0]).max()
            assert off < 0.6, f"a clip with {changes} is off by {off:.1f} of 255 from diffusers' own"

    def settings(self, engine: Any) -> None:
        """Each thing that a client may say shows, and the first clip comes again."""
        first = denoise(engine, params())
        found = {"": first}
        for changes in (
            *({"seed": 2}, {"prompt": "a blue circle"}, {"negative_prompt": None}, {"guidance_scale": 2.0}),
            *({"steps": 5}, {"flow_shift": 5.0}, {"quality": "exact"}, {"sparsity": 0.2}, {"retained_mass": 0.9}),
            {"warmup": 4},
        ):
            found[str(changes)] = denoise(engine, params(**changes))
        for one, latents in found.items():
            same = [other for other, each in found.items() if other < one and torch.equal(each, latents)]
            assert not same, f"the same clip with {one or 'the usual'} and with {same}"
        assert torch.equal(denoise(engine, params()), first), "a clip is another after other jobs"
        assert torch.equal(denoise(engine, params(seed=1 + 2**32)), first), "more than the seed's lower 32 bits count"

    def adapters(self, engine: Any, low: Any) -> None:
        """An adapter adds what its file says, as strongly as it is asked, and goes with its job."""

        def made(scale: float | None) -> Tensor:
            loras = None if scale is None else [LoraUse(name="look", scale=scale)]
            return denoise(engine, params(steps=2, guidance_scale=1.0, quality="exact", loras=loras))

        plain, half, whole = made(None), made(0.5), made(1.0)
        assert torch.equal(made(None), plain) and torch.equal(made(0.0), plain), "an adapter stays behind its job"
        assert torch.equal(made(0.5), half) and (half - plain).abs().max() > 0.01
        transformer = engine.pipe.transformer
        kept = {name: transformer.get_submodule(name).weight.clone() for name in low}
        for scale, found in ((0.5, half), (1.0, whole)):
            with torch.no_grad():
                for name, (a, b) in low.items():
                    weight = transformer.get_submodule(name).weight
                    weight.add_(scale * (b @ a).to(weight.device))
            off = (made(None) - found).abs().max()
            with torch.no_grad():
                for name, weight in kept.items():
                    transformer.get_submodule(name).weight.copy_(weight)
            assert off < 1e-3, (
                f"an adapter of the scale {scale} is off by {off:.4f} from the weights that it stands for"
            )

    def resumed(self, engine: Any) -> None:
        """A clip that goes on after any step is the one that it would have been."""
        asked, kept, told = params(quality="exact"), dict[int, bytes](), list[int]()
        encoded = engine.encode_prompt(asked, {})

        def keep(done: int, _: Any) -> None:
            kept[done] = pack(engine.snapshot(), asked.model_dump_json())

        whole = engine.denoise(asked, encoded, keep)
        engine.reset()
        for at in (1, 4, STEPS):
            told.clear()
            state = unpack(kept[at], asked.model_dump_json())
            again = engine.denoise(asked, encoded, lambda done, _: told.append(done), state)
            engine.reset()
            assert told == [*range(at + 1, STEPS + 1)], f"resumed from step {at}: {told}"
            assert torch.equal(again, whole), f"resumed from step {at}, it is another clip"
        try:
            engine.denoise(asked, encoded, stop_at(2))
        except Stop:
            assert engine.snapshot()["step"] == 2
        engine.reset()
        assert engine.snapshot() is None and torch.equal(denoise(engine, asked), whole), "a stop leaves something"

    def schedules(self, engine: Any) -> None:
        """Kinds of steps are as the settings say, and the report counts what ran."""
        table: list[tuple[dict[str, Any], str]] = [
            ({}, "dense dense search sparse search sparse"),
            ({"warmup": 1}, "dense search sparse sparse search sparse"),
            ({"warmup": 4}, "dense dense dense dense search sparse"),
            ({"quality": "exact"}, "dense " * STEPS),
            ({"sparsity": 0.0}, "dense " * STEPS),
        ]
        for changes, wanted in table:
            kinds, asked = list[str](), params(**changes)
            engine.denoise(asked, engine.encode_prompt(asked, {}), lambda _, kind, kinds=kinds: kinds.append(str(kind)))
            report, told = engine.report(), engine.attention(asked)
            engine.reset()
            assert kinds == wanted.split(), f"with {changes} the steps are {kinds}"
            counted = [report[f"{kind}_steps"] for kind in ("dense", "search", "sparse")]
            assert counted == [kinds.count(kind) for kind in ("dense", "search", "sparse")], f"{changes}: {counted}"
            calls = {kind: count for kind, count in report["attention_calls"].items() if count}
            of_each = 2 * 2  # layers and branches
            assert calls == {kind: of_each * kinds.count(kind) for kind in {*kinds}}, f"{changes}: calls {calls}"
            assert (report["density"] == 1.0) == ("sparse" not in kinds), f"{changes}: density {report['density']}"
            assert told and report["fell_back"] == [], report["fell_back"]
        densities = []
        for sparsity in (0.3, 0.7):
            denoise_with(engine, params(sparsity=sparsity), lambda: densities.append(engine.report()["density"]))
        assert densities == sorted(densities, reverse=True) and len({*densities}) == 2, f"densities {densities}"

    def texts(self, engine: Any) -> None:
        """What of a prompt had room is told."""
        for prompt, used, cut in (("a red circle", 4, 0), ("red " * 40, 16, 25)):
            told = engine.encode_prompt(params(prompt=prompt), {}).tokens["prompt_tokens"]
            assert (told.used, told.cut, told.limit) == (used, cut, 16), f"{prompt[:20]}: {told}"
        assert engine.encode_prompt(params(), {}).tokens["negative_prompt_tokens"].used == 4

    def numbers(self, engine: Any) -> None:
        """Latents or frames that are no numbers are no clip."""
        weight = engine.pipe.transformer.proj_out.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(float("nan"))
        try:
            denoise(engine, params())
        except NotFinite:
            pass
        else:
            raise AssertionError("latents that are no numbers are taken for a clip")
        finally:
            with torch.no_grad():
                weight.copy_(kept)


def denoise_with(engine: Any, asked: JobParams, see: Callable[[], None]) -> None:
    """Denoise, look at the engine, and let it forget."""
    engine.denoise(asked, engine.encode_prompt(asked, {}), lambda *_: None)
    see()
    engine.reset()


SCENES: list[Scene] = [Modelled()]
