"""`python -m benchmarks.models.paper_steps --output paper-steps.json`: the paper's steps beside FlashAttention-3's.

Each kind of step of the paper's schedule, whole, in one run: compiled, the linear layers in e4m3 and all attention in
eight bits, between two dense steps by FlashAttention-3 in bfloat16 that are compiled too. The blocks follow each other
as in `benchmarks.models.whole_step`, one block of each kind as often as the model has it, so that the card meets the
power and the clock of a real run. Sparse steps without eight bits and without e4m3 follow: what each part brings. The
table, with the total of 50 steps, is the work of `benchmarks.readme`.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import adaspa
import diffusers
import torch

from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.blocks import layers_of
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.linears import EIGHT, LINEARS, subject_of
from benchmarks.models.steps import WALK, dense_row, sparse_row, walk_rows
from benchmarks.models.whole_step import DENSITY, NAME, InARow
from benchmarks.results import add, ran_on, write

EVERYTHING = replace(WALK, dense_precision=EIGHT, sparse_precision=EIGHT)
STEPS = 5
"""Of `walk_rows`: a dense step, the first search, a sparse step, the later search, a sparse step."""


def rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows as `benchmarks.models.linears` has them."""
    on_gpu = device.type == "cuda"
    kinds = (LINEARS[0], LINEARS[1] if on_gpu else LINEARS[0])
    subjects = [subject_of(model, kind, layers_of(model), device, as_kind=InARow) for kind in kinds]
    plain, small = subjects
    attention = "fa3" if on_gpu else "diffusers"
    told: dict[str, Any] = {"compiled": True, "linears": LINEARS[0], "dense_precision": "full"}
    dense = told | {"step": "dense", "attention": attention, "density": 1.0}
    dense_row(plain, attention)
    list(walk_rows(small, EVERYTHING))  # compiles the kernels of both, as `subject_of` has those of the others
    with plain.in_a_row(profiled=True), small.in_a_row(profiled=True):
        yield dense | dense_row(plain, attention)
        whole = told | {"linears": kinds[1], "dense_precision": EIGHT, "sparse_precision": EIGHT}
        for walked in islice(walk_rows(small, EVERYTHING), STEPS):
            yield whole | walked
        for kind, subject in zip(kinds, subjects, strict=True):
            row = told | {"linears": kind, "step": "sparse", "pattern": "scattered", "asked": DENSITY}
            yield row | sparse_row(subject, DENSITY, "scattered")
        yield dense | dense_row(plain, attention)
    for subject in subjects:
        adaspa.remove(subject.transformer)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.paper_steps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    models = MODELS | BLOCK_MODELS
    parser.add_argument("--model", choices=list(models), default=NAME)
    parser.add_argument("--quick", action="store_true", help="a tiny model on the CPU: to try the benchmark itself")
    arguments = parser.parse_args()
    if not arguments.quick and not torch.cuda.is_available():
        parser.error("a GPU is needed, or --quick")
    device = torch.device("cpu" if arguments.quick else "cuda")
    model = models[arguments.model].quick() if arguments.quick else models[arguments.model]
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__}
    result |= {"density": DENSITY, "quick": arguments.quick, "complete": False, "rows": []}
    with torch.no_grad():
        for row in rows(model, device):
            add(result, {"model": model.name, "calls": model.calls} | row, arguments.output)
    write(result | {"complete": True}, arguments.output)


if __name__ == "__main__":
    main()
