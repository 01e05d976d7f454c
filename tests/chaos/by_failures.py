"""Scenes of what fails in a worker, or below the service: each failure by its name, and what becomes of its job."""

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from adaspa_jobs import redis_check
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, LeaseLost, StoreUnavailable
from adaspa_worker import failure, heartbeat, lease, metrics
from adaspa_worker.blank import BlankClip
from adaspa_worker.failure import NotLoaded, describe, is_the_workers
from adaspa_worker.group import GroupFailed
from adaspa_worker.lease import LeaseKeeper, TimeLimitExceeded, retry
from adaspa_worker.pipeline import NotFinite
from adaspa_worker.source import ModelUnavailable
from admitting import create
from valkey_process import running_valkey
from virtual_time import Seconds
from waiting import until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import bench, params


def loading(cause: Exception) -> NotLoaded:
    """The failure to load a model, as the worker has it."""
    error = NotLoaded()
    error.__cause__ = cause
    return error


FAILURES: list[tuple[Exception, str, bool, str]] = [
    (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", False, "ran out of memory"),
    (MemoryError(), "out_of_memory", False, "ran out of memory"),
    (torch.AcceleratorError("CUDA error: an illegal memory access"), "device_failed", True, "illegal memory access"),
    (GroupFailed("a process died"), "device_failed", True, "a process died"),
    (OSError(errno.ENOSPC, "no room"), "disk_full", True, "disk is full"),
    (OSError(errno.EDQUOT, "no room"), "disk_full", True, "disk is full"),
    (OSError(errno.EIO, "broken"), "generation_failed", False, "OSError: "),
    (StorageUnavailable("s3://bucket"), "storage_unavailable", True, "storage was unavailable"),
    (ModelUnavailable("/models/x"), "model_unavailable", False, "could not load the model"),
    (loading(ModelUnavailable("/models/x")), "model_unavailable", True, "could not load the model"),
    (loading(torch.OutOfMemoryError("x")), "out_of_memory", True, "ran out of memory"),
    (TimeLimitExceeded("over"), "time_limit", False, "over"),
    (NotFinite("the latents are not finite"), "not_finite", False, "the latents are not finite"),
    (BlankClip("9 of 9 frames"), "blank_clip", False, "9 of 9 frames"),
    (ValueError("a\nb"), "generation_failed", False, "ValueError: a"),
]
"""Error, its code, whether another worker may do better, and what whoever asked is told."""


class Failures(Scene):
    """Errors of every kind, and attempts that hang."""

    name = "by hand: failures of every kind"
    promise = "a failure has its own code, tells no inside, and is left to others only if it was the worker's"

    def play(self, stage: Stage) -> None:
        for error, code, workers, says in FAILURES:
            told = describe(error)
            assert told.code == code and says in told.message, f"{error!r} is {told}, not {code}"
            assert is_the_workers(error) == workers, f"{error!r}: left to other workers ({not workers})"
            assert not any(inside in told.message for inside in ("s3://", "/models", "\n")), told.message
        for error in (StorageUnavailable("s3://bucket"), ModelUnavailable("/models/x")):
            assert str(error) in describe(error, to_operator=True).message, "the operator is not told where"
        assert len(describe(ValueError("x" * 9000)).message) == failure.MAX_MESSAGE
        self.hanging()
        self.away()

    def hanging(self) -> None:
        """An attempt that does not stop is ended as its reason says, and its process with it."""
        for reason, status, code, again in (
            (TimeLimitExceeded("ran for too long"), "failed", "time_limit", False),
            (JobCancelled("x"), "cancelled", None, False),
            (GroupFailed("a process is silent"), "queued", None, True),
            (LeaseLost("x"), "in_progress", None, False),
        ):
            with bench() as at:
                job = create(at.store, params())
                lease = at.store.claim("stub", "one")
                assert lease is not None
                prefix = f"videos/{job.id}/{lease.token}/"
                at.storage.create(f"{prefix}video.mp4", b"x")
                if status == "cancelled":
                    at.store.request_cancel(job.id)
                if isinstance(reason, LeaseLost):
                    at.store.client.zadd("adaspa:leases", {job.id: 0})
                    until(lambda at=at: at.store.requeue_expired(), "another worker may take it")
                    assert at.store.claim("stub", "two")
                at.runner._abandon(lease, reason)
                found: Any = at.store.get(job.id)
                assert (found.status, found.error and found.error.code) == (status, code), f"{reason!r}: {found.status}"
                assert (found.worker_errors == 1) == again and at.ended.is_set(), f"{reason!r}: {found.worker_errors}"
                left = at.storage.keys(prefix)
                assert left == [], f"{reason!r}: of its files stay {left}"

    def away(self) -> None:
        """A store that is away for a while is asked again, and no longer than a lease lasts or the worker stops."""
        clock, calls = Seconds(), list[float]()
        away_until = clock.now + 20

        def ask() -> str:
            calls.append(clock.now)
            if clock.now < away_until:
                raise StoreUnavailable("away")
            return "there"

        with patch.object(lease, "time", clock):
            assert retry(ask, lambda: False) == "there" and len(calls) > 5, f"asked at {calls}"
            stops_at, away_until = clock.now, math.inf
            try:
                retry(ask, lambda: True)
            except StoreUnavailable:
                took = clock.now - stops_at
                assert 0 < took < 20, f"a worker that stops asks for {took} s"
            else:
                raise AssertionError("a worker that stops waits for a store that is away")


class Alive(Scene):
    """A worker with a job is cut off from Redis; another's process is killed in the middle of its job."""

    name = "by hand: what probes and metrics say of a worker"
    promise = "a worker that goes on with its job is alive, however long Redis is away, and a dead process is not busy"

    def play(self, stage: Stage) -> None:
        self.beats()
        self.gauges()

    def beats(self) -> None:
        def away(*_: object) -> None:
            asked.append(None)
            raise StoreUnavailable("away")

        asked: list[None] = []
        store: Any = SimpleNamespace(lease_seconds=0.2, renew=away, hear=away, report_progress=away)
        lease: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
        with TemporaryDirectory() as folder, patch.dict("os.environ", {heartbeat.VARIABLE: f"{folder}/beat"}):
            file = Path(folder) / "beat"
            keeper = LeaseKeeper(store, lease, lambda: False, every=0.05, limit=1e9, unwind=30.0, abandon=print)
            with keeper:
                for _ in range(3):
                    file.touch()
                    os.utime(file, (1, 1))
                    asked.clear()
                    until(lambda: len(asked) > 2, "the store is asked, and does not answer")
                    assert file.stat().st_mtime > 1, "a worker whose Redis is away beats no more"
                keeper.check()

    def gauges(self) -> None:
        """What is told of the present goes with the process that it was true of; what is counted stays."""
        with TemporaryDirectory() as folder:
            child = """
                import os, signal
                from adaspa_worker import metrics
                metrics.busy.labels("m").inc()
                metrics.gpu_bytes.labels("used").set(5)
                metrics.attempts.labels("m", "completed").inc()
                os.kill(os.getpid(), signal.SIGKILL)
            """
            parent = """
                from adaspa_worker import metrics
                from prometheus_client import CollectorRegistry, generate_latest
                from prometheus_client.multiprocess import MultiProcessCollector
                metrics.forget_earlier_child()
                registry = CollectorRegistry()
                MultiProcessCollector(registry)
                print(generate_latest(registry).decode())
            """
            for code, status in ((child, -signal.SIGKILL), (parent, 0)):
                done = subprocess.run(
                    [sys.executable, "-c", dedent(code)],
                    check=False,
                    capture_output=True,
                    text=True,
                    env=os.environ | {metrics.FOLDER: folder},
                )
                assert done.returncode == status, done.stderr[-500:]
        told = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
        assert 'adaspa_attempts_total{model="m",outcome="completed"} 1.0' in told, told
        present = [
            line for line in told if line.startswith(("adaspa_worker_busy", "adaspa_gpu_memory")) and line[-3:] != "0.0"
        ]
        assert not present, f"of a process that was killed it is still told: {present}"


class Unsuitable(Scene):
    """Redis servers that are set up for something else."""

    name = "by hand: a Redis that does not suit"
    promise = "a service that would lose jobs by its Redis' settings says so before it starts"

    def play(self, stage: Stage) -> None:
        safe = ("--appendonly", "yes")
        for options, says, fatal in (
            (safe, "", False),
            (("--appendonly", "no"), "loses jobs when it restarts", False),
            ((*safe, "--maxmemory-policy", "allkeys-lru"), "allkeys-lru drops jobs", False),
            ((*safe, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"), "allkeys-lru drops jobs", True),
            ((*safe, "--maxmemory", "1"), "it is full", False),
        ):
            with running_valkey(*options) as folder:
                url = f"unix://{folder}/valkey.sock?db=0"
                problems = redis_check.look(Settings(_env_file=None, redis_url=url)).problems
            found = [(problem.found, problem.fatal) for problem in problems]
            assert bool(found) == bool(says) and all(says in text and each == fatal for text, each in found), (
                f"a Redis with {options}: {found}"
            )


SCENES: list[Scene] = [Failures(), Alive(), Unsuitable()]
