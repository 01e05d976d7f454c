"""Jobs through one Valkey: what each costs its thread, from the request to the day that its record goes.

    python through.py unix:///tmp/valkey.sock?db=0 /tmp/objects --steps 50 --step-seconds 0.1

Runs with the packages of any commit, so that two can be compared on one server: submits jobs, takes and runs them as
workers do, and lets a gateway's janitor remove them. The denoising is a pause; nothing goes into storage. CPU seconds
are those of the server's main thread, which runs every command and script, without what it spends when there are no
jobs.
"""

import argparse
import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import redis

WORKERS = 20
IDLE_SECONDS = 10.0
RUNNING, RUNNING_SECONDS = 100, 20.0
HEAR_SECONDS = 2.0
"""As workers of both commits have it."""


def found(*names: str) -> Any:
    """The first of these that the commit has: ``module:attribute``."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise LookupError(names)


OLD, NEW = "adaspa_service.contract", "adaspa_jobs"
Settings = found(f"{NEW}.settings:Settings", f"{OLD}.settings:Settings")
Progress = found(f"{NEW}.job:Progress", f"{OLD}.job:Progress")
JobParams = found(f"{NEW}.job:JobParams", f"{OLD}.job:JobParams")
Artifact = found(f"{NEW}.job:Artifact", f"{OLD}.job:Artifact")
AttentionReport = found("adaspa_api.report:AttentionReport", f"{OLD}.job:AttentionReport")
LayerReport = found("adaspa_api.report:LayerReport", f"{OLD}.job:LayerReport")
queue_name = found(f"{NEW}.queue:queue_name", f"{OLD}.queue:queue_name")
State = found("adaspa_service.gateway.state:AppState", "adaspa_service.gateway.parts:Parts")
Janitor = found("adaspa_service.gateway.janitor:Janitor")
LeaseKeeper = found("adaspa_worker.lease:LeaseKeeper")

REPORT = AttentionReport(
    density=0.2,
    recall=0.95,
    searches=2,
    dense_steps=10,
    search_steps=2,
    sparse_steps=38,
    dense_seconds=200.0,
    search_seconds=40.0,
    sparse_seconds=350.0,
    layers=[LayerReport(layer=layer, density=[0.2031] * 24, recall=[0.9512] * 24) for layer in range(60)],
)
"""As long as that of HunyuanVideo: 60 layers of 24 heads."""
VARIANTS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/webp"}


class Jobs:
    """So many jobs of so many steps, and those who run them."""

    def __init__(self, state: Any, steps: int, step_seconds: float) -> None:
        self.state, self.store, self.steps, self.step_seconds = state, state.store, steps, step_seconds
        self.left, self.lock = 0, threading.Lock()
        self.errors: list[BaseException] = []

    def run(self, count: int) -> None:
        """Submit them all, and return once each has ended."""
        self.left = count
        workers = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        for _ in range(count):
            self.submit()
        for worker in workers:
            worker.join()
        if self.errors:
            raise self.errors[0]

    def submit(self) -> None:
        """As the gateway's ``POST /videos``."""
        job = self.store.admit_all([self.params()])[0][0]
        if hasattr(self.store, "mark_sent"):
            found(f"{OLD}.queue:enqueue")(self.state.celery, job)
            self.store.mark_sent(job.id)
        else:
            found(f"{NEW}.queue:ring")(self.state.celery, job.params.model, job.priority)

    def params(self) -> Any:
        """A prompt of usual length."""
        spec = self.state.catalog.default
        width, height = map(int, spec.sizes[0].split("x"))
        return JobParams(
            model=spec.id,
            prompt="a red circle moves right over a calm blue sea while the camera follows " * 4,
            width=width,
            height=height,
            num_frames=spec.default_frames,
            fps=spec.fps,
            steps=self.steps,
            guidance_scale=spec.default_guidance,
            seed=1,
        )

    def until_gone(self) -> None:
        """Wait until the janitor has removed every job."""
        while list(self.store.client.scan_iter("adaspa:job:*", count=1000)):
            time.sleep(0.2)

    def _work(self, number: int) -> None:
        model = self.state.catalog.default.id
        queue_of = queue_name(model, found("adaspa_api.words:Priority", f"{OLD}.job:Priority").interactive)
        try:
            with self.state.celery.connection_for_read() as connection:
                queue = connection.SimpleQueue(queue_of)
                while self._more():
                    message = queue.get(timeout=60)
                    lease = self.store.claim(model, f"worker-{number}", "process")
                    message.ack()
                    self._run(lease)
        except BaseException as error:
            self.errors.append(error)

    def _more(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def _run(self, lease: Any) -> None:
        with keeper(self.store, lease) as kept:
            for phase in ("loading", "encoding_prompt"):
                kept.report(Progress(phase=phase, steps=self.steps))
            for step in range(1, self.steps + 1):
                time.sleep(self.step_seconds)
                kept.report(
                    Progress(phase="denoising", step=step, steps=self.steps, step_kind="sparse", eta_seconds=123.4)
                )
            for phase in ("decoding", "uploading"):
                kept.report(Progress(phase=phase, step=self.steps, steps=self.steps))
        key = f"videos/{lease.job.id}/1-0123456789ab/"
        made = {
            name: Artifact(key=key + name, content_type=kind, bytes=12_345_678, sha256="ab" * 32)
            for name, kind in VARIANTS.items()
        }
        self.store.complete(lease, made, REPORT, {"denoising": 612.345, "decoding": 31.02})


def keeper(store: Any, lease: Any) -> Any:
    """What keeps a worker's lease."""
    return LeaseKeeper(
        store, lease, lambda: False, every=HEAR_SECONDS, limit=math.inf, unwind=math.inf, abandon=lambda _: None
    )


class Spent:
    """CPU seconds and commands of a server, without what it spends alone with its janitor."""

    def __init__(self, client: redis.Redis) -> None:
        self.client, self.idle = client, (0.0, 0.0)
        cpu, commands = self.of(lambda: time.sleep(IDLE_SECONDS))
        self.idle = cpu / IDLE_SECONDS, commands / IDLE_SECONDS

    def of(self, work: Callable[[], object]) -> tuple[float, float]:
        """Of some work."""
        before, began = self._now(), time.monotonic()
        work()
        seconds, after = time.monotonic() - began, self._now()
        cpu, commands = (b - a - seconds * idle for a, b, idle in zip(before, after, self.idle, strict=True))
        return cpu, commands

    def _now(self) -> tuple[float, float]:
        info: Any = self.client.info()
        cpu = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
        return cpu, float(info["total_commands_processed"])


def whole(jobs: Jobs, spent: Spent, count: int) -> dict[str, float]:
    """What a job costs from its request until it is removed."""

    def work() -> None:
        jobs.run(count)
        jobs.until_gone()

    cpu, commands = spent.of(work)
    ms = 1000 * cpu / count
    figures = {"redis_ms_a_job": round(ms, 3), "redis_commands_a_job": round(commands / count, 1)}
    return figures | {"jobs_a_second": round(1000 / ms)}


def running(jobs: Jobs, spent: Spent) -> dict[str, float]:
    """What a second of a job costs that is between two steps."""
    with ExitStack() as stack:
        for number in range(RUNNING):
            jobs.store.admit_all([jobs.params()])
            lease = jobs.store.claim(jobs.state.catalog.default.id, f"worker-{number}", "process")
            stack.enter_context(keeper(jobs.store, lease))
        cpu, commands = spent.of(lambda: time.sleep(RUNNING_SECONDS))
    seconds = RUNNING * RUNNING_SECONDS
    return {"redis_us_a_second": round(1e6 * cpu / seconds, 2), "redis_commands_a_second": round(commands / seconds, 2)}


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("storage_url")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--step-seconds", type=float, help="left out: jobs that are between two steps")
    parser.add_argument("--jobs", type=int, default=100)
    asked = parser.parse_args()
    settings = Settings(redis_url=asked.redis_url, storage_url=asked.storage_url, result_ttl_seconds=1)
    jobs = Jobs(State.of(settings), asked.steps, asked.step_seconds or 0.0)
    with Janitor(jobs.state):
        jobs.run(WORKERS)  # connections, and whatever is made at first use
        jobs.until_gone()
        spent = Spent(jobs.store.client)
        if asked.step_seconds is None:
            print(json.dumps(running(jobs, spent)))
        else:
            print(json.dumps(whole(jobs, spent, asked.jobs)))


if __name__ == "__main__":
    main()
