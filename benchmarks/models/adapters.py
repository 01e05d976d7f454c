"""`python -m benchmarks.models.adapters --output adapters.json`: seconds to switch LoRA adapters on Wan 2.1 14B.

Two adapters of random weights in every layer of every block, of rank 64 and 32, on a model of full size with random
weights: each read for the first time, then from the cache, both together, and none. Rows also have the seconds and the
peak memory of a forward of 832x480 with 49 frames, and whether it equals, bit for bit, the one without adapters and the
one that the same adapters gave before. The same again with compiled blocks, of which a few stand for all: rows have the
number of graphs so far.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_worker.loras.slots import Loras, sizes_of
from diffusers import WanPipeline
from safetensors.torch import save_file

from benchmarks.clock import synchronize
from benchmarks.models import command_line
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.memory import free
from benchmarks.models.memory_models import SIZES
from benchmarks.results import add, ran_on

MODEL, SIZE = "wan2.1-14b-720p-81f", "832x480, 49 frames"
COMPILED_BLOCKS = 8
"""Blocks of the compiled model: all of a model's have one graph."""
BLOCKS = ("plain", "compiled")
RANKS = {"one": 64, "two": 32}
SCALE = 0.02
"""Of the random weights behind the low rank."""
WALK = {
    "one, read": ["one"],
    "two, read": ["two"],
    "one, cached": ["one"],
    "both": ["one", "two"],
    "two, cached": ["two"],
    "none": [],
    "one, cached again": ["one"],
}
Json = dict[str, Any]


def adapters(transformer: torch.nn.Module, folder: Path, device: torch.device) -> list[Json]:
    """Write the adapters' files; their entries of a catalog."""
    entries = []
    for name, rank in RANKS.items():
        tensors: dict[str, torch.Tensor] = {}
        torch.manual_seed(rank)
        for layer, (inputs, outputs) in sizes_of(transformer).items():
            if layer.startswith("blocks."):
                a, b = (torch.randn(*shape, device=device) for shape in ((rank, inputs), (outputs, rank)))
                low = {"lora_A": a / inputs**0.5, "lora_B": b * SCALE}
                tensors |= {f"transformer.{layer}.{part}.weight": value.bfloat16() for part, value in low.items()}
        file = folder / f"{name}.safetensors"
        save_file(tensors, file)
        with file.open("rb") as content:
            entries.append(
                {"name": name, "source": str(file), "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
            )
    return entries


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of some work, and what it gave."""
    synchronize(device)
    start = time.perf_counter()
    found = work()
    synchronize(device)
    return round(time.perf_counter() - start, 3), found


def rows(model: FullModel, folder: Path, device: torch.device, *, compiled: bool) -> Iterator[Json]:
    """Switches on one model."""
    transformer: Any = model.build(device, torch.bfloat16)
    given = model.inputs(device, torch.bfloat16) | {"timestep": torch.full((1,), 500.0, device=device)}

    def forward() -> tuple[torch.Tensor, Json]:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, out = timed(lambda: transformer(**given, return_dict=False)[0], device)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        return out, {"forward_seconds": seconds, "peak_bytes": peak} | ({"graphs": graphs} if compiled else {})

    entry = Catalog.load(None).default.model_dump(mode="json") | {"compile": compiled}
    spec = ModelSpec.model_validate(entry | {"loras": adapters(transformer, folder, device)})
    files = [Path(lora.source).stat().st_size for lora in spec.loras]
    seconds, loras = timed(lambda: Loras(spec, WanPipeline, [transformer]), device)
    layers = transformer.config.num_layers
    yield {"adapters": "checked, slots made", "layers": layers, "seconds": seconds, "file_bytes": files}
    if compiled:
        transformer.compile_repeated_blocks()
    forward()
    plain, row = forward()
    yield {"adapters": "before any"} | row
    before: dict[str, torch.Tensor] = {"": plain}
    for what, names in WALK.items():
        uses = [LoraUse(name=each, scale=1.0) for each in names]
        seconds, _ = timed(partial(loras.use, uses), device)
        out, row = forward()
        same = before.setdefault("+".join(names), out)
        row |= {"as_before": torch.equal(out, same), "as_without": torch.equal(out, plain)}
        yield {"adapters": what, "switch_seconds": seconds} | row


def main() -> None:
    parser = command_line.parser("adapters", __doc__)
    parser.add_argument("--only", nargs="+", choices=BLOCKS, default=BLOCKS, help="blocks to measure with")
    asked, device = command_line.read(parser)
    whole = MODELS[MODEL].quick() if asked.quick else replace(MODELS[MODEL], latents=SIZES[SIZE])
    few = whole if asked.quick else whole.few_blocks(COMPILED_BLOCKS)
    result: Json = {**ran_on(quick=asked.quick), "model": MODEL, "size": SIZE, "rows": []}
    with torch.no_grad():
        for blocks in asked.only:
            compiled = blocks == "compiled"
            with TemporaryDirectory() as folder:
                for row in rows(few if compiled else whole, Path(folder), device, compiled=compiled):
                    add(result, {"blocks": blocks} | row, asked.output)
            free(device)


if __name__ == "__main__":
    main()
