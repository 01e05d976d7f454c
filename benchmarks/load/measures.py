"""The three questions, and their answers as figures."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adaspa_jobs.job import Progress
from adaspa_jobs.store import JobStore

from benchmarks.load.requests import Followers, at_rate, get, post
from benchmarks.load.service import Service, running

FOLLOWERS, RUNNING = 300, 8
STEP_SECONDS = 0.5


def polls_beside_streams(gateways: int, rate: float, seconds: float) -> dict[str, object]:
    """Status polls while clients follow jobs, of which a few run and the others wait."""
    with running(gateways) as service:
        ids = service.queue(FOLLOWERS)
        with stepping(service.store, RUNNING):
            return asyncio.run(_polls_beside_streams(service, ids, rate, seconds))


async def _polls_beside_streams(service: Service, ids: list[str], rate: float, seconds: float) -> dict[str, object]:
    async with Followers(service.ports, ids) as followers:
        before = followers.events
        figures = await _timed(service, rate, seconds, lambda n: get(f"/v1/videos/{ids[n % len(ids)]}"))
    return figures | {"streams": len(ids), "events": followers.events - before, "streams_broken": followers.broken}


def posts(gateways: int, queued: int, stored: int, rate: float, seconds: float) -> dict[str, object]:
    """Creations while many jobs wait, or many that have ended are stored."""
    with running(gateways) as service:
        service.queue(queued)
        if stored:
            service.store_completed(stored)
        body: dict[str, object] = {"prompt": "a red circle"}
        made = {"queued": queued, "stored": stored}
        return made | asyncio.run(_timed(service, rate, seconds, lambda _: post("/v1/videos", body)))


def polls_of_a_full_store(gateways: int, stored: int, rate: float, seconds: float) -> dict[str, object]:
    """Status polls of jobs among many."""
    with running(gateways) as service:
        ids = service.store_completed(stored)
        return {"stored": stored} | asyncio.run(
            _timed(service, rate, seconds, lambda n: get(f"/v1/videos/{ids[n % len(ids)]}"))
        )


async def _timed(service: Service, rate: float, seconds: float, make: Callable[[int], bytes]) -> dict[str, object]:
    """Timings, and what one request costs the gateways in processor time, that of everything else they do included."""
    await at_rate(service.ports, rate / 2, 2, make)  # connections, and whatever is made at first use
    before = service.cpu_seconds()
    timings = await at_rate(service.ports, rate, seconds, make)
    spent = service.cpu_seconds() - before
    return timings.figures() | {
        "gateway_cpu_share": round(spent / timings.elapsed, 3),
        "gateway_cpu_ms_per_request": round(1000 * spent / len(timings.seconds), 3),
        "gateway_memory_mb": service.memory_mb(),
    }


@contextmanager
def stepping(store: JobStore, count: int) -> Iterator[None]:
    """So many jobs run, and report a step every half second."""
    leases = [lease for n in range(count) if (lease := store.claim("demo", f"worker-{n}"))]
    stopping = threading.Event()

    def step() -> None:
        number = 0
        while not stopping.wait(STEP_SECONDS):
            number += 1
            for lease in leases:
                store.report_progress(lease, Progress(phase="denoising", step=number, steps=1000, step_kind="sparse"))

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
