"""Whether memory grows on a GPU: fifty requests of mixed sizes, lengths, steps, presets and adapters, each made twice.

The second half asks for the same as the first, in another order. After each job, its worker tells what PyTorch's
allocator holds between jobs, and the highest that it held during the job. Whatever the second half needs beyond the
first, beyond ALLOWED, has grown.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from random import Random
from typing import Any

import httpx
import prometheus_text

from chaos.caller import Caller
from chaos.gpu_service import METRICS, SIZES
from chaos.samples import usage
from chaos.service import TENANTS, Service

ALLOWED = {"allocated": 0.1, "reserved": 1.0, "peak": 1.0, "peak_reserved": 5.0, "resident": 5.0, "files": 5.0}
"""Growth that is still flat, in percent. ``allocated`` and ``reserved`` are the GPU's bytes between two jobs, ``peak``
and ``peak_reserved`` the same at their highest during a job; then resident bytes and open files of the worker."""
ON_THE_GPU = ("allocated", "reserved", "peak", "peak_reserved")
PRESETS = ("exact", "quality", "balanced", "fast")
DEMO = (
    *(("128x128", 17), ("256x256", 49), ("192x128", 33), ("128x192", 49)),
    *(("256x256", 17), ("192x128", 17), ("128x192", 33), ("128x128", 49)),
)
WAN = (
    *(("320x320", 17), ("416x416", 49), ("480x320", 33), ("320x480", 49), ("416x416", 17), ("320x320", 33)),
    *(("480x320", 49), ("320x480", 17), ("416x416", 33), ("320x320", 49), ("480x320", 17)),
)
STEPS = (4, 3, 6)
Request = dict[str, Any]
Row = dict[str, Any]


def requests(model: str) -> list[Request]:
    """What the first half asks of a model."""
    shapes, adapters = (DEMO, (("eight-steps", 8), ("four-steps", 4))) if model == "demo" else (WAN, ())
    presets, steps = cycle(PRESETS), cycle(STEPS)
    made = [
        {"size": size, "num_frames": frames, "steps": next(steps), "quality": next(presets)} for size, frames in shapes
    ]
    made += [
        {"size": size, "steps": number, "guidance_scale": 1, "loras": [{"name": name}]}
        for size, (name, number) in product(SIZES[model][1:], adapters)
    ]
    return [{"model": model, "prompt": "a red circle moves right"} | each for each in made]


def soak(service: Service, seed: int) -> tuple[list[Row], list[str]]:
    """Make every request twice, for each model one after another; rows, and what went wrong."""
    rows: list[Row] = []
    complaints: list[str] = []
    begun = time.monotonic()

    def visit(model: str, tenant: str) -> None:
        random, asked = Random(f"{seed}-{model}"), requests(model)
        with Caller(service, tenant) as caller:
            for half in (1, 2):
                for request in random.sample(asked, len(asked)):
                    try:
                        row = made(service, caller, request | {"seed": random.randrange(2**31)})
                    except Exception as error:
                        complaints.append(f"{model}: {error!r}")
                        return
                    row |= {"half": half, "request": asked.index(request), "at": round(time.monotonic() - begun, 1)}
                    rows.append(row)
                    print(json.dumps(row), flush=True)

    threads = [
        threading.Thread(target=visit, args=(worker.model, tenant), daemon=True)
        for worker, tenant in zip(service.workers.values(), TENANTS, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complaints += [f"{row['model']}: {row['status']}: {row['error']}" for row in rows if row["status"] != "completed"]
    return rows, complaints


def made(service: Service, caller: Caller, body: Request) -> Row:
    """Make a video and fetch it; what it took."""
    model, begun = body["model"], time.monotonic()
    video_id = caller.ask("POST", "/videos", json=body).json()["id"]
    status = caller.end(video_id)
    seconds = time.monotonic() - begun
    if status == "completed":
        content = caller.ask("GET", f"/videos/{video_id}/content").content
        assert len(content) > 100, f"{video_id}: {len(content)} bytes"
    video = caller.ask("GET", f"/videos/{video_id}").json()
    shown = {name: value for name, value in body.items() if name not in ("prompt", "seed")}
    memory = (video.get("attention") or {}).get("memory") or {}
    _, resident, files = usage(service.part(model))
    told = {"status": status, "error": video.get("error"), "seconds": round(seconds, 1), "tiled": memory.get("tiled")}
    return shown | told | gpu_memory(service, model) | {"resident": resident, "files": files}


def gpu_memory(service: Service, model: str) -> dict[str, int]:
    """The GPU's bytes that a worker has, once it is done with its job."""
    port = service.workers[model].variables[METRICS]
    while True:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        if prometheus_text.value(text, "adaspa_worker_busy", model=model) == 0:
            break
        time.sleep(0.05)
    found = {kind: prometheus_text.value(text, "adaspa_gpu_memory_bytes", kind=kind) for kind in ON_THE_GPU}
    assert None not in found.values(), f"the worker of {model} tells nothing of a GPU: {found}"
    return {kind: int(value) for kind, value in found.items() if value is not None}


def verdicts(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By figure and model: its highest value in each half, and whether it is flat."""
    return {f"{figure} of {model}": found for model, figure, found in _verdicts(rows)}


def _verdicts(rows: Sequence[Row]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model in sorted({row["model"] for row in rows}):
        own = [row for row in rows if row["model"] == model]
        for figure, allowed in ALLOWED.items():
            first, second = (max((row[figure] for row in own if row["half"] == half), default=0) for half in (1, 2))
            if not first or not second:
                yield model, figure, {"first": first, "second": second, "verdict": "open"}
                continue
            growth = 100 * (second / first - 1)
            verdict = "flat" if growth <= allowed else "grows"
            yield model, figure, {"first": first, "second": second, "percent": round(growth, 2), "verdict": verdict}


def gpu() -> str:
    """The GPU's name."""
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def out_of_memory(service: Service) -> dict[str, int]:
    """How often each worker's log speaks of too little memory."""
    return {name: service.part(name).log.read_text().lower().count("out of memory") for name in service.workers}
