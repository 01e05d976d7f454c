"""`python -m benchmarks.models.offload --output offload.json`: full-size models on a GPU of 24 GB, by group offload.

PyTorch is kept to 24 GB of whatever GPU there is. Each model has random weights, its blocks in host memory. A row has
peak bytes and seconds of the kinds of denoising step. Then come the peak bytes of CogVideoX 1.5 by the module that has
them, without a limit.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from adaspa_worker.engines import in_groups

from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.memory import SIZES, SMALL_SIZES, WALKED, free
from benchmarks.models.steps import Subject, attempt, walk_rows
from benchmarks.results import add, ran_on, write

CARD_BYTES = 24e9 * 1.05
"""Of a card sold as one of 24 GB, which has 24 GiB less what the driver takes."""
OFFLOADED = ("wan2.1-14b-720p-81f", "hunyuan-video-13b-720p-129f")
Row = dict[str, Any]


def offloaded_row(model: FullModel, device: torch.device) -> Row:
    """Peak bytes and seconds of the steps of a model whose blocks are in host memory, its kernels compiled."""
    start = time.perf_counter()
    transformer: Any = model.build(device, torch.bfloat16)
    whole = in_groups.size(transformer.parameters())
    transformer.to("cpu")
    free(device)
    in_groups.offload(transformer, device)
    placed = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(CARD_BYTES / torch.cuda.get_device_properties(0).total_memory)
    for shape in (model.one_frame(), model):
        subject = Subject(transformer, shape.inputs(device, torch.bfloat16))
        walk = list(islice(walk_rows(subject), WALKED))
        transformer.adaspa.reset()
    return {
        "weights_bytes": whole,
        "resident_bytes": in_groups.resident(transformer),
        "placed_seconds": round(placed, 1),
        "peak_bytes": {row["step"]: row["peak_bytes"] for row in walk},
        "seconds": {row["step"]: row["seconds"] for row in walk},
    }


def peaks_by_module(model: FullModel, device: torch.device) -> Row:
    """Peak bytes of one forward within each kind of module, the largest, and what was held before it."""
    transformer: Any = model.build(device, torch.bfloat16)
    found: dict[str, tuple[int, int]] = {}

    def before(module: torch.nn.Module, *_: object) -> None:
        torch.cuda.reset_peak_memory_stats()

    def behind(module: torch.nn.Module, *_: object) -> None:
        peak, kind = torch.cuda.max_memory_allocated(), type(module).__name__
        found[kind] = max(found.get(kind, (0, 0)), (peak, torch.cuda.memory_allocated()))

    leaves = [part for part in transformer.modules() if not any(part.children())]
    if device.type == "cuda":
        for part in leaves:
            part.register_forward_pre_hook(before)
            part.register_forward_hook(behind)
    start = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    subject = Subject(transformer, model.inputs(device, torch.bfloat16))
    subject.forward_row(999.0)
    named = {
        kind: {"peak": peak, "held": held} for kind, (peak, held) in sorted(found.items(), key=lambda row: -row[1][0])
    }
    return {"weights_bytes": in_groups.size(transformer.parameters()), "allocated_at_start": start, "modules": named}


def rows(device: torch.device, *, quick: bool) -> Iterator[Row]:
    small = (lambda model: model.quick()) if quick else (lambda model: model)
    sizes = SMALL_SIZES if quick else dict(islice(SIZES.items(), 1, 2))
    for size, latents in sizes.items():
        for name in OFFLOADED:
            model = replace(small(MODELS[name]), latents=latents)
            row = {"part": "group offload", "model": name, "size": size, "limit_bytes": CARD_BYTES}
            yield attempt(row, partial(offloaded_row, model, device))
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
            free(device)
    cog = small(MODELS["cogvideox1.5-5b-720p-81f"])
    yield attempt({"part": "modules", "model": cog.name}, partial(peaks_by_module, cog, device))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.offload", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--quick", action="store_true", help="tiny models on the CPU: to try the benchmark itself")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.quick else "cuda")
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "rows": []}
    write(result, arguments.output)
    with torch.no_grad():
        for row in rows(device, quick=arguments.quick):
            add(result, row, arguments.output)


if __name__ == "__main__":
    main()
