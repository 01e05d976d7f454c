"""`python -m benchmarks.models.offload --output offload.json`: a job by group offload, within 24 GB.

The worker's own engine runs it, kept to 24 GB of whatever GPU there is: the blocks of the transformer lie in host
memory, and AdaSpa is on them. Weights and texts are random, and there is no text encoder. Rows: the predicted peak,
seconds of each denoising step with all guidance branches, the peak so far, and the decoding in tiles and, if it fits,
as a whole. Host memory is the most that the process ever took, so that each model needs one of its own.
"""

import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from adaspa_api.words import StepKind
from adaspa_jobs.catalog import Memory, ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker import allocator
from adaspa_worker.engines import in_groups
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.hunyuan_video import HunyuanVideoEngine
from adaspa_worker.engines.preflight import Peak, preflight_of
from adaspa_worker.engines.wan import WanEngine
from adaspa_worker.host_memory import given_back
from adaspa_worker.pipeline import Encoded
from adaspa_worker.warm_up import default_params
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks.models import command_line
from benchmarks.models.full_models import MODELS
from benchmarks.models.memory_models import VAES
from benchmarks.models.steps import attempt
from benchmarks.results import add, ran_on

CARD_BYTES = 24 * 2**30
QUICK_SIZE, QUICK_FRAMES = (128, 128), 9
ATTENTION = {"sparsity": 0.8, "query_block_size": 128, "steps": 4, "warmup": 1, "searches": [1]}
"""One step is dense, the next one searches, the others are sparse."""
SCALE = 0.02
"""Deviation of the weights."""
Row = dict[str, Any]


class RandomWeights(DiffusersEngine):
    """A family's engine with random weights, made in host memory of the same numbers for each layer."""

    def _load(self, folder: Path) -> Any:
        transformer, vae = (_empty(folder / part) for part in ("transformer", "vae"))
        precise = set(transformer._keep_in_fp32_modules or ())
        most = max(parameter.numel() for parameter in transformer.parameters())
        random = (torch.randn(most, device=self.device) * SCALE).cpu()
        weights = {}
        for name, parameter in transformer.named_parameters():
            dtype = torch.bfloat16 if precise.isdisjoint(name.split(".")) else torch.float32
            weights[name] = torch.empty(parameter.shape, dtype=dtype)
            weights[name].view(-1).copy_(random[: parameter.numel()])
        transformer.load_state_dict(weights, assign=True)
        dtypes = self.dtypes()
        made = {
            "transformer": transformer.eval().requires_grad_(False),
            "vae": vae.from_config(vae.config).to(dtypes.get("vae", dtypes["default"])).eval().requires_grad_(False),
            "scheduler": FlowMatchEulerDiscreteScheduler(),
        }
        needed = signature(self.pipeline).parameters.values()
        return self.pipeline(**{part.name: None for part in needed if part.default is Parameter.empty} | made)

    def _find_latent_rgb(self, folder: Path) -> None:
        """Do without previews."""

    def encode_prompt(self, params: JobParams, images: Mapping[Any, Any] = MappingProxyType({})) -> Encoded:
        self._memory.begin(params)
        return Encoded(self.texts(), {})

    def texts(self) -> tuple[Any, ...]:
        """Return random texts, as the calls of the pipeline's ``encode_prompt`` would."""
        raise NotImplementedError

    def random(self, *shape: int) -> torch.Tensor:
        """A random tensor of a text."""
        return torch.randn(shape, device=self.device, dtype=torch.bfloat16)


class RandomWan(RandomWeights, WanEngine):
    """Wan with random weights."""

    def texts(self) -> tuple[Any, ...]:
        width = self.transformers[0].config.text_dim
        return ((self.random(1, 512, width), self.random(1, 512, width)),)


class RandomHunyuanVideo(RandomWeights, HunyuanVideoEngine):
    """HunyuanVideo with random weights; its text is as long as it can be."""

    def texts(self) -> tuple[Any, ...]:
        config, tokens = self.transformers[0].config, 256
        mask = torch.ones(1, tokens, device=self.device, dtype=torch.long)
        text, pooled = self.random(1, tokens, config.text_embed_dim), self.random(1, config.pooled_projection_dim)
        return ((text, pooled, mask),)


@dataclass(frozen=True)
class Case:
    """A model and a job: the engine, the VAE, size and frames."""

    engine: type[RandomWeights]
    vae: str
    size: tuple[int, int]
    frames: int


CASES = {
    "wan2.1-14b-720p-81f": Case(RandomWan, "AutoencoderKLWan", (832, 480), 81),
    "hunyuan-video-13b-720p-129f": Case(RandomHunyuanVideo, "AutoencoderKLHunyuanVideo", (832, 480), 129),
}


def _empty(folder: Path) -> Any:
    """A part of a pipeline without weights, of its configuration."""
    config = json.loads((folder / "config.json").read_text())
    with init_empty_weights(include_buffers=False):
        return getattr(diffusers, config["_class_name"]).from_config(config)


def entry(model: str, folder: Path, size: tuple[int, int], frames: int) -> ModelSpec:
    """The catalog entry of a model's folder."""
    return ModelSpec(
        id=model,
        source=str(folder),
        description="Random weights",
        sizes=["{}x{}".format(*size)],
        frames=[frames],
        default_frames=frames,
        fps=16,
        fps_range=(16, 16),
        steps_range=(4, 4),
        default_steps=4,
        guidance_range=(5, 5),
        default_guidance=5,
        attention=ATTENTION,
        memory=Memory(group_offload=True),
    )


def model_folder(model: str, folder: Path, *, quick: bool) -> Path:
    """Write the configurations of a model's folder."""
    case, full = CASES[model], MODELS[model].quick() if quick else MODELS[model]
    with torch.device("meta"):
        parts = {
            "transformer": getattr(diffusers, full.transformer)(**full.config),
            "vae": getattr(diffusers, case.vae)(**VAES[case.vae].small if quick else {}),
        }
    for part, module in parts.items():
        module.save_config(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": case.engine.pipeline.__name__}))
    return folder


def run(spec: ModelSpec, folder: Path, tell: Callable[[Row], None]) -> None:
    """Run the model's default request, and tell its rows."""
    start = time.perf_counter()

    def done(what: Row) -> None:
        nonlocal start
        peak = torch.cuda.max_memory_allocated() if engine.device.type == "cuda" else None
        tell(what | {"seconds": round(time.perf_counter() - start, 3), "peak_bytes": peak})
        start = time.perf_counter()

    def on_step(number: int, kind: StepKind | None) -> None:
        done({"part": "step", "step": number, "kind": kind})

    params = default_params(spec)
    with given_back():  # as the worker loads a model
        engine = CASES[spec.id].engine(spec, folder)
    (transformer,) = engine.transformers
    weights, resident = in_groups.size(transformer.parameters()), in_groups.resident(transformer)
    done({"part": "load", "weights_bytes": weights, "resident_bytes": resident, "host_peak_bytes": host_peak()})
    predicted = preflight_of(spec, folder).peak(params)
    done({"part": "preflight", "predicted_bytes": vars(predicted)})
    latents = engine.denoise(params, engine.encode_prompt(params), on_step)
    done({"part": "denoised", "density": engine.report()["density"], "host_peak_bytes": host_peak()})
    engine.pipe.vae.enable_tiling()
    done(attempt({"part": "decode"}, partial(decoded, engine, latents, predicted)))
    engine.pipe.vae.disable_tiling()
    done(attempt({"part": "decode"}, partial(decoded, engine, latents, predicted)))


def decoded(engine: RandomWeights, latents: torch.Tensor, predicted: Peak) -> Row:
    """Decode a clip, in tiles if the VAE is set to or if it has to be: what that takes, and what was predicted."""
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    frames = len(list(engine.frames(latents, lambda: None)))
    tiled = engine.report()["memory"].tiled
    return {"tiled": tiled, "frames": frames, "predicted_bytes": predicted.tiled if tiled else predicted.decoding}


def host_peak() -> int:
    """Bytes of host memory that this process has taken at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    os.environ["ADASPA_WORKER_MEMORY_BYTES"] = str(CARD_BYTES)
    allocator.use()
    parser = command_line.parser("offload", __doc__)
    parser.add_argument("--model", choices=list(CASES), default=next(iter(CASES)))
    arguments, _ = command_line.read(parser)  # asks for a GPU, and so comes after the allocator's settings
    case = CASES[arguments.model]
    size, frames = (QUICK_SIZE, QUICK_FRAMES) if arguments.quick else (case.size, case.frames)
    with TemporaryDirectory() as name:
        folder = model_folder(arguments.model, Path(name), quick=arguments.quick)
        spec = entry(arguments.model, folder, size, frames)
        told = {"model": spec.id, "size": f"{spec.sizes[0]}, {frames} frames", "limit_bytes": CARD_BYTES, "rows": []}
        result = ran_on(quick=arguments.quick) | told
        run(spec, folder, lambda row: add(result, row, arguments.output))


if __name__ == "__main__":
    main()
