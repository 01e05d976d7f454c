"""`python -m benchmarks.models.steps --output models.json`: a denoising step of full-size models by kind of step.

Seconds and peak memory of one forward (one guidance branch; CogVideoX runs both as a batch of two) with random weights.
Random weights give nearly uniform attention, of which retained mass would keep nearly all: every pattern here has a
given density instead. The searches keep the top 20 % (`AdaSpaConfig.paper`); the other sparse rows are given random
patterns, ``scattered`` (equal rows, blocks anywhere) or ``skewed`` (diagonals and columns, heads from half to one and a
half times the mean). With ``--compile`` the blocks are compiled (`compile_repeated_blocks`), for dense and sparse steps
alike. Totals of 50 steps are the work of `benchmarks.readme`.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from unittest.mock import patch

import adaspa
import diffusers
import torch
from adaspa.cache import CacheEntry
from adaspa.config import AdaSpaConfig
from adaspa.index import BlockIndex
from adaspa.models import processor
from adaspa.ops.call import Precision
from adaspa.ops.keep_blocks import keep_blocks
from adaspa.patch import family_of
from adaspa.record import PatternRecord
from adaspa.selection import Geometry
from adaspa.selection.top_k import blocks_kept

from benchmarks.attention import peers
from benchmarks.models import command_line
from benchmarks.models.full_models import MODELS, FullModel, Inputs
from benchmarks.results import add, ran_on, write

PATTERNS = (
    (0.2, "scattered"),
    (0.2, "skewed"),
    (0.1, "scattered"),
    (0.3, "scattered"),
    (0.05, "scattered"),
    (0.5, "scattered"),
)
"""Density and kind of the random patterns, the most telling first."""
BLOCK = 64
WALK = replace(AdaSpaConfig.paper(), query_block_size=128, steps=8, warmup=1, searches=(1, 3, 5))
"""One forward for each kind of step."""
WALK_STEPS = ("dense_with_lse", "fused_search", "sparse", "cached_search", "sparse", "sampled_search", "sparse")


@contextmanager
def dense_by(name: str) -> Iterator[None]:
    """Plain dense steps by one of `peers.DENSE`, by what ``diffusers`` takes by itself, or by ``adaspa`` as always."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
        out: torch.Tensor = peers.dense(name, (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)))()
        return out if name == "fa3" else out.transpose(1, 2)

    with ExitStack() as changes:
        if name != "adaspa":
            changes.enter_context(patch.object(processor.AdaSpaProcessor, "backend_is_chosen", new=True))
        if name in peers.DENSE:
            changes.enter_context(patch.object(processor, "dispatch_attention_fn", attend))
        yield


@dataclass(frozen=True)
class Subject:
    """A transformer, and the arguments of its forwards but for the timestep (a tensor to fill, where it is not one for
    each sample)."""

    transformer: Any
    inputs: Inputs
    long: ClassVar[float] = 4.0
    """Seconds of a forward that is run once."""

    def forward_row(self, timestep: float) -> dict[str, Any]:
        """Seconds and peak bytes of one forward. FloatingPointError unless what comes out is finite.

        Args:
            timestep: from 1000, noise, to 0; models whose timesteps rise get theirs from 0 to 1.
        """
        hidden = self.inputs["hidden_states"]
        on_gpu = hidden.device.type == "cuda"
        rises = family_of(self.transformer).timesteps_rise
        like = self.inputs.get("timestep", torch.empty(hidden.shape[:1], device=hidden.device))
        given = self.inputs | {"timestep": torch.full_like(like, 1 - timestep / 1000 if rises else timestep)}
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        out = self.transformer(**given).sample
        finite = bool(out.isfinite().all())  # waits for the device
        row: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 4)}
        if not finite:
            raise FloatingPointError("the output is not finite")
        return row | {"peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None}


def compiling_row(subject: Subject) -> dict[str, Any]:
    """Compile the repeated blocks by one forward, of which no request is left."""
    subject.transformer.compile_repeated_blocks(dynamic=False)
    row = subject.forward_row(1000.0)
    subject.transformer.adaspa.reset()
    return row


def median_row(subject: Subject) -> dict[str, Any]:
    """The median of three forwards, or a single one where it is long enough to stand for itself."""
    rows = [subject.forward_row(998.0)]
    if rows[0]["seconds"] < subject.long:
        rows += [subject.forward_row(timestep) for timestep in (997.0, 996.0)]
    return sorted(rows, key=lambda row: row["seconds"])[len(rows) // 2]


def dense_row(subject: Subject, attention: str) -> dict[str, Any]:
    """A dense step, patched, by ``attention``."""
    adaspa.apply(subject.transformer, AdaSpaConfig.preset("exact")).begin(WALK.steps, branches=1)
    with dense_by(attention):
        return median_row(subject)


def walk_rows(subject: Subject, config: AdaSpaConfig = WALK) -> Iterator[dict[str, Any]]:
    """One forward of each kind of step, with the searches of the paper."""
    handle = adaspa.apply(subject.transformer, config)
    handle.begin(config.steps, branches=1)
    for step, kind in enumerate(WALK_STEPS):
        if kind == "sampled_search":
            assert handle.state is not None, "a request is in progress"
            handle.state.plan = replace(config, query_stride=4).resolve(config.steps)
        row = subject.forward_row(999.0 - step)
        record = handle.record
        dense = kind in {"dense_with_lse", "fused_search"}
        in_two_passes = kind == "fused_search" and config.dense_precision != "full"
        density = 1.0 if dense else round(float(record.patterns[-1].density.mean()), 4)
        held = {"cache_bytes": record.cache_bytes, "host_bytes": record.host_bytes}
        name = "two_pass_search" if in_two_passes else kind
        yield {"step": name, "density": density, "pattern": "searched"} | row | held
    handle.reset()


def search_at_once_row(subject: Subject) -> dict[str, Any]:
    """A search in the very first step, which has no LSE from a step before."""
    adaspa.apply(subject.transformer, replace(WALK, warmup=0, searches=(0,))).begin(WALK.steps, branches=1)
    return subject.forward_row(999.0)


def random_pattern(
    density: float, kind: str, heads: tuple[int, int], geometry: Geometry, device: torch.device
) -> BlockIndex:
    """A pattern of about ``density``, apart from the text, for ``heads`` ``(B, H)``: see the module."""
    rows, blocks, text = geometry.query_blocks, geometry.key_blocks, geometry.key_text
    weights = torch.rand(*heads, rows, blocks, device=device)
    kept = blocks_kept(1 - density, blocks - len(text))
    limits = torch.full(heads, float(kept), device=device)
    if kind == "skewed":
        row, column = (torch.arange(n, device=device) / n for n in (rows, blocks))
        weights += 4 * torch.exp(-32 * (row.unsqueeze(1) - column).abs())
        weights += 2 * (torch.rand(*heads, 1, blocks, device=device) > 0.97)
        limits = (limits * torch.linspace(0.5, 1.5, heads[1], device=device)).round().clamp(1, blocks - len(text))
    limits += len(text)
    ids, counts, _ = keep_blocks(
        weights, limits, rule="count", text=text, text_rows=geometry.query_text, width=int(limits.max())
    )
    return BlockIndex(ids, counts, geometry.query_block, geometry.key_block, geometry.tokens, geometry.tokens)


@contextmanager
def sparse_steps(
    subject: Subject, density: float, pattern: str, query_block: int = WALK.query_block, precision: Precision = "full"
) -> Iterator[BlockIndex]:
    """Within the block, steps are sparse, with one random pattern in every layer."""
    transformer, inputs = subject.transformer, subject.inputs
    config = replace(WALK, warmup=0, searches=(0,), query_block_size=query_block, sparse_precision=precision)
    handle = adaspa.apply(transformer, config)
    handle.begin(WALK.steps, branches=1)
    state = handle.begin_forward(999.0)
    layout = family_of(transformer).layout(transformer, inputs)
    frames, rows, columns = layout.grid or (0, 0, 0)
    valid = (layout.text_lengths or (layout.text_tokens,))[0]
    video, text = frames * rows * columns, layout.before + layout.behind + valid
    blocks = (query_block, WALK.block_size)
    geometry = Geometry(video + text, *blocks, (video, video + text) if text else None)
    hidden = inputs["hidden_states"]
    heads = (hidden.shape[0], transformer.config.num_attention_heads)
    index = random_pattern(density, pattern, heads, geometry, hidden.device)
    layers = [m for m in transformer.modules() if isinstance(getattr(m, "processor", None), processor.AdaSpaProcessor)]
    for layer in range(len(layers)):
        state.cache.put(state.key(layer), CacheEntry(index=index))
        state.add_pattern(state.key(layer), PatternRecord.of(index, layer, 0, recall=index.head_density()))
    yield index
    handle.reset()


def sparse_row(subject: Subject, density: float, pattern: str) -> dict[str, Any]:
    """A sparse step with one random pattern in every layer."""
    with sparse_steps(subject, density, pattern) as index:
        return {"density": round(index.density(), 4)} | median_row(subject)


def unpatched_row(subject: Subject) -> dict[str, Any]:
    """A step as diffusers runs the model, with whatever masks it makes."""
    adaspa.remove(subject.transformer)
    return median_row(subject)


def attempt(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row with what was measured, or with the reason where it cannot be."""
    try:
        return row | measure()
    except Exception as error:  # out of memory, a peer that is not installed or refuses: the row says which
        return failed(row, error)


def failed(row: dict[str, Any], error: Exception) -> dict[str, Any]:
    """The row with the reason why it was not measured."""
    return row | {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def model_rows(
    model: FullModel, device: torch.device, dtype: torch.dtype, *, compiled: bool
) -> Iterator[dict[str, Any]]:
    """All rows of a model, the most telling first."""
    start = time.perf_counter()
    transformer: Any = model.build(device, dtype)
    billions = sum(parameter.numel() for parameter in transformer.parameters()) / 1e9
    yield {"step": "build", "seconds": round(time.perf_counter() - start, 2), "billion_parameters": round(billions, 3)}
    start = time.perf_counter()
    list(walk_rows(Subject(transformer, model.one_frame().inputs(device, dtype))))
    yield {"step": "warm-up, one frame", "seconds": round(time.perf_counter() - start, 2)}
    subject = Subject(transformer, model.inputs(device, dtype))
    if compiled:
        yield {"step": "warm-up, compiled"} | compiling_row(subject)
    seconds = []
    for attention in tuple(reversed(peers.DENSE)) if device.type == "cuda" else ("diffusers",):
        described = {"step": "dense", "attention": attention, "density": 1.0}
        row = attempt(described, partial(dense_row, subject, attention))
        yield row
        seconds.append(row.get("seconds", subject.long))
    if min(seconds) < subject.long:
        list(walk_rows(subject))  # the first time memory is laid out
    yield from walk_rows(subject)
    for density, pattern in PATTERNS:
        row = {"step": "sparse", "pattern": pattern, "asked": density}
        yield attempt(row, partial(sparse_row, subject, density, pattern))
    yield attempt({"step": "search_at_once", "density": 1.0}, partial(search_at_once_row, subject))
    if not compiled:
        yield attempt({"step": "unpatched", "density": 1.0}, partial(unpatched_row, subject))


def main() -> None:
    parser = command_line.parser("steps", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--compile", action="store_true", help="compile the transformer's repeated blocks")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no new row after this time")
    arguments, device = command_line.read(parser)
    dtype = torch.bfloat16
    result: dict[str, Any] = {
        **ran_on(quick=arguments.quick),
        "diffusers": diffusers.__version__,
        "dtype": str(dtype),
        "quick": arguments.quick,
        "compiled": arguments.compile,
        "complete": False,
        "rows": [],
    }
    started = time.monotonic()
    with torch.no_grad():
        for name in arguments.models:
            model = MODELS[name].quick() if arguments.quick else MODELS[name]
            for row in model_rows(model, device, dtype, compiled=arguments.compile):
                add(result, {"model": name, "calls": model.calls} | row, arguments.output)
                if time.monotonic() - started > 60 * arguments.minutes:
                    parser.exit(message=f"out of time; {arguments.output} holds what was measured\n")
            # A patched transformer is part of a cycle: the next model would not fit beside it.
            gc.collect()
            torch.cuda.empty_cache()
    result["complete"] = True
    write(result, arguments.output)


if __name__ == "__main__":
    main()
