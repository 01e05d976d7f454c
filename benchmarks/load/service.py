"""What is measured: Valkey and gateways as processes, with as many jobs in the store as are wanted."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from adaspa_api.report import AttentionReport
from adaspa_jobs.connections import connections
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.store import JobStore
from adaspa_service.local.supervisor import free_port

from benchmarks.redis_server import Server

TICKS = os.sysconf("SC_CLK_TCK")
BATCH = 1000
PARAMS = JobParams(
    model="demo",
    prompt="a red circle moves right",
    width=128,
    height=128,
    num_frames=33,
    fps=8,
    steps=10,
    guidance_scale=4.0,
    seed=1,
)
REPORT = AttentionReport(
    density=0.3,
    recall=0.9,
    searches=2,
    dense_steps=4,
    search_steps=2,
    sparse_steps=4,
    dense_seconds=1.0,
    search_seconds=0.6,
    sparse_seconds=0.5,
    cache_bytes=1000,
)


@dataclass
class Service:
    """A running service."""

    store: JobStore
    gateways: list[subprocess.Popen[bytes]]
    ports: list[int]

    def cpu_seconds(self) -> float:
        """Processor time that the gateways have taken, together."""
        stats = [Path(f"/proc/{gateway.pid}/stat").read_text().rsplit(")", 1)[1].split() for gateway in self.gateways]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS

    def memory_mb(self) -> float:
        """Resident memory of the largest gateway, in units of a million bytes."""
        pages = [int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) for gateway in self.gateways]
        return round(max(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def queue(self, count: int) -> list[str]:
        """Let so many jobs wait."""
        return [self.store.admit_all([PARAMS]).jobs[0].id for _ in range(count)]

    def completed(self) -> Job:
        """A job that has run to its end."""
        self.store.admit_all([PARAMS])
        lease = self.store.claim("demo", "worker")
        assert lease is not None
        self.store.complete(lease, {}, REPORT, {"denoising": 1.5})
        job = self.store.get(lease.job.id)
        assert job is not None
        return job

    def store_completed(self, count: int) -> list[str]:
        """Have so many completed jobs in the store, copies of one; the latest of their ids."""
        client, last = self.store.client, self.completed().id
        record, ids = client.dump(f"adaspa:job:{last}"), [last]
        assert record is not None
        for start in range(1, count, BATCH):
            some = [f"video_{int(last[6:20], 16) - n:014x}{n:018x}" for n in range(start, min(start + BATCH, count))]
            with client.pipeline(transaction=False) as pipe:
                for video_id in some:
                    pipe.restore(f"adaspa:job:{video_id}", 0, record)
                pipe.zadd("adaspa:jobs:open", dict.fromkeys(some, 0))
                pipe.execute()
            ids = (ids + some)[:BATCH]
        return ids


@contextmanager
def running(gateways: int) -> Iterator[Service]:
    """A service with nothing in it."""
    with TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        server = Server(folder)
        ports = [free_port("127.0.0.1") for _ in range(gateways)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
        url = f"unix://{server.socket}?db=0"
        env = clean | {"ADASPA_REDIS_URL": url, "ADASPA_STORAGE_URL": str(folder / "objects")}
        env |= {"ADASPA_QUEUE_CAP": "100000", "ADASPA_OPEN_ACCESS": "true", "ADASPA_LOG_LEVEL": "warning"}
        command = [sys.executable, "-m", "adaspa_service.gateway"]
        processes = [subprocess.Popen(command, env=env | {"ADASPA_PORT": str(port)}, cwd=folder) for port in ports]
        try:
            for port in ports:
                wait_until_ready(port)
            yield Service(JobStore(connections(url).client(), queue_cap=100_000), processes, ports)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            server.stop()


def wait_until_ready(port: int) -> None:
    """Until a gateway answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the gateway does not start"
        time.sleep(0.1)
