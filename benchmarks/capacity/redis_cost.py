"""What jobs and workers cost Redis, measured on a real server with the store's own code.

    python -m benchmarks.capacity.redis_cost docs/scaling/redis.json

CPU seconds are those of the server's main thread, which runs every command and script; they hardly depend on what else
the machine does. The append-only file is on.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_api.words import JobStatus, Priority
from adaspa_jobs.connections import connections
from adaspa_jobs.job import Artifact, Job, JobParams, Progress
from adaspa_jobs.queue import queue_name, ring
from adaspa_jobs.scripts import PREFIX
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import attempt_prefix
from adaspa_jobs.store import Lease
from adaspa_service.gateway.events import START, Stream
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.metrics import make_registry
from adaspa_service.gateway.removal import tidy
from adaspa_service.gateway.state import AppState
from prometheus_client import generate_latest

from benchmarks.load.through import REPORT, VARIANTS
from benchmarks.redis_server import Costs, Server, await_true

JOBS = 500
STEPS = 50
IDLE_SECONDS = 30.0
FOLLOWERS, FOLLOWED_SECONDS = 100, 5
IDLE_WORKERS, ROUNDS = 200, 3
BEAT_SECONDS, POLL_SECONDS = 5.0, 1.0
"""How often a worker announces its model, and how long Celery waits for a message at a time."""
STEPS_OF_PRIORITY = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""Celery waits at four lists for each queue: one for each step of priority."""


def run_jobs(costs: Costs, state: AppState) -> None:
    """Bring jobs from their admission to their end, as gateway and workers do."""
    store, params = state.store, usual_params(state)
    with costs.of("submit", JOBS):
        jobs = [submit(state, params) for _ in range(JOBS)]
    with costs.of("look", JOBS):
        for job in jobs:
            store.queue_position(store.get(job.id) or job)
    with costs.of("take", JOBS):
        leases = take(state, jobs)
    with costs.of("step", JOBS * STEPS):
        for lease in leases:
            for step in range(1, STEPS + 1):
                store.report_progress(lease, progress(step))
    with costs.of("renew", JOBS):
        for lease in leases:
            store.renew(lease)
    with costs.of("hear", JOBS):
        for lease in leases:
            store.hear(lease)
    with costs.of("follow", JOBS):
        asyncio.run(follow(state, jobs))
    with costs.of("complete", JOBS):
        for lease in leases:
            store.complete(lease, artifacts(lease), REPORT, {"denoising": 612.345, "decoding": 31.02})


def run_upkeep(costs: Costs, state: AppState) -> None:
    """What goes on without jobs: announcements, the janitor's sweep, a scrape.

    What the janitor has to do for each ended job is apart: no sweep is to count it.
    """
    with costs.of("tidy", state.store.client.zcard(f"{PREFIX}leavings")):
        while ended := state.store.take_untidy():
            for job_id in ended:
                tidy(state.store, state.storage, job_id)
    with costs.of("announce", JOBS):
        for _ in range(JOBS):
            state.store.announce(state.catalog.default, "worker-1")
    janitor, registry = Janitor(state), make_registry(state)
    with costs.of("sweep", 50):
        for _ in range(50):
            janitor.sweep()
    with costs.of("scrape", 50):
        for _ in range(50):
            generate_latest(registry)


def usual_params(state: AppState) -> JobParams:
    """A job of the built-in model, with a prompt of usual length."""
    spec = state.catalog.default
    width, height = map(int, spec.sizes[0].split("x"))
    return JobParams(
        model=spec.id,
        prompt="a red circle moves right over a calm blue sea while the camera follows " * 4,
        width=width,
        height=height,
        num_frames=spec.default_frames,
        fps=spec.fps,
        steps=STEPS,
        guidance_scale=spec.default_guidance,
        seed=1,
    )


def submit(state: AppState, params: JobParams) -> Job:
    """As the gateway's ``POST /videos``."""
    [job] = state.store.admit_all([params]).jobs
    ring(state.celery, job.params.model, job.priority)
    return job


def take(state: AppState, jobs: list[Job]) -> list[Lease]:
    """Take each message as a worker does, claim its job and acknowledge."""
    leases = []
    with state.celery.connection_for_read() as connection:
        model = jobs[0].params.model
        queue = connection.SimpleQueue(queue_name(model, jobs[0].priority))
        for number in range(len(jobs)):
            message = queue.get(timeout=10)
            lease = state.store.claim(model, f"{model}-{number}@worker-{number}.workers")
            if lease is None:
                raise RuntimeError(f"{len(jobs) - number} jobs are gone")
            message.ack()
            leases.append(lease)
    return leases


async def follow(state: AppState, jobs: list[Job]) -> None:
    """Read a job's events, as a client that follows it has them read."""
    for job in jobs:
        await Stream(state, job, START).read()
    await state.follower.aclose()


def progress(step: int) -> Progress:
    """After a step."""
    return Progress(phase="denoising", step=step, steps=STEPS, step_kind="sparse", eta_seconds=123.4)


def artifacts(lease: Lease) -> dict[str, Artifact]:
    """Of a finished video."""
    key = attempt_prefix(lease.job.id, lease.token)
    return {
        name: Artifact(key=key + name, content_type=kind, bytes=12_345_678, sha256="ab" * 32)
        for name, kind in VARIANTS.items()
    }


def run_clients(costs: Costs, state: AppState) -> None:
    """Clients that follow a job of which nothing is heard."""
    [waiting] = state.store.admit_all([usual_params(state)]).jobs
    asyncio.run(idle_followers(costs, state, waiting))
    state.store.request_cancel(waiting.id)


async def idle_followers(costs: Costs, state: AppState, job: Job) -> None:
    """So many clients for so many seconds."""

    async def follow_on() -> None:
        with state.feed.following(job.id, START) as follower:
            stream = Stream(state, job, START)
            for _ in range(1 + FOLLOWED_SECONDS):  # at first it reads what there is
                if await follower.wait() and (events := await stream.read()):
                    stream.last_id = events[-1][0]
                _, rank = await stream.look()
                if rank is not None:
                    await stream.write_position(rank)

    with costs.of("follower_second", FOLLOWERS * FOLLOWED_SECONDS):
        await asyncio.gather(*(follow_on() for _ in range(FOLLOWERS)))
    await state.follower.aclose()


async def idle_workers(costs: Costs, state: AppState) -> None:
    """Wait for jobs and announce, in the rhythm of a real worker: one alone says little, because each of its calls
    wakes a server that sleeps."""
    spec = state.catalog.default
    queues = [queue_name(spec.id, priority) for priority in Priority]
    client = connections(state.settings.redis_url).async_client(IDLE_WORKERS)
    lists = [f"{queue}{step}" for step in STEPS_OF_PRIORITY for queue in queues]

    async def wait(worker: str) -> None:
        for _ in range(ROUNDS):
            for _ in range(round(BEAT_SECONDS / POLL_SECONDS)):
                await client.brpop(lists, timeout=POLL_SECONDS)
            await asyncio.to_thread(state.store.announce, spec, worker)

    await asyncio.gather(*(client.ping() for _ in range(IDLE_WORKERS)))
    with costs.of("idle_worker_second", IDLE_WORKERS * ROUNDS * BEAT_SECONDS):
        await asyncio.gather(*(wait(f"worker-{number}") for number in range(IDLE_WORKERS)))
    await client.aclose()


def connections_of_a_worker(server: Server, state: AppState) -> dict[str, int]:
    """Start a real worker and count its connections, idle and busy."""
    with TemporaryDirectory(prefix="adaspa-") as folder:
        heartbeat = Path(folder) / "heartbeat"
        env = os.environ | {
            "ADASPA_REDIS_URL": state.settings.redis_url,
            "ADASPA_STORAGE_URL": state.settings.storage_url,
            "ADASPA_HEARTBEAT_FILE": str(heartbeat),
        }
        before = server.connections()
        command = [sys.executable, "-m", "adaspa_worker"]
        worker = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_true(heartbeat.exists, "the worker takes jobs")
            time.sleep(3)  # its start is not its everyday
            idle = server.connections() - before
            held: Any = server.client.client_list()
            memory_bytes = sum(int(client["tot-mem"]) for client in held) // len(held)
            job = submit(state, usual_params(state).model_copy(update={"steps": 2}))
            busy = 0
            while (now := state.store.get(job.id)) is not None and now.status is not JobStatus.completed:
                busy = max(busy, server.connections() - before)
                time.sleep(0.1)
        finally:
            worker.terminate()
            worker.wait()
    return {"idle": idle, "busy": busy, "memory_bytes": memory_bytes}


def memory(server: Server, state: AppState) -> dict[str, float]:
    """Bytes of a job while it waits, after all its steps, and when it has ended."""
    before = server.counters()["memory_bytes"]
    jobs = [submit(state, usual_params(state)) for _ in range(JOBS)]
    waiting = server.counters()["memory_bytes"]
    leases = take(state, jobs)
    for lease in leases:
        for step in range(1, STEPS + 1):
            state.store.report_progress(lease, progress(step))
    running = server.counters()["memory_bytes"]
    for lease in leases:
        state.store.complete(lease, artifacts(lease), REPORT, {"denoising": 612.345, "decoding": 31.02})
    ended = server.counters()["memory_bytes"]
    states = {"waiting": waiting, "running": running, "ended": ended}
    return {state: round((after - before) / JOBS) for state, after in states.items()}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity.redis_cost", description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    with TemporaryDirectory(prefix="adaspa-") as folder:
        server = Server(Path(folder))
        try:
            settings = Settings(redis_url=f"unix://{server.socket}?db=0", storage_url=str(Path(folder) / "objects"))
            state = AppState.of(settings)
            costs = Costs(server, IDLE_SECONDS)
            used = memory(server, state)
            run_jobs(costs, state)
            run_upkeep(costs, state)
            run_clients(costs, state)
            asyncio.run(idle_workers(costs, state))
            connections = connections_of_a_worker(server, state)
            version = server.client.info("server")["valkey_version"]
        finally:
            server.stop()
    result = {"server": f"Valkey {version}", "costs": costs.found, "memory_bytes": used, "connections": connections}
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
