"""`python -m benchmarks.models.blocks --output blocks.json`: steps of models with images and sound, by two blocks.

Models of full size with random weights, of which two blocks are built and run: a forward's seconds are those of what
stands around the blocks, and as many times a block's as the model has. One model then takes seconds, whatever its size,
and one that does not fit the GPU can be told too. The rows are those of `benchmarks.models.steps`: a dense step as
diffusers runs the model, by FlashAttention-3 (the wheel `fa3-fwd`) and by AdaSpa's own kernel, its searches, and a
sparse step at density 0.2. The table, with totals of 50, 8 and 4 steps, is the work of `benchmarks.readme`.
"""

import gc
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import diffusers
import torch
from adaspa.patch import family_of
from adaspa_worker.engines.linears import blocks_of

from benchmarks.clock import synchronize
from benchmarks.models import command_line
from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import FullModel
from benchmarks.models.steps import Subject, attempt, dense_row, failed, sparse_row, unpatched_row, walk_rows
from benchmarks.results import add, ran_on, write

BLOCKS = 2
DENSITY = 0.2


@dataclass(frozen=True)
class FewBlocks(Subject):
    """A transformer whose blocks, compiled or not, stand for all of their kind: ``layers`` of each class."""

    layers: Mapping[str, int]
    long: ClassVar[float] = math.inf  # what is run is short, and the first run of a kernel is not like the others
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each block in the last forward, by its class."""

    def __post_init__(self) -> None:
        for block in blocks_of(self.transformer):
            call: Any = block._compiled_call_impl or block._call_impl
            block._compiled_call_impl = partial(self.run, type(block).__name__, call)

    def forward_row(self, timestep: float) -> dict[str, Any]:
        self.seconds.clear()
        row = super().forward_row(timestep)
        around = row["seconds"] - sum(map(sum, self.seconds.values()))
        blocks = {kind: sum(seconds) / len(seconds) for kind, seconds in self.seconds.items()}
        total = sum(self.layers[kind] * seconds for kind, seconds in blocks.items())
        mean = total / sum(self.layers[kind] for kind in blocks)
        return {"seconds": round(around + total, 4), "block_seconds": round(mean, 5)}

    def run(self, kind: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """A block."""
        start = self._now()
        out = call(*given, **named)
        self.seconds[kind].append(self._now() - start)
        return out

    def _now(self) -> float:
        synchronize(self.inputs["hidden_states"].device)
        return time.perf_counter()


def layers_of(model: FullModel) -> Counter[str]:
    """How many blocks of each class the whole model has."""
    return Counter(type(block).__name__ for block in blocks_of(model.build(torch.device("meta"), torch.bfloat16)))


def video_tokens(subject: Subject) -> int:
    """How many tokens of video a forward has."""
    grid = family_of(subject.transformer).layout(subject.transformer, subject.inputs).grid
    assert grid is not None, "every model here has a whole grid of video"
    return math.prod(grid)


def model_rows(model: FullModel, device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """All rows of a model, the most telling first."""
    few, layers = model.few_blocks(BLOCKS), layers_of(model)
    transformer: Any = few.build(device, dtype)
    small = Subject(transformer, few.one_frame().inputs(device, dtype))
    list(walk_rows(small))  # compiles the kernels
    subject = FewBlocks(transformer, few.inputs(device, dtype), layers)
    yield {"step": "size", "layers": layers.total(), "video_tokens": video_tokens(subject)}
    for attention in ("fa3", "adaspa") if device.type == "cuda" else ("diffusers",):
        row = {"step": "dense", "attention": attention, "density": 1.0}
        yield attempt(row, partial(dense_row, subject, attention))
    list(walk_rows(subject))  # the first time memory is laid out
    for row in walk_rows(subject):
        yield {name: row[name] for name in ("step", "density", "pattern", "seconds", "block_seconds")}
    row = {"step": "sparse", "pattern": "scattered", "asked": DENSITY}
    yield attempt(row, partial(sparse_row, subject, DENSITY, "scattered"))
    yield attempt({"step": "unpatched", "density": 1.0}, partial(unpatched_row, subject))


def rows_or_error(model: FullModel, device: torch.device, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """A model's rows; where it cannot be run any further, the last one says why, and the next model has its turn."""
    try:
        yield from model_rows(model, device, dtype)
    except Exception as error:
        yield failed({"step": "stopped"}, error)


def main() -> None:
    parser = command_line.parser("blocks", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(BLOCK_MODELS), default=list(BLOCK_MODELS))
    arguments, device = command_line.read(parser)
    dtype = torch.bfloat16
    result: dict[str, Any] = {
        **ran_on(quick=arguments.quick),
        "diffusers": diffusers.__version__,
        "dtype": str(dtype),
        "quick": arguments.quick,
        "blocks": BLOCKS,
        "complete": False,
        "rows": [],
    }
    with torch.no_grad():
        for name in arguments.models:
            model = BLOCK_MODELS[name].quick() if arguments.quick else BLOCK_MODELS[name]
            for row in rows_or_error(model, device, dtype):
                add(result, {"model": name, "calls": model.calls} | row, arguments.output)
            gc.collect()  # a patched transformer is part of a cycle
            torch.cuda.empty_cache()
    result["complete"] = not any(row["step"] == "stopped" for row in result["rows"])
    write(result, arguments.output)


if __name__ == "__main__":
    main()
