"""The soak: the service at work for hours, restarted again and again, and whether anything grows meanwhile.

PYTHONPATH=tests python -m chaos.soak --minutes 30 --out docs/soak.json
PYTHONPATH=tests python -m chaos.soak --gpu --out docs/gpu_soak.json
"""

import argparse
import json
import os
import platform
import secrets
import signal
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from waiting import until

from chaos import gpu_soak
from chaos.gpu_service import LIMITS, gpu_service
from chaos.samples import Sample, left, sample
from chaos.service import KEPT_SECONDS, Service
from chaos.trend import ALLOWED, trends
from chaos.visitors import Visitors

SAMPLE_SECONDS = 5.0
RESTART_SECONDS = 180.0
RESTARTED = ("gateway-1", "stub-1")
"""Those that are; the others are seen for the whole time."""
PACKAGES = ("adaspa-serve", "celery", "fastapi", "uvicorn", "redis", "hiredis", "torch", "diffusers", "peft", "av")


def soak(minutes: float, seed: int) -> dict[str, Any]:
    """Run the service for so long, then let all jobs expire; the report."""
    with TemporaryDirectory(prefix="soak-") as name:
        from chaos.cpu_service import cpu_service  # noqa: PLC0415  diffusers, for which a GPU's soak need not wait

        service = cpu_service(Path(name))
        try:
            service.start()
            visitors = Visitors(service, seed)
            visitors.start()
            samples, restarts = work(service, minutes * 60, Random(f"{seed}-restarts"))
            visitors.stop()
            rest(service)
            return report(samples, restarts, visitors, left(service)) | {"seed": seed, "minutes": minutes}
        finally:
            service.stop()


def soak_on_gpu(seed: int) -> dict[str, Any]:
    """Make fifty videos on this machine's GPU; the report."""
    name, machine = gpu_soak.gpu(), ran_on()
    with TemporaryDirectory(prefix="soak-") as folder:
        service = gpu_service(Path(folder))
        try:
            service.start()
            rows, complaints = gpu_soak.soak(service, seed)
            logs = gpu_soak.out_of_memory(service)
        finally:
            service.stop()
    found = gpu_soak.verdicts(rows)
    return machine | {
        "gpu": name,
        "seed": seed,
        "jobs": len(rows),
        "complaints": complaints,
        "limits": LIMITS,
        "allowed_percent": gpu_soak.ALLOWED,
        "trends": found,
        "grows": sorted(name for name, trend in found.items() if trend["verdict"] == "grows"),
        "out_of_memory": logs,
        "samples": rows,
    }


def work(service: Service, seconds: float, random: Random) -> tuple[list[Sample], list[str]]:
    """Sample while visitors come and parts are restarted; the samples, and what was restarted."""
    samples: list[Sample] = []
    restarts: list[str] = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        if now > RESTART_SECONDS * (len(restarts) + 1):
            part = service.part(RESTARTED[len(restarts) % len(RESTARTED)])
            how = random.choice([signal.SIGTERM, signal.SIGKILL])
            part.restart(how)
            restarts.append(f"{part.name} ({how.name})")
        samples.append(sample(service, now))
        time.sleep(SAMPLE_SECONDS)
    return samples, restarts


def rest(service: Service) -> None:
    """Wait until every job has ended, expired and been removed, with its last events, which stay a moment longer."""
    client = service.store.client
    until(lambda: not client.keys("adaspa:job:*"), "all jobs are gone", 600 + KEPT_SECONDS)
    until(lambda: all(client.ttl(key) < 0 for key in client.keys("adaspa:events:*")), "what goes by itself is gone")


def ran_on() -> dict[str, Any]:
    """Date, machine and versions of a run."""
    installed = {each.name: each.version for each in distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
        "versions": {name: installed.get(name) for name in PACKAGES},
    }


def report(samples: list[Sample], restarts: list[str], visitors: Visitors, remains: dict[str, int]) -> dict[str, Any]:
    """The figures, and whether each is flat."""
    found = trends(samples)
    return ran_on() | {
        "jobs": visitors.counts(),
        "complaints": visitors.complaints,
        "restarts": restarts,
        "allowed_percent_an_hour": ALLOWED,
        "trends": found,
        "left_of_jobs": remains,
        "grows": sorted(name for name, trend in found.items() if trend["verdict"] == "grows"),
        "samples": [each.row() for each in samples[:: max(1, len(samples) // 120)]],
    }


def main() -> None:
    """Run, print, write, and end with status 1 if something grew, stayed or went wrong."""
    parser = argparse.ArgumentParser(prog="soak", description="Whether anything grows while the service works.")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--gpu", action="store_true", help="fifty jobs on this machine's GPU, instead of some minutes")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--out", type=Path, help="where the report is written, as JSON")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    found = soak_on_gpu(asked.seed) if asked.gpu else soak(asked.minutes, asked.seed)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))
    raise SystemExit(bool(found["grows"] or found.get("left_of_jobs") or found["complaints"]))


if __name__ == "__main__":
    main()
