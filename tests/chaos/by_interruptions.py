"""Scenes of a worker that is interrupted: by each reason, in each phase, and by two reasons at a time."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from adaspa_jobs.storage import StorageUnavailable, attempt_prefix
from adaspa_jobs.store import JobCancelled, Lease, StoreUnavailable
from adaspa_worker import lease as leases
from adaspa_worker.lease import LeaseKeeper, WorkerStopping
from admitting import create
from virtual_time import Seconds
from waiting import until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.watch import look, violations
from chaos.workshop import Workshop, bench, params, raising

STEPS = 6
STEP = 4
"""At which a denoising is interrupted; checkpoints come every two steps."""
PHASES = ("loading", "encoding", "checkpointing", "denoising", "decoding", "uploading", "uploaded", "completing")
FILES = 3
"""Of a video: itself, its first frame, and its sprite sheet."""
AWAY = 2
"""Calls that get no answer while a part is away for a moment."""
STARTS = {"loading": None, "encoding": None, "checkpointing": 2, "denoising": STEP}
STARTS |= dict.fromkeys(("decoding", "uploading", "uploaded"), STEPS)
"""By phase, where the next attempt goes on if a worker was told to stop there."""


class Interrupted(Workshop):
    """A workshop whose jobs are interrupted: something is done once, at the beginning of a phase."""

    keeper: LeaseKeeper
    patches: ExitStack
    """What is replaced until the attempt is over."""
    written: list[str]
    """Keys of what the attempt has put into storage since."""

    def interrupt(self, phase: str, act: Callable[[Lease], object], **asked: Any) -> Any:
        """Run a job up to its end or that of this attempt; its record."""
        left = [act]
        job = create(self.store, params(**asked))
        self.written = []

        def come(now: str) -> None:
            if now == phase and left:
                left.pop()(self.keeper.lease)
                self.written.clear()

        engine, made, complete = self.engine, self.runner._keeper, self.store.complete
        put, new = self.storage.put_file, self.storage.create
        plain = engine.encode_prompt, engine.denoise, engine.frames

        def keeper(lease: Lease) -> LeaseKeeper:
            self.keeper = made(lease)
            return self.keeper

        def load(_: str) -> Any:
            come("loading")
            return engine

        def at(now: str, whole: Callable[..., Any]) -> Callable[..., Any]:
            def reach(*args: Any, **named: Any) -> Any:
                come(now)
                return whole(*args, **named)

            return reach

        def denoise(asked: Any, encoded: Any, on_step: Callable[[int, Any], None], resume: Any = None) -> Any:
            def step(done: int, kind: Any) -> None:
                if done == STEP:
                    come("denoising")
                on_step(done, kind)

            return plain[1](asked, encoded, step, resume)

        def stored(key: str, path: Path, kind: str) -> Any:
            come("uploading")
            file = put(key, path, kind)
            self.written.append(key)
            if len(self.files(job.id)) == FILES:
                come("uploaded")
            return file

        def kept(key: str, content: bytes) -> Any:
            self.written.append(key)
            return new(key, content)

        with ExitStack() as self.patches:
            for owner, name, other in (
                (self.runner, "_keeper", keeper),
                (self.runner, "engine", load),
                (engine, "encode_prompt", at("encoding", plain[0])),
                (engine, "denoise", denoise),
                (engine, "frames", at("decoding", plain[2])),
                (engine, "snapshot", at("checkpointing", engine.snapshot)),
                (self.storage, "put_file", stored),
                (self.storage, "create", kept),
                (self.store, "complete", at("completing", complete)),
                (leases, "STORE_RETRY_SECONDS", 0.01),
            ):
                self.patches.enter_context(patch.object(owner, name, other))
            self.patches.enter_context(patch("adaspa_worker.attempt.RETRY_SECONDS", (0.01,)))
            try:
                self.runner.run("stub")
            except WorkerStopping:
                self.stopping.clear()
        assert not left, f"no job comes to its {phase}"
        assert self.engine.snapshot() is None, f"{phase}: the engine still holds what it made of a job that is over"
        return self.store.get(job.id)

    def heard(self) -> None:
        """Wait until the keeper has a reason to stop."""
        until(lambda: self.keeper._reason, "the worker hears that its job has to stop")

    def files(self, job_id: str) -> list[str]:
        return self.storage.keys(f"videos/{job_id}/")

    def whole(self, said: str) -> None:
        broken = [*violations(look(self.store.client), self.store.max_attempts)]
        assert not broken, f"{said}: {broken}"


def working() -> Any:
    """A bench for it."""
    return bench(Interrupted, hear_seconds=0.05, tell_seconds=0.0, upload_retry_seconds=600.0)


class Reasons(Scene):
    """Each reason to stop comes in each phase of a job."""

    name = "by hand: attempts that are interrupted"
    promise = "whatever interrupts an attempt in whichever phase, its job ends or goes on as that reason says"

    def play(self, stage: Stage) -> None:
        with working() as at:
            whole = at.run(seed=3)
            self.digest = whole.artifacts["video"].sha256
            for phase in PHASES:
                for reason in (
                    self.cancel,
                    self.discard,
                    self.stop,
                    self.time_over,
                    self.lose,
                    self.redis,
                    self.storage,
                ):
                    said = f"{reason.__name__} while {phase}"
                    reason(at, phase, said)
                    at.whole(said)
                    assert not at.ended.is_set(), f"{said}: the process ends, though the attempt did by itself"

    def cancel(self, at: Interrupted, phase: str, said: str) -> None:
        def act(lease: Lease) -> None:
            at.store.request_cancel(lease.job.id)
            if phase != "completing":
                at.heard()

        job = at.interrupt(phase, act)
        assert (job.status, job.error, job.attempt) == ("cancelled", None, 1), f"{said}: {job.status} ({job.error})"
        assert (job.lost_attempts, job.worker_errors) == (0, 0), f"{said}: counts as its worker's fault"
        assert at.files(job.id) == [], f"{said}: of its files stay {at.files(job.id)}"
        self.silent(at, phase, said)

    def silent(self, at: Interrupted, phase: str, said: str) -> None:
        """Whoever has heard that it is to end writes no more, but the file that it had begun."""
        begun = phase == "uploading"
        assert len(at.written) == begun, f"{said}: whoever has heard of it still writes {at.written}"

    def discard(self, at: Interrupted, phase: str, said: str) -> None:
        job = at.interrupt(phase, lambda lease: at.store.discard(lease.job.id))
        assert (job.status, job.discarded) == ("cancelled", True), f"{said}: {job.status}"
        assert at.files(job.id) == [] and at.store.purge(job.id), f"{said}: of its files stay {at.files(job.id)}"

    def stop(self, at: Interrupted, phase: str, said: str) -> None:
        job = at.interrupt(phase, lambda _: at.stopping.set(), seed=3)
        at.stopping.clear()
        if phase == "completing":
            assert (job.status, job.attempt) == ("completed", 1), f"{said}: {job.status}, with its video done"
            return
        assert job.status == "queued", f"{said}: {job.status}"
        at.runner.run("stub")
        done: Any = at.store.get(job.id)
        told = done.status, done.attempt, done.lost_attempts, done.worker_errors, done.progress.resumed_from_step
        assert told == ("completed", 2, 0, 0, STARTS[phase]), f"{said}: then {told}"
        assert done.artifacts["video"].sha256 == self.digest, f"{said}: its video is another"
        assert len(at.files(job.id)) == len(done.artifacts), f"{said}: files of the first attempt stay"

    def time_over(self, at: Interrupted, phase: str, said: str) -> None:
        def act(_: Lease) -> None:
            at.keeper.deadline = 0.0
            if phase != "completing":
                at.heard()

        job = at.interrupt(phase, act)
        if phase == "completing":
            assert job.status == "completed", f"{said}: {job.status}, with its video done"
            return
        assert (job.status, job.error and job.error.code) == ("failed", "time_limit"), f"{said}: {job.status}"
        assert at.files(job.id) == [], f"{said}: of its files stay {at.files(job.id)}"
        self.silent(at, phase, said)

    def lose(self, at: Interrupted, phase: str, said: str) -> None:
        def act(lease: Lease) -> None:
            while not at.store.requeue_expired():  # its keeper may renew it in between
                at.store.client.zadd("adaspa:leases", {lease.job.id: 0}, xx=True)
            successor = at.store.claim("stub", "another")
            assert successor is not None
            stored.append(f"{attempt_prefix(lease.job.id, successor.token)}video.mp4")
            at.storage.create(stored[0], b"x")

        stored: list[str] = []
        job = at.interrupt(phase, act)
        told = job.status, job.worker, job.attempt, job.lost_attempts
        assert told == ("in_progress", "another", 2, 1), f"{said}: {told}"
        assert at.files(job.id) == stored, f"{said}: after an attempt that was replaced there are {at.files(job.id)}"
        at.storage.delete(stored[0])
        at.store.release(Lease(job))
        at.runner.run("stub")
        assert at.store.get(job.id).status == "completed", said  # type: ignore[union-attr]

    def redis(self, at: Interrupted, phase: str, said: str) -> None:
        """Its next calls get no answer."""
        plain, calls = at.store._scripts.run, list[str]()

        def away(script: str, *args: Any, **named: Any) -> Any:
            if len(calls) < AWAY:
                calls.append(script)
                raise StoreUnavailable("away")
            return plain(script, *args, **named)

        def act(_: Lease) -> None:
            at.patches.enter_context(patch.object(at.store._scripts, "run", away))

        job = at.interrupt(phase, act, seed=3)
        assert (job.status, job.attempt) == ("completed", 1), f"{said}: {job.status}, at attempt {job.attempt}"
        assert calls and job.artifacts["video"].sha256 == self.digest, f"{said}: its video is another"

    def storage(self, at: Interrupted, phase: str, said: str) -> None:
        """The same of storage's."""
        failures: list[str] = []

        def refusing(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                if len(failures) < AWAY:
                    failures.append(name)
                    raise StorageUnavailable("away")
                return whole(*args, **named)

            return call

        def act(_: Lease) -> None:
            for name in ("put_file", "create", "read", "keys", "delete"):
                at.patches.enter_context(patch.object(at.storage, name, refusing(name, getattr(at.storage, name))))

        job = at.interrupt(phase, act, seed=3)
        assert (job.status, job.attempt) == ("completed", 1), f"{said}: {job.status} ({job.error})"
        assert job.artifacts["video"].sha256 == self.digest, f"{said}: its video is another"


class Together(Scene):
    """Two reasons to end an attempt come at a time, or one comes when nobody can hear it any longer."""

    name = "by hand: attempts with two ends"
    promise = "an acknowledged cancel wins over whatever else ends an attempt, and what came first counts"

    def play(self, stage: Stage) -> None:
        with bench(Interrupted, hear_seconds=600.0) as at:  # it hears of nothing by itself
            for error in (ValueError("x"), StorageUnavailable("away"), MemoryError()):
                self.cancelled(at, raising(error), repr(error))
            self.cancelled(at, lambda *_: at.stopping.set(), "a stop")
            self.cancelled(at, lambda *_: setattr(at.keeper, "_reason", leases.TimeLimitExceeded("x")), "its time")
            self.kept(at)
        with working() as at:
            self.first(at)
            self.resting(at)
            self.unfit(at)

    def cancelled(self, at: Interrupted, end: Callable[..., object], said: str) -> None:
        """Cancelled right before it ends otherwise."""

        def act(lease: Lease) -> None:
            at.store.request_cancel(lease.job.id)
            end()

        for phase in ("loading", "denoising", "decoding"):
            job = at.interrupt(phase, act)
            at.stopping.clear()
            assert (job.status, job.error) == ("cancelled", None), f"cancelled and then {said}, {phase}: {job.status}"
            assert job.worker_errors == 0 and at.files(job.id) == []

    def kept(self, at: Interrupted) -> None:
        """What was told last is told before the end, however long the pauses between are."""
        at.runner.tell_seconds = 600.0
        job = at.interrupt("loading", lambda _: None)
        told = [at.store.client.xrange(f"adaspa:events:{job.id}")]  # type: ignore[arg-type]
        steps = [fields[b"progress"] for _, fields in told[0] if fields[b"type"] == b"progress"]
        assert sum(b'"phase":"denoising"' in each and b'"step":0' not in each for each in steps) == STEPS, steps
        at.runner.tell_seconds = 0.0

    def first(self, at: Interrupted) -> None:
        """Its time is over after its cancel was heard."""

        def act(lease: Lease) -> None:
            at.store.request_cancel(lease.job.id)
            at.heard()
            at.keeper.deadline = 0.0
            at.keeper._interrupt(leases.TimeLimitExceeded("over"))
            reasons.append(at.keeper._reason)

        reasons: list[Any] = []
        assert at.interrupt("denoising", act).status == "cancelled"
        assert isinstance(reasons[0], JobCancelled), "a later reason replaces the first"

    def resting(self, at: Interrupted) -> None:
        """A worker that rests after a failure of its own is told to stop."""
        clock = Seconds()
        began = clock.now

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if clock.now > began + 5:
                at.stopping.set()

        at.runner.back_off_seconds = (3600.0,)
        at.engine.denoise, plain = raising(StorageUnavailable("away")), at.engine.denoise  # type: ignore[method-assign]
        job = create(at.store, params())
        with patch("adaspa_worker.runner.time", SimpleNamespace(monotonic=clock.monotonic, sleep=sleep)):
            at.runner.run("stub")
        rested = clock.now - began
        assert rested < 10, f"a worker that rests and is told to stop goes on resting for {rested - 5:.0f} s"
        at.stopping.clear()
        at.engine.denoise, at.runner.back_off_seconds = plain, (0.0,)  # type: ignore[method-assign]
        at.runner.run("stub")
        assert at.store.get(job.id).status == "completed"  # type: ignore[union-attr]

    def unfit(self, at: Interrupted) -> None:
        """An engine that cannot be reset takes no other job."""
        reset, at.engine.reset = at.engine.reset, raising(RuntimeError("x"))  # type: ignore[method-assign]
        job = create(at.store, params())
        at.runner.run("stub")
        assert at.store.get(job.id).status == "completed", "a job that was done fails with its engine's reset"  # type: ignore[union-attr]
        assert at.ended.is_set(), "a process goes on with an engine that cannot be reset"
        at.engine.reset = reset  # type: ignore[method-assign]
        at.engine.reset()
        at.ended.clear()


class Patience(Scene):
    """A job whose model loads is told to stop; so is one that hangs with its process. Redis is away for a while."""

    name = "by hand: how long an attempt may take to end"
    promise = "an attempt that loads its model has its job's whole time to end, one that hangs has seconds"

    def play(self, stage: Stage) -> None:
        clock = Seconds()
        lease: Any = None
        store: Any = None
        with patch.object(leases, "time", clock):
            clock.now = 1000.0
            keeper = LeaseKeeper(store, lease, lambda: False, every=2.0, limit=500.0, unwind=30.0, abandon=print)
            for phase, reason, until_then in (
                ("loading", JobCancelled("x"), 1530.0),
                ("loading", leases.TimeLimitExceeded("x"), 1530.0),
                ("denoising", JobCancelled("x"), 1040.0),
                ("decoding", leases.TimeLimitExceeded("x"), 1040.0),
                ("uploading", leases.LeaseLost("x"), 1040.0),
                ("denoising", leases.GroupFailed("x"), 1015.0),
            ):
                clock.now, keeper._reason, keeper._phase = 1010.0, None, phase  # type: ignore[assignment]
                keeper._interrupt(reason)  # type: ignore[arg-type]
                found = keeper._grace_until()
                assert found == until_then, f"{reason!r} while {phase}, at 1010: has until {found}, not {until_then}"
        self.stops()
        self.outage()

    def outage(self) -> None:
        """Redis is away from the 10th to the 35th second, of a lease of 30 s."""
        clock, asked = Seconds(), list[tuple[float, bool]]()
        clock.now = 0.0

        def ask(*_: object) -> None:
            asked.append((clock.now, 10 < clock.now < 35))
            if asked[-1][1]:
                raise StoreUnavailable("away")

        class Done:
            def wait(self, seconds: float) -> bool:
                clock.sleep(seconds)
                return clock.now > 60

        store: Any = SimpleNamespace(lease_seconds=30.0, renew=ask, hear=ask)
        lease: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
        with patch.object(leases, "time", clock):
            keeper = LeaseKeeper(store, lease, lambda: False, every=2.0, limit=1e9, unwind=30.0, abandon=print)
            keeper._done = Done()  # type: ignore[assignment]
            keeper._keep()
            keeper.check()
        gaps = [(then - at, lost) for (at, lost), (then, _) in pairwise(asked)]
        assert all(gap <= 3 for gap, _ in gaps), f"it asks at {asked}"
        assert all(gap <= 1.5 for gap, lost in gaps if lost), f"after a try that failed it waits for long: {asked}"

    def stops(self) -> None:
        """The store comes back never, or the worker is told to stop at some time."""
        for stopped_at, most in ((0.0, 20.0), (100.0, 120.0)):
            clock = Seconds()
            clock.now = 0.0

            def ask(clock: Seconds = clock) -> None:
                assert clock.sleeps < 1000, "a worker that stops waits for a store that is away for ever"
                raise StoreUnavailable("away")

            with patch.object(leases, "time", clock):
                try:
                    leases.retry(ask, lambda clock=clock, stopped_at=stopped_at: clock.now >= stopped_at)
                except StoreUnavailable:
                    assert stopped_at + 10 <= clock.now <= most, (
                        f"told to stop at {stopped_at}, it asks until {clock.now}"
                    )
                else:
                    raise AssertionError("a call that the store never answered counts as done")


SCENES: list[Scene] = [Reasons(), Together(), Patience()]
