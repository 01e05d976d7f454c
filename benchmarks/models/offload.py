"""`python -m benchmarks.models.offload --output offload.json`: blocks of Wan 2.1 14B by group offload, within 24 GB.

PyTorch is kept to 24 GB of whatever GPU there is. Rows: bytes at the peak and seconds of the kinds of denoising step,
with all blocks on the GPU and with the blocks in host memory. Some of the model's blocks stand for all: more of them
take more time, and host memory, but no more of the GPU than their caches.
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
from benchmarks.models.memory import WALKED, free
from benchmarks.models.steps import Subject, attempt, walk_rows
from benchmarks.results import add, ran_on, write

CARD_BYTES = 24 * 2**30
MODEL = "wan2.1-14b-720p-81f"
BLOCKS = 8
LATENTS = (1, 16, 21, 60, 104)
"""Of 832x480 with 81 frames."""
Row = dict[str, Any]


def walked(transformer: Any, model: FullModel, device: torch.device) -> Row:
    """Peak bytes and seconds of the kinds of step."""
    subject = Subject(transformer, model.inputs(device, torch.bfloat16))
    walk = list(islice(walk_rows(subject), WALKED))
    transformer.adaspa.reset()
    return {name: {row["step"]: row[name] for row in walk} for name in ("peak_bytes", "seconds")}


def offloaded(transformer: Any, model: FullModel, device: torch.device) -> Row:
    """The same with its blocks in host memory; the second walk knows the order of the blocks."""
    start = time.perf_counter()
    transformer.to("cpu")
    free(device)
    in_groups.offload(transformer, device)
    placed = round(time.perf_counter() - start, 1)
    walked(transformer, model.one_frame(), device)
    found = {"resident_bytes": in_groups.resident(transformer), "placed_seconds": placed}
    return found | walked(transformer, model, device)


def rows(device: torch.device, *, quick: bool) -> Iterator[Row]:
    model = MODELS[MODEL].quick() if quick else replace(MODELS[MODEL], latents=LATENTS).few_blocks(BLOCKS)
    transformer: Any = model.build(device, torch.bfloat16)
    row = {"model": MODEL, "blocks": model.config["num_layers"], "weights_bytes": size_of(transformer)}
    walked(transformer, model.one_frame(), device)  # compiles the kernels
    yield attempt(row | {"offload": False}, partial(walked, transformer, model, device))
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(CARD_BYTES / torch.cuda.get_device_properties(0).total_memory)
    row |= {"offload": True, "limit_bytes": CARD_BYTES}
    yield attempt(row, partial(offloaded, transformer, model, device))


def size_of(transformer: Any) -> int:
    return in_groups.size(transformer.parameters())


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
