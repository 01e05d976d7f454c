"""`python -m benchmarks.models.paper_steps --output paper-steps.json`: the paper's steps beside FlashAttention-3's.

Each kind of step of the paper's schedule, by a whole model in one run: compiled, the linear layers in e4m3 and all
attention in eight bits, between two dense steps by FlashAttention-3 in bfloat16 that are compiled too. A search and a
sparse step with ``compensation="residual"`` follow, and sparse steps without eight bits and without e4m3: what each
part costs or brings. Weights are random. The table, with the total of 50 steps, is the work of `benchmarks.readme`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import adaspa
import diffusers
import torch
from adaspa_worker.engines.weights import by_type

from benchmarks.models import command_line
from benchmarks.models.denoise import built, first_blocks
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.linears import EIGHT, LINEARS
from benchmarks.models.steps import WALK, Subject, dense_row, sparse_row, walk_rows
from benchmarks.models.whole_step import DENSITY, NAME, seen_row
from benchmarks.results import add, ran_on, write

EVERYTHING = replace(WALK, dense_precision=EIGHT, sparse_precision=EIGHT)
STEPS = 5
"""Of `walk_rows`: a dense step, the first search, a sparse step, the later search, a sparse step."""
COMPENSATED = replace(EVERYTHING, compensation="residual", warmup=0, searches=(0,))


@dataclass(frozen=True)
class Whole(Subject):
    """A whole model, whose forwards are run once and say at which clock, and what their kernels do."""

    beside: int = 0
    """Bytes of the GPU that are not this model's."""
    long: ClassVar[float] = 0.0

    def forward_row(self, timestep: float) -> dict[str, Any]:
        row = seen_row(partial(Subject.forward_row, self, timestep), self.inputs, profiled=True)
        on_gpu = self.inputs["hidden_states"].device.type == "cuda"
        return row | ({"peak_bytes": torch.cuda.max_memory_allocated() - self.beside} if on_gpu else {})


def rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows as `benchmarks.models.linears` has them."""
    on_gpu = device.type == "cuda"
    kinds = (LINEARS[0], LINEARS[1] if on_gpu else LINEARS[0])
    attention = "fa3" if on_gpu else "diffusers"
    inputs = model.inputs(device, torch.bfloat16)
    few = [Subject(built(model, kind, device, compiled=True), inputs) for kind in kinds]
    held = torch.cuda.memory_allocated() if on_gpu else 0
    plain, small = (Whole(each.transformer, inputs, held - sum(by_type(each.transformer).values())) for each in few)
    with compiling(plain.transformer):
        sparse_row(few[0], DENSITY, "scattered")
        dense_row(few[0], attention)
    with compiling(small.transformer):
        list(islice(walk_rows(few[1], EVERYTHING), STEPS))
        list(compensated_rows(few[1]))
    told: dict[str, Any] = {"compiled": True, "linears": kinds[0], "dense_precision": "full"}
    dense = told | {"step": "dense", "attention": attention, "density": 1.0}
    yield dense | dense_row(plain, attention)
    whole = told | {"linears": kinds[1], "dense_precision": EIGHT, "sparse_precision": EIGHT}
    for walked in islice(walk_rows(small, EVERYTHING), STEPS):
        yield whole | walked
    for row in compensated_rows(small):
        yield whole | {"compensation": COMPENSATED.compensation} | row
    for kind, subject in ((kinds[1], small), (kinds[0], plain)):
        row = told | {"linears": kind, "step": "sparse", "pattern": "scattered", "asked": DENSITY}
        yield row | sparse_row(subject, DENSITY, "scattered")
    yield dense | dense_row(plain, attention)


def compensated_rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """A first search that keeps its residual, and the sparse step behind it."""
    handle = adaspa.apply(subject.transformer, COMPENSATED)
    handle.begin(COMPENSATED.steps, branches=1)
    for step, kind in enumerate(("two_pass_search", "sparse")):
        row = subject.forward_row(999.0 - step)
        yield {"step": kind, "density": round(float(handle.record.patterns[-1].density.mean()), 4)} | row
    handle.reset()


@contextmanager
def compiling(transformer: Any) -> Iterator[None]:
    """Within the block, the transformer has the first of its blocks alone, which compiles those of all."""
    with first_blocks(transformer):
        yield
        adaspa.remove(transformer)


def main() -> None:
    parser = command_line.parser("paper_steps", __doc__)
    parser.add_argument("--model", choices=list(MODELS), default=NAME)
    arguments, device = command_line.read(parser)
    model = MODELS[arguments.model].quick() if arguments.quick else MODELS[arguments.model]
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__}
    result |= {"density": DENSITY, "quick": arguments.quick, "complete": False, "rows": []}
    with torch.no_grad():
        for row in rows(model, device):
            add(result, {"model": model.name, "calls": model.calls} | row, arguments.output)
    write(result | {"complete": True}, arguments.output)


if __name__ == "__main__":
    main()
