"""`python -m benchmarks.models.demo_clip --output docs/demo_model/cpu.json`: the demo model's clip on some CPU cores.

What `adaspa demo` asks for is made by a worker's own engine: with the adapter for eight steps, with that for four, and
without. The seconds of denoising are those of all steps. Other processes on the machine would be measured too.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import folder_of
from adaspa_worker.warm_up import default_params

from benchmarks.results import add, ran_on

ADAPTERS = {"four-steps": 4, "eight-steps": 8}


def requests(spec: ModelSpec) -> dict[str, JobParams]:
    """The requests with an adapter and the default one, by name, the quickest first."""
    usual = default_params(spec)
    few = {
        name: usual.model_dump() | {"steps": steps, "guidance_scale": 1.0, "loras": [{"name": name, "scale": 1.0}]}
        for name, steps in ADAPTERS.items()
    }
    return {name: JobParams.model_validate(asked) for name, asked in few.items()} | {"no adapter": usual}


def seconds(engine: Engine, params: JobParams) -> dict[str, float]:
    """Seconds of denoising, and of the whole clip without reading and writing files."""
    started = time.perf_counter()
    encoded = engine.encode_prompt(params, {})
    begun = time.perf_counter()
    latents = engine.denoise(params, encoded, lambda *_: None, None)
    denoised = time.perf_counter()
    for _ in engine.frames(latents, lambda: None):
        pass
    engine.reset()
    return {"denoising": denoised - begun, "all": time.perf_counter() - started}


def processor() -> str:
    """What the system calls its CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.demo_clip", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of each request, after one that is not counted")
    parser.add_argument("--quick", action="store_true", help="two steps of a short clip, to try the benchmark itself")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: asked.cores]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    spec = Catalog.load(None).models["demo"]
    engine = load(spec, folder_of(spec))
    result: dict[str, Any] = {**ran_on(quick=True), "processor": processor(), "cores": len(cores), "rows": []}
    less = {"num_frames": 9, "steps": 2} if asked.quick else {}
    for name, params in requests(spec).items():
        given = params.model_copy(update=less)
        found = [seconds(engine, given) for _ in range(1 + asked.rounds)][1:]
        medians = {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}
        add(result, {"adapter": name, "steps": given.steps, "seconds": medians}, asked.output)


if __name__ == "__main__":
    main()
