"""The service that is soaked on a GPU: a worker of the demo model and one of Wan 2.1 1.3B with random weights.

Both share the GPU. Each may use little more of it than its largest request takes: what a request leaves behind soon
leaves too little for the next one.
"""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from adaspa_service.local.supervisor import free_port
from tiny_catalog import model_spec

from chaos.service import Service, Worker

LIMITS = {"demo": 600_000_000, "wan": 8_000_000_000}
"""Bytes of the GPU that each worker may use."""
SIZES = {"demo": ["128x128", "192x128", "128x192", "256x256"], "wan": ["320x320", "480x320", "320x480", "416x416"]}
FRAMES = {"demo": [17, 33, 49], "wan": [17, 33, 49]}
METRICS = "ADASPA_METRICS_PORT"


def gpu_service(folder: Path) -> Service:
    """The service, not yet started."""
    model = folder / "wan"
    shipped = json.loads((files("adaspa_jobs") / "catalog.json").read_text())[0]
    demo = shipped | {"sizes": SIZES["demo"], "frames": FRAMES["demo"]}
    wan = model_spec(
        model,
        id="wan",
        sizes=SIZES["wan"],
        frames=FRAMES["wan"],
        default_frames=FRAMES["wan"][0],
        default_steps=4,
        attention={},
        bulk_above=100.0,
    )

    def write() -> None:
        subprocess.run([sys.executable, "-m", "chaos.random_wan", model], env=service.environment, check=True)

    workers = {
        name: Worker(
            name,
            ["adaspa_worker", "--model", name],
            {METRICS: str(free_port("127.0.0.1")), "ADASPA_WORKER_MEMORY_BYTES": str(LIMITS[name])},
        )
        for name in LIMITS
    }
    workers["wan"] = Worker(**vars(workers["wan"]) | {"prepare": write})
    service = Service(folder, [demo, wan], workers)
    return service
