"""`python -m benchmarks.models.adapters --output adapters.json`: seconds to switch LoRA adapters on Wan 2.1 14B.

Two adapters of random weights in every layer of every block, of rank 64 and 32, on a model of full size with random
weights: each read for the first time, then from the cache, both together, and none. Rows also have the seconds of a
forward of 832x480 with 81 frames, and whether it equals, bit for bit, the one without adapters and the one that the
same adapters gave before.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
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
from benchmarks.models.full_models import MODELS
from benchmarks.results import add, ran_on

MODEL, LATENTS = "wan2.1-14b-720p-81f", (1, 16, 21, 60, 104)
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


def adapters(transformer: torch.nn.Module, folder: Path) -> list[Json]:
    """Write the adapters' files; their entries of a catalog."""
    entries = []
    for name, rank in RANKS.items():
        tensors: dict[str, torch.Tensor] = {}
        torch.manual_seed(rank)
        for layer, (inputs, outputs) in sizes_of(transformer).items():
            if layer.startswith("blocks."):
                low = {"lora_A": torch.randn(rank, inputs) / inputs**0.5, "lora_B": torch.randn(outputs, rank) * SCALE}
                tensors |= {
                    f"transformer.{layer}.{part}.weight": value.bfloat16().contiguous() for part, value in low.items()
                }
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.adapters", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--quick", action="store_true", help="a tiny model on the CPU: to try the benchmark itself")
    asked = parser.parse_args()
    device = torch.device("cpu" if asked.quick else "cuda")
    model = MODELS[MODEL].quick() if asked.quick else replace(MODELS[MODEL], latents=LATENTS)
    transformer = model.build(device, torch.bfloat16)
    given = model.inputs(device, torch.bfloat16) | {"timestep": torch.full((1,), 500.0, device=device)}
    result: Json = {**ran_on(quick=asked.quick), "model": model.name, "size": "832x480, 81 frames", "rows": []}

    def forward() -> torch.Tensor:
        out: torch.Tensor = transformer(**given, return_dict=False)[0]
        return out

    with TemporaryDirectory() as name, torch.no_grad():
        timed(forward, device)
        seconds, plain = timed(forward, device)
        add(result, {"adapters": "before any", "forward_seconds": seconds}, asked.output)
        entry = Catalog.load(None).default.model_dump(mode="json") | {"loras": adapters(transformer, Path(name))}
        files = [Path(lora["source"]).stat().st_size for lora in entry["loras"]]
        seconds, loras = timed(lambda: Loras(ModelSpec.model_validate(entry), WanPipeline, [transformer]), device)
        add(result, {"adapters": "checked, slots made", "seconds": seconds, "file_bytes": files}, asked.output)
        before: dict[str, torch.Tensor] = {"": plain}
        for what, names in WALK.items():
            uses = [LoraUse(name=each, scale=1.0) for each in names]
            seconds, _ = timed(partial(loras.use, uses), device)
            forward_seconds, out = timed(forward, device)
            row = {"adapters": what, "switch_seconds": seconds, "forward_seconds": forward_seconds}
            same = before.setdefault("+".join(names), out)
            row |= {"as_before": torch.equal(out, same), "as_without": torch.equal(out, plain)}
            add(result, row, asked.output)


if __name__ == "__main__":
    main()
