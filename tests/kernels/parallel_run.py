"""Several gloo processes that make tiny videos together, and one of them each alone; JSON of how they differ.

``python parallel_run.py FILE [cuda]``: without GPUs forked from one process, which imports once for all of them.
"""

import contextlib
import json
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import adaspa
import tiny_transformers
import torch
import torch.distributed as dist
from adaspa.parallel.exchange import Exchange
from adaspa.parallel.guidance import go_by
from diffusers import ContextParallelConfig, WanTransformer3DModel
from tiny_pipelines import CHANNELS, SPARSE, TINY, generate, make_hunyuan_video, make_pipeline, prepare
from waiting import PATIENCE

from benchmarks.models import parallel
from benchmarks.models.parallel_parts import PARTS

FULL = SPARSE.replace(sparsity=0.001, head_adaptive=False)
MASS = SPARSE.replace(selection="retained_mass", mass=0.6)
COMPENSATED = SPARSE.replace(compensation="residual", share_lists=True, cache_budget=1000)
"""Residuals are larger than that: they come from host memory when heads move."""
TRANSFORMERS = ("minimax-h3", "chronoedit", "consisid", "ltx-condition")
ON_GPUS = sys.argv[2:] == ["cuda"]
FAMILIES = ("wan", "hunyuan-video", "cogvideox-1.5", "ltx-2", "mochi") if ON_GPUS else (*TINY, *TRANSFORMERS)
EVEN = {"height": 64, "width": 80, "num_frames": 17}
"""100 video tokens; those of the other pipelines, 75, do not divide."""


def unlike_heads(*queries: float) -> Any:
    """Of heads that differ: the larger a head's queries, the more peaked is its attention."""
    heads = {"num_attention_heads": len(queries), "attention_head_dim": 12}
    model = prepare(
        WanTransformer3DModel(
            **heads, **CHANNELS, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32
        )
    )
    for block in model.blocks:
        block.attn1.norm_q.weight.data.view(len(queries), 12).mul_(torch.tensor(queries)[:, None])
    return model


class Made:
    """A model, and what it makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name in TRANSFORMERS:
            self.model = self.transformer = tiny_transformers.FAMILIES[name].transformer()
        else:
            self.model = make_pipeline(name)
            self.transformer = self.model.transformer
        if ON_GPUS:
            self.model.to("cuda")

    def placed(self, transformer: Any) -> Any:
        """Another transformer as this one is."""
        return transformer.to(self.transformer.device, self.transformer.dtype)

    def video(self, **changes: Any) -> torch.Tensor:
        if self.name in TRANSFORMERS:
            return tiny_transformers.denoise(self.transformer, self.name)
        return generate(self.model, self.name, steps=5, **changes).cpu()

    def sparse(self, config: adaspa.AdaSpaConfig = SPARSE, **changes: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        adaspa.apply(self.model, config)
        return self.video(**changes), self.transformer.adaspa.report()


def alone(make: Callable[[], Any], rank: int) -> Any:
    """What one rank makes alone, for all of them."""
    made = [make() if dist.get_rank() == rank else None]
    dist.broadcast_object_list(made, src=rank)
    return made[0]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, 0 within the tolerance of the order of sums."""
    return float(((one - other).abs() - 1e-4 - 1e-4 * other.abs()).clamp(min=0).max())


def same_figures(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = ("density", "recall", "attention_work", "attention_calls", "fell_back", "layers")
    figures = [torch.tensor(_numbers([report[key] for key in keys])) for report in (one, other)]
    return torch.allclose(*figures, rtol=1e-4, atol=1e-4)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [float(value)]


def of_family(name: str, rank: int) -> dict[str, Any]:
    """Of two ranks: a sparse video beside that of one process, which other tests hold against the plain model's."""
    sparse, report = alone(lambda: Made(name).sparse(), rank)
    made = Made(name)
    adaspa.apply(made.model, SPARSE)
    adaspa.parallelize(made.model, ulysses=2)
    with kept_while_attending() as kept:
        together, figures = made.sparse()
    return {
        "kept": max(kept),
        "sparse": apart(together, sparse),
        "figures": same_figures(figures, report),
        "ranks": figures["ranks"],
        "density": figures["density"],
    }


@contextlib.contextmanager
def kept_while_attending() -> Iterator[list[int]]:
    """How many of the queries, keys and values of a rank's own tokens each layer still keeps behind their exchange."""
    kept: list[int] = []
    to_heads = Exchange.to_heads

    def watched(exchange: Exchange, qkv: list[torch.Tensor], text: list[torch.Tensor]) -> list[torch.Tensor]:
        given = [weakref.ref(x) for x in qkv]
        received = to_heads(exchange, qkv, text)
        kept.append(sum(x() is not None for x in given))
        return received

    with patch.object(Exchange, "to_heads", watched):
        yield kept


def of_plain(name: str, rank: int) -> dict[str, Any]:
    """Of two ranks: a video at density 1, and one behind `adaspa.remove`, beside the plain model's."""
    plain = alone(lambda: Made(name).video(), rank)
    made = Made(name)
    adaspa.apply(made.model, FULL)
    adaspa.parallelize(made.model, ulysses=2)
    full = apart(made.video(), plain)
    adaspa.remove(made.model)
    return {"full": full, "removed": apart(made.video(), plain)}


def dealt(config: adaspa.AdaSpaConfig, rank: int, *queries: float) -> dict[str, Any]:
    """Of heads of unequal density, dealt anew after each search."""

    def make() -> Made:
        made = Made("wan")
        made.model.register_modules(transformer=made.placed(unlike_heads(*queries)))
        made.transformer = made.model.transformer
        return made

    sparse, report = alone(lambda: make().sparse(config), rank)
    made = make()
    adaspa.apply(made.model, config)
    adaspa.parallelize(made.model, ulysses=dist.get_world_size())
    together, figures = made.sparse(config)
    return {
        "sparse": apart(together, sparse),
        "figures": same_figures(figures, report),
        "ranks": figures["ranks"],
        "even": figures["even_imbalance"],
        "dealt": figures["imbalance"],
    }


def by_diffusers(first: bool) -> dict[str, Any]:
    """With diffusers' own call for context parallelism, before `adaspa.apply` and behind it."""
    sparse, report = alone(lambda: Made("wan").sparse(**EVEN), 0)
    made = Made("wan")
    if not ON_GPUS:
        torch.accelerator.device_count = lambda: 1  # it asks for an accelerator, whatever the mesh is of
    if not first:
        adaspa.apply(made.model, SPARSE)
    made.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    together, figures = made.sparse(**EVEN)
    return {"sparse": apart(together, sparse), "figures": same_figures(figures, report)}


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def refusals() -> dict[str, str]:
    made = Made("wan")
    found = {"not applied": refused(lambda: adaspa.parallelize(made.model, ulysses=2))}
    adaspa.apply(made.model, SPARSE)
    found["world"] = refused(lambda: adaspa.parallelize(made.model, ulysses=3))
    ring = Made("wan")
    ring.transformer.enable_parallelism(config=ContextParallelConfig(ring_degree=2))
    found["ring"] = refused(lambda: adaspa.apply(ring.model, SPARSE))
    adaspa.parallelize(made.model, ulysses=2)
    tiles = SPARSE.replace(token_order="tile")
    found["tiles"] = refused(lambda: made.sparse(tiles))
    other = tiny_transformers.FAMILIES["cosmos"].transformer()
    adaspa.apply(other, SPARSE)
    found["plan"] = refused(lambda: adaspa.parallelize(other, ulysses=2))
    return found


def of_two() -> dict[str, Any]:
    found: dict[str, Any] = {name: of_family(name, number % 2) for number, name in enumerate(FAMILIES)}
    # Of diffusers' plan, and of ours.
    found["plain"] = {name: of_plain(name, number) for number, name in enumerate(("wan", "hunyuan-video"))}
    four = (3.0, 2.0, 0.3, 0.1)
    found["dealt"] = {"top_k": dealt(SPARSE, 0, *four), "retained_mass": dealt(MASS, 1, *four)}
    found["dealt"]["compensated"] = dealt(COMPENSATED, 0, *four)
    found["joint"] = joint(1)
    found["by diffusers"] = [by_diffusers(first) for first in (True, False)]
    return found if ON_GPUS else {**found, "refusals": refusals()}


def of_four() -> dict[str, Any]:
    """Guidance branches side by side, each by two ranks."""
    found: dict[str, Any] = {}
    for number, name in enumerate(("wan", "ltx")):
        sparse, _ = alone(lambda name=name: Made(name).sparse(), number)
        plain, _ = alone(lambda name=name: Made(name).sparse(guidance=1.0), number + 2)
        made = Made(name)
        adaspa.apply(made.model, SPARSE)
        adaspa.parallelize(made.model, ulysses=2, guidance=2)
        together = [made.sparse()[0] for _ in range(2)]
        found[name] = {
            "sparse": max(apart(one, sparse) for one in together),
            "unguided": apart(made.sparse(guidance=1.0)[0], plain),
        }
        made.model = type(made.model)(**made.model.components)
        made.model.set_progress_bar_config(disable=True)
        go_by(made.model, [made.transformer])
        found[name]["other pipeline"] = apart(made.video(), sparse)
    # By all four, with more heads for some than for others.
    found["dealt"] = dealt(SPARSE, 2, 3.0, 2.5, 2.0, 0.5, 0.3, 0.1)
    whole = Made("wan")
    adaspa.apply(whole.model, SPARSE)
    found["degree"] = refused(lambda: adaspa.parallelize(whole.model, ulysses=4))
    return found


def joint(rank: int) -> dict[str, Any]:
    """Of a sequence with text, with several heads for each rank."""

    def make() -> Made:
        made = Made("hunyuan-video")
        transformer = made.placed(make_hunyuan_video(num_attention_heads=4))
        made.model.register_modules(transformer=transformer)
        made.transformer = transformer
        return made

    sparse, report = alone(lambda: make().sparse(), rank)
    made = make()
    adaspa.apply(made.model, SPARSE)
    adaspa.parallelize(made.model, ulysses=dist.get_world_size())
    together, figures = made.sparse()
    return {"sparse": apart(together, sparse), "figures": same_figures(figures, report), "ranks": figures["ranks"]}


def benchmark(rank: int, world: int, folder: Path) -> None:
    """The benchmark with a tiny model."""
    store = dist.FileStore(str(folder / "groups"), world)
    machine = parallel.Machine(rank, world, store, torch.device("cpu"))
    one_block = replace(PARTS["wan2.1-14b-720p-81f"], config={"num_layers": 1}, blocks=(1, 40))
    with contextlib.redirect_stdout(None):
        parallel.measure(machine, [one_block], folder / "result.json")


Ranked = Callable[[int, int, Path], None]


def run(world: int, ranked: Ranked) -> dict[str, Any]:
    """What rank 0 of so many processes leaves in ``result.json`` of the folder that each is given."""
    processes = get_context("spawn" if ON_GPUS else "fork")  # CUDA does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        ranks = [processes.Process(target=_begin, args=(ranked, rank, world, Path(folder))) for rank in range(world)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            sys.exit(f"ranks ended with {[rank.exitcode for rank in ranks]}")
        found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
        return found


def _begin(ranked: Ranked, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    # In TF32, PyTorch's default for convolutions, the embedding of latents that differ in their last bits, as those of
    # shorter sequences do, differs in the fourth digit: 0.0005 in values up to 6.6.
    torch.backends.cudnn.allow_tf32 = False
    ranked(rank, world, folder)


def grouped(work: Callable[[], dict[str, Any]], rank: int, world: int, folder: Path) -> None:
    """Work of all processes as one group."""
    if ON_GPUS:
        torch.cuda.set_device(rank)
    # diffusers gathers sizes on the CPU for a group that names it; otherwise on the accelerator that PyTorch was built
    # for, which forked ranks do not see.
    dist.init_process_group(
        "nccl" if ON_GPUS else "cpu:gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=PATIENCE),
        device_id=torch.device("cuda", rank) if ON_GPUS else None,
    )
    found = work()
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    found = {"two": run(2, partial(grouped, of_two))}
    if not ON_GPUS:
        found |= {"four": run(4, partial(grouped, of_four)), "benchmark": run(2, benchmark)}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
