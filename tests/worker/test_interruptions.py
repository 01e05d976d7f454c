"""A cancel, and the end of a job's time, in each of its phases: what stops, what is left, and the job after it."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from adaspa_api.words import JobStatus
from adaspa_jobs.job import JobParams
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobCancelled, Lease
from adaspa_worker.lease import LeaseKeeper, TimeLimitExceeded
from adaspa_worker.pipeline import Engine
from admitting import create
from job_bench import Bench
from waiting import PATIENCE, until

PHASES = ("loading", "encoding_prompt", "denoising", "decoding", "encoding", "uploading", "uploaded")
FILES = 3
"""Files of a job: its video and two pictures."""
WITHIN = {"encoding": "decoding", "uploaded": "uploading"}
"""Phases that are part of one that is told."""
Params = Callable[..., JobParams]


class Slow:
    """Lets a test act in the middle of a phase, which goes on once the lease's thread has heard of it."""

    def __init__(self, bench: Bench, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.engine, self.monkeypatch = bench, engine, monkeypatch
        self.keepers: list[LeaseKeeper] = []
        keepers = self.keepers

        class Kept(LeaseKeeper):
            def __enter__(self) -> LeaseKeeper:
                keepers.append(self)
                return super().__enter__()

        monkeypatch.setattr("adaspa_worker.runner.LeaseKeeper", Kept)

    def spend_time(self) -> None:
        """End the time that the job may still run."""
        self.keepers[-1].deadline = time.monotonic()

    def must_stop(self) -> bool:
        try:
            self.keepers[-1].check()
        except (JobCancelled, TimeLimitExceeded):
            return True
        return False

    def at(self, phase: str, act: Callable[[], object]) -> None:
        """Act once, where the phase is under way."""
        pipe, once = self.engine.pipe, threading.Event()

        def slowly(*_: object) -> None:
            if not once.is_set():
                once.set()
                act()
                until(self.must_stop, "the lease's thread has heard of it")

        if phase == "loading":
            load = self.bench.runner.engine
            self.bench.runner.engine = lambda model: (slowly(), load(model))[1]
        elif phase == "encoding":
            frames = self.engine.frames

            def slow_frames(*arguments: Any) -> Iterator[Any]:
                for frame in frames(*arguments):
                    yield frame
                    slowly()

            self.monkeypatch.setattr(self.engine, "frames", slow_frames)
        elif phase in ("uploading", "uploaded"):  # with the first file and with the last
            put, puts = ObjectStorage.put_file, count(1)
            at = FILES if phase == "uploaded" else 1
            self.monkeypatch.setattr(
                ObjectStorage, "put_file", lambda *rest: (put(*rest), slowly() if next(puts) == at else None)[0]
            )
        else:
            layers = {
                "encoding_prompt": pipe.text_encoder.encoder.block[-1],
                "denoising": pipe.transformer.blocks[0],
                "decoding": pipe.vae.decoder,
            }
            self.hook = layers[phase].register_forward_hook(slowly)


@pytest.fixture
def slow(bench: Bench, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(bench, tiny_engine, monkeypatch)
    yield made
    if hasattr(made, "hook"):
        made.hook.remove()


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_is_heard_within_the_phase_and_leaves_nothing(
    bench: Bench, params: Params, slow: Slow, phase: str
) -> None:
    job = create(bench.store, params())
    slow.at(phase, lambda: bench.store.request_cancel(job.id))
    bench.runner.run("tiny")
    assert bench.job(job.id).status is JobStatus.cancelled
    reached = [progress.phase for progress in bench.store.seen]
    assert reached[-1] == WITHIN.get(phase, phase), "nothing comes after it"
    assert not [path for path in (bench.objects / "videos").rglob("*") if path.is_file()], "before any janitor comes"
    assert bench.files() == []
    assert bench.run(params()).status is JobStatus.completed
    assert not bench.ended.is_set()


@pytest.mark.parametrize("phase", ["loading", "decoding", "uploading", "uploaded"])
def test_a_job_fails_in_whatever_phase_its_time_is_over(bench: Bench, params: Params, slow: Slow, phase: str) -> None:
    slow.at(phase, slow.spend_time)
    failed = bench.run(params())
    assert failed.error is not None and failed.error.code == "time_limit"
    assert bench.store.seen[-1].phase == WITHIN.get(phase, phase)
    assert bench.files() == []
    assert bench.run(params()).status is JobStatus.completed
    assert not bench.ended.is_set()


def test_what_earlier_attempts_ran_counts_for_the_limit(bench: Bench, params: Params) -> None:
    job = create(bench.store, params())
    lease = bench.store.claim("tiny", "worker-0")
    assert lease is not None
    bench.store.client.zincrby("adaspa:running:tiny", -599_900, job.id)  # as if it had begun ten minutes ago
    bench.store.release(lease)
    ran = bench.job(job.id).ran_ms
    assert 599_900 <= ran < 2 * 599_900
    replace(bench.runner, time_limit_seconds=ran / 1000).run("tiny")
    failed = bench.job(job.id)
    assert failed.error is not None and failed.error.code == "time_limit"


@pytest.mark.parametrize("reason", ["time", "cancel", "lost"])
def test_an_attempt_that_hangs_ends_with_its_process(bench: Bench, params: Params, slow: Slow, reason: str) -> None:
    released = threading.Event()

    def hang(lease: Lease) -> None:
        if reason == "cancel":
            bench.store.request_cancel(lease.job.id)
        elif reason == "lost":
            bench.store.lose(lease)
        else:
            slow.spend_time()
        assert released.wait(PATIENCE)

    job = create(bench.store, params())
    bench.store.at_step[2] = hang
    runner = replace(bench.runner, unwind_seconds=0.3)
    thread = threading.Thread(target=runner.run, args=("tiny",))
    thread.start()
    assert bench.ended.wait(PATIENCE), "ending the process"
    ended = bench.job(job.id)
    expected = {"time": JobStatus.failed, "cancel": JobStatus.cancelled, "lost": JobStatus.queued}
    assert ended.status is expected[reason], "and that is told before"
    assert (ended.error.code if ended.error else None) == ("time_limit" if reason == "time" else None)
    released.set()
    thread.join()


def test_a_cancelled_load_may_take_its_time_and_so_may_what_ends_it(
    bench: Bench, params: Params, slow: Slow, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = LeaseKeeper.check

    def check_slowly(keeper: LeaseKeeper) -> None:
        try:
            check(keeper)
        except JobCancelled:
            time.sleep(0.3)  # longer than an attempt may take to end that does not load
            raise

    def slow_load(_: str) -> Engine:
        bench.store.request_cancel(job.id)
        until(slow.must_stop, "the lease's thread has heard of it")
        return tiny_engine

    monkeypatch.setattr(LeaseKeeper, "check", check_slowly)
    job = create(bench.store, params())
    replace(bench.runner, engine=slow_load, unwind_seconds=0.2).run("tiny")
    assert bench.job(job.id).status is JobStatus.cancelled
    assert not bench.ended.is_set()
