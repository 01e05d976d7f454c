"""Who acts in a simulation: clients of two tenants, workers, and the janitors of two gateways."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

from adaspa_api.fields import VideoCreate
from adaspa_api.words import TERMINAL, Priority
from adaspa_jobs.job import Artifact, Job, Progress, percent
from adaspa_jobs.queue import QueueUnavailable, queue_name
from adaspa_jobs.scripts import PREFIX, StoreUnavailable
from adaspa_jobs.storage import attempt_prefix
from adaspa_jobs.store import Admitted, JobCancelled, Lease
from adaspa_service import views
from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError
from adaspa_service.gateway.admission import JobRequest, idempotency_of, ring_for, submit
from adaspa_service.gateway.lookup import find, not_found
from adaspa_service.gateway.params import resolve
from adaspa_service.gateway.removal import remove_if_ended
from adaspa_worker import app
from adaspa_worker.runner import Runner
from faults import Killed
from greenlet import getcurrent
from running_gateway import REPORT

from chaos.history import Act, Entry
from chaos.simulation import POISON, Actor, Broken, World, janitor_of

STEPS, STEP_SECONDS = 4, 1.2
"""Longer, in all, than a lease."""
BEAT_SECONDS = 5.0


def everybody(world: World) -> list[Actor]:
    """All who act."""
    clients = [Actor(f"client-{tenant}", Client(world, tenant).act) for tenant in ("a", "b")]
    workers = [Actor(f"worker-{n}", Worker(world).act) for n in range(2)]
    return clients + workers + [Actor(f"janitor-{n}", lambda _: look_after(world)) for n in range(2)]


def look_after(world: World) -> None:
    """A gateway's janitor."""
    janitor = janitor_of(world)
    while True:
        world.wait(1.0)
        janitor.sweep()


class Client:
    """Asks for two videos, cancels or deletes some, and pages through its list."""

    def __init__(self, world: World, tenant: str) -> None:
        self.world, self.caller, self.tenant = world, Caller(tenant), tenant

    def act(self, _: Actor) -> None:
        asked = [self.create(f"key-{number}", number) for number in range(2)]
        if self.world.choose(8) == 7:
            asked.append(self.create("poison", POISON))
        if self.world.choose(4) == 3:
            self.create("key-0", 0)
        for number, video_id in enumerate(tuple(asked)):
            fate = self.world.choose(4)
            # The last: just as its worker may be ending it.
            self.world.wait((0.0, 1.0, 2.5, STEPS * STEP_SECONDS)[self.world.choose(4)] if fate > 1 else 0.0)
            if fate == 2:
                self.ask("cancel", video_id, lambda video_id=video_id: self.cancel(video_id))
            elif fate == 3:
                self.ask("delete", video_id, lambda video_id=video_id: self.delete(video_id), missing_is_done=True)
                self.ask("get", video_id, lambda video_id=video_id: self.get(video_id))
                key, seed = (f"key-{number}", number) if number < 2 else ("poison", POISON)
                asked.append(self.create(key, seed))
        self.ask("list", f"walk-{self.tenant}", self.page)
        for video_id in asked:
            while (seen := self.ask("get", video_id, lambda video_id=video_id: self.get(video_id)).seen) and (
                seen["status"] not in TERMINAL
            ):
                self.world.wait(0.7)
            if seen:
                self.ask("events", video_id, lambda video_id=video_id: self.events(video_id))
        self.ask("list", f"last-walk-{self.tenant}", self.page)

    def create(self, key: str, seed: int) -> str:
        def ask() -> dict[str, Any]:
            catalog = self.world.parts.catalog
            params = [resolve(VideoCreate(prompt="a red circle", seed=seed), catalog)]
            once = idempotency_of(str(seed), key)
            admitted = submit(self.world.parts, self.caller, JobRequest(catalog.default, params, None), once)  # type: ignore[arg-type]
            made.append(admitted)
            if not admitted.jobs:
                raise Broken(f"{key}: stands for no job")
            return {"ids": [job.id for job in admitted.jobs]}

        made: list[Admitted] = []
        entry = self.ask("create", key, ask, str(seed))
        ring_for(self.world.parts, made[-1])  # type: ignore[arg-type]
        (video_id,) = entry.seen["ids"]
        return str(video_id)

    def get(self, video_id: str) -> dict[str, Any]:
        return self.seen(find(self.world.parts, self.caller, video_id))

    def cancel(self, video_id: str) -> dict[str, Any]:
        find(self.world.parts, self.caller, video_id)
        self.world.store.request_cancel(video_id)
        return self.get(video_id)

    def delete(self, video_id: str) -> dict[str, Any]:
        find(self.world.parts, self.caller, video_id)
        if not self.world.store.discard(video_id):
            raise not_found(video_id)
        remove_if_ended(self.world.parts, video_id)
        return {}

    def page(self) -> dict[str, Any]:
        jobs, cursor = self.world.store.page(owner=self.tenant)
        return {"ids": [job.id for job in jobs], "more": cursor is not None}

    def events(self, video_id: str) -> dict[str, Any]:
        """All of an ended job's."""
        told = [each for _, each in self.world.client.xrange(f"{PREFIX}events:{video_id}")]
        progress = [percent(Progress.model_validate_json(each[b"progress"])) for each in told]
        seen = [(each[b"status"].decode(), int(each[b"attempt"]), at) for each, at in zip(told, progress, strict=True)]
        return {"events": [dict(zip(("status", "attempt", "progress"), each, strict=True)) for each in seen]}

    def seen(self, job: Job) -> dict[str, Any]:
        video = views.video(job, None)
        return {"status": str(video.status), "attempt": video.attempt, "progress": video.progress}

    def ask(
        self,
        act: Act,
        target: str,
        ask: Callable[[], dict[str, Any]],
        asked: str = "",
        *,
        missing_is_done: bool = False,
    ) -> Entry:
        """Send a request until it is answered; each is noted."""
        while True:
            entry = Entry(f"client-{self.tenant}", self.tenant, "gateway", act, target, asked, began=self.world.now)
            self.world.entries.append(entry)
            try:
                entry.seen, entry.outcome, entry.status = ask(), "ok", 200
            except ApiError as error:
                done = missing_is_done and error.status == 404
                entry.outcome, entry.status = "ok" if done else "refused", error.status
            except StoreUnavailable:
                entry.outcome = "unknown"
            entry.ended = self.world.now
            if entry.outcome != "unknown":
                return entry
            self.world.wait(1.0)


class WithoutThreads(Runner):
    """The worker's own runner, whose lease is renewed by the steps alone."""

    world: World

    def _keeper(self, lease: Lease) -> Any:
        return nullcontext()

    def _end(self, lease: Lease, transition: Callable[[Lease], None]) -> None:
        cancelled = transition == self.store.release_cancelled

        def noted(lease: Lease) -> None:
            if cancelled:
                self.world.keep()  # the one end that a worker does not wait for to be on the disk
            try:
                with relied_on(not cancelled):
                    transition(lease)
            except JobCancelled:  # and is then ended as cancelled
                self.world.keep()
                raise

        super()._end(lease, noted)


@contextmanager
def relied_on(really: bool = True) -> Iterator[None]:
    """What the process that runs is answered meanwhile, Redis does not forget."""
    actor = getcurrent().actor  # type: ignore[attr-defined]
    actor.told = really
    try:
        yield
    finally:
        actor.told = False


class Worker:
    """Takes a bell, claims what is next, and takes its steps; how an attempt ends is the worker's own code."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, world.store
        never = {"stopping": lambda: False, "end_process": lambda: None, "engine": lambda _: None}
        times = {"hear_seconds": 1.0, "time_limit_seconds": 1e9}
        self.runner = WithoutThreads(store=self.store, storage=world.storage, name="", **never, **times)  # type: ignore[arg-type]
        self.runner.world = world

    def act(self, actor: Actor) -> None:
        beat_at = self.world.now
        while True:
            try:
                if self.world.now >= beat_at:
                    beat_at = self.world.now + BEAT_SECONDS
                    self.beat(actor)
                if not self.take():
                    self.world.wait(1.0)
                    continue
                with relied_on():
                    lease = self.store.claim("demo", actor.name, f"process-{actor.generation}")
                if lease:
                    self.run(lease)
            except (StoreUnavailable, QueueUnavailable):
                self.world.wait(1.0)

    def run(self, lease: Lease) -> None:
        attempt = SimpleNamespace(lease=lease, run=partial(self.attempt, lease))
        try:
            self.runner._run(attempt, lambda _: None)  # type: ignore[arg-type]
        except StoreUnavailable as error:  # of a worker that is to stop alone
            raise Broken(f"{lease.job.id}: its worker gives it up, because Redis was away for a moment") from error

    def beat(self, actor: Actor) -> None:
        """Announce the model, and ring for jobs without a bell, as a worker's parent process does."""
        os.environ["ADASPA_WORKER_NAME"] = actor.name
        heart = SimpleNamespace(_store=self.store, _spec=self.world.parts.catalog.default)
        app.Heartbeat._beat(heart)  # type: ignore[arg-type]

    def take(self) -> bool:
        """Whether a bell was there."""
        return any(self.world.client.rpop(queue_name("demo", priority)) for priority in Priority)

    def attempt(self, lease: Lease, _: object) -> tuple[Any, ...]:
        for step in range(1, STEPS + 1):
            self.world.wait(STEP_SECONDS)
            if lease.job.params.seed == POISON:
                raise Killed
            self.tell(lease, Progress(phase="denoising", step=step, steps=STEPS))
        key = f"{attempt_prefix(lease.job.id, lease.token)}video.mp4"
        self.world.storage.create(key, b"video")
        return {"video": Artifact(key=key, content_type="video/mp4", bytes=5, sha256="ab" * 32)}, REPORT, {}, []

    def tell(self, lease: Lease, progress: Progress) -> None:
        try:
            self.store.report_progress(lease, progress)
        except StoreUnavailable:
            return
