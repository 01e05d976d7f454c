"""`python -m benchmarks.models.idle --output idle.json`: how long a worker denoises nothing between two jobs.

A worker process with Valkey and a storage, and jobs of the demo model that wait for it, each with a prompt of its own.
From the last step of a job until the next one's denoising begins, it is decoded and encoded, stored and completed; the
next is claimed, and its prompt is encoded. The seconds are those between the events of the jobs, by Valkey's clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_api.words import Priority
from adaspa_jobs.connections import connections
from adaspa_jobs.queue import make_celery, ring
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore

from benchmarks.load.service import PARAMS
from benchmarks.redis_server import Server, await_true
from benchmarks.results import add, ran_on

Seconds = dict[str, float]


@contextmanager
def working(folder: Path, storage: str) -> Iterator[str]:
    """A worker of the demo model; gives the address of its Valkey."""
    server = Server(folder)
    url = f"unix://{server.socket}?db=0"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    env = clean | {"ADASPA_REDIS_URL": url, "ADASPA_STORAGE_URL": storage, "ADASPA_LOG_LEVEL": "warning"}
    env["ADASPA_HEARTBEAT_FILE"] = str(folder / "heartbeat")
    worker = subprocess.Popen([sys.executable, "-m", "adaspa_worker"], env=env)
    try:
        yield url
    finally:
        worker.terminate()
        worker.wait()
        server.stop()


def run_jobs(url: str, count: int, changes: dict[str, int]) -> list[Seconds]:
    """Run jobs one after the other; when each of them did what."""
    with connections(url).client() as client, make_celery(Settings(redis_url=url)) as celery:
        store = JobStore(client)
        ids = [
            store.admit_all([PARAMS.model_copy(update={"prompt": f"a red circle moves {n}", **changes})]).jobs[0].id
            for n in range(count)
        ]
        ring(celery, PARAMS.model, Priority.interactive, count)
        await_true(lambda: all(has_ended(store, each) for each in ids), "all jobs have ended")
        return [times(client.xrange(f"adaspa:events:{each}")) for each in ids]


def has_ended(store: JobStore, job_id: str) -> bool:
    job = store.get(job_id)
    assert job is not None
    return job.completed_at is not None


def times(events: list[Any]) -> Seconds:
    """Seconds at which a job's phases began, its last step ended and it was completed."""
    found: Seconds = {}
    for number, fields in events:
        when = int(number.split(b"-")[0]) / 1000
        progress = json.loads(fields[b"progress"] or b"{}")
        if fields[b"status"] == b"completed":
            found["completed"] = when
        elif phase := progress.get("phase"):
            found.setdefault(phase, when)
            if phase == "denoising" and progress["step"] == progress["steps"]:
                found["denoised"] = when
    return found


def between(one: Seconds, other: Seconds) -> Seconds:
    """Seconds between the steps of two jobs, in all and by what they were for."""
    return {
        "idle": other["denoising"] - one["denoised"],
        "decode_and_encode": one["uploading"] - one["denoised"],
        "store": one["completed"] - one["uploading"],
        "claim": other["encoding_prompt"] - one["completed"],
        "encode_prompt": other["denoising"] - other["encoding_prompt"],
        "denoise": other["denoised"] - other["denoising"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.idle", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--storage", help="the storage's URL (default: a folder)")
    parser.add_argument("--quick", action="store_true", help="on the CPU, with two steps and small clips")
    asked = parser.parse_args()
    result = {**ran_on(quick=asked.quick), "rows": []}
    changes = {"steps": 2, "num_frames": 9} if asked.quick else {"steps": 24}
    with TemporaryDirectory(prefix="idle-") as name:
        folder = Path(name)
        with working(folder, asked.storage or str(folder / "objects")) as url:
            found = run_jobs(url, asked.jobs, changes)
    gaps = [between(*pair) for pair in pairwise(found[1:])]  # the first job finds a worker that has run nothing
    kind = asked.storage.partition(":")[0] if asked.storage else "folder"
    medians = {part: round(statistics.median(gap[part] for gap in gaps), 3) for part in gaps[0]}
    add(result, {"storage": kind, "gaps": len(gaps), **medians}, asked.output)


if __name__ == "__main__":
    main()
