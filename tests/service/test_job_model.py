"""Random histories of jobs on a real Valkey, with faults between any two calls: nothing is lost, doubled or left.

A longer search: ``pytest tests/service/test_job_model.py --hypothesis-profile=long``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import redis
from adaspa_api.fields import VideoCreate
from adaspa_api.words import TERMINAL, JobStatus, Priority
from adaspa_jobs.job import OPEN_OWNER, Artifact, Job, Progress
from adaspa_jobs.queue import queue_name, ring
from adaspa_jobs.record import job_from_hash
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import attempt_prefix
from adaspa_jobs.store import JobCancelled, JobStore, Lease, LeaseLost
from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError
from adaspa_service.gateway.admission import JobRequest, idempotency_of, submit
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.params import resolve
from adaspa_service.gateway.removal import remove_if_ended
from adaspa_service.gateway.state import AppState
from claiming import FAILURE
from faults import AWAY, Fault, FaultyBroker, FaultyRedis, FaultyStorage, Outside
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from running_gateway import REPORT

CAP = 6
MAX_ATTEMPTS = 3
LEGAL = {
    "queued": {"queued", "in_progress", "completed", "failed", "cancelled"},  # several steps may fall into one rule
    "in_progress": {"queued", "in_progress", "completed", "failed", "cancelled"},
}
DAY = 86400.0
QUEUES = [queue_name("demo", priority) for priority in Priority]
STAYING = {
    "last_id",
    "swept_at",
    "skipped",
    "synced",
    "ended",
    "leases_lost",
    "queues",
    "served",
    "served_at",
    "served_by",
    "entries:demo",
    "served_since",
    "served_until",
    "workers:demo",
    "serving:demo",
    "serving:demo:bulk",
    "rung",
    "virtual",
    "backlog",
    "share:demo",
    "paces:demo",
    "owners:demo",
    "owners:demo:bulk",
}
"""Keys that stay when every job is gone: a few numbers for each model."""
PICK = st.integers(0, 50)


def fault_in(calls: int) -> st.SearchStrategy[Fault | None]:
    """None, or a fault at one of so many calls."""
    whens, kinds = st.sampled_from(["before", "after"]), st.sampled_from(["killed", "cut"])
    return st.none() | st.builds(Fault, at=st.integers(1, calls), when=whens, kind=kinds)


Message = tuple[str, bytes]
"""A message, with the queue that it is of."""


class Jobs(RuleBasedStateMachine):
    """Two gateways and any number of workers against one store.

    Args:
        valkey: the server's socket.
        settings: of the gateways.
    """

    def __init__(self, valkey: Path, settings: Settings) -> None:
        super().__init__()
        self.client = redis.Redis(unix_socket_path=str(valkey))
        self.client.flushall()
        self.outside = Outside()
        self.parts = [self._gateway(valkey, settings, Outside()), self._gateway(valkey, settings, self.outside)]
        """The first knows no faults."""
        self.janitors = [Janitor(parts) for parts in self.parts]
        limits = {"lease_seconds": settings.lease_seconds, "queue_cap": CAP, "max_attempts": MAX_ATTEMPTS}
        self.store = JobStore(self.client, **limits)
        self.faulty_store = JobStore(FaultyRedis(valkey, self.outside), **limits)
        self.accepted: set[str] = set()
        self.seen: dict[str, Job] = {}
        self.taken: list[tuple[Message, Lease | None]] = []
        """Messages that a worker has taken and not acknowledged, each with the lease it led to."""
        self.completions: dict[str, int] = {}
        """Attempts that completed their jobs."""
        self.deleted: set[str] = set()

    @staticmethod
    def _gateway(valkey: Path, settings: Settings, outside: Outside) -> AppState:
        parts = AppState.of(settings)
        return replace(
            parts,
            store=JobStore(
                FaultyRedis(valkey, outside),
                lease_seconds=settings.lease_seconds,
                queue_cap=CAP,
                max_attempts=MAX_ATTEMPTS,
            ),
            storage=FaultyStorage(settings.storage_url, outside),
            celery=FaultyBroker(parts.celery, outside),
        )

    # What owners do

    @initialize()
    def begin_with_some(self) -> None:
        for _ in range(3):
            self.submit(None, None, 1, None)

    @rule(
        fault=fault_in(3),
        key=st.sampled_from([None, None, "a", "b"]),
        count=st.integers(1, 2),
        priority=st.sampled_from([None, "bulk"]),
    )
    def submit(self, fault: Fault | None, key: str | None, count: int, priority: str | None) -> None:
        parts = self.parts[1]
        params = [resolve(VideoCreate(prompt="a red circle", seed=seed), parts.catalog) for seed in range(count)]
        full = self.store.load("demo").waiting + count > CAP
        with self.outside.struck_by(fault):
            try:
                once = idempotency_of(str(count), key)
                jobs, new, *_ = submit(
                    parts, Caller(OPEN_OWNER), JobRequest(parts.catalog.default, params, priority), once
                )
            except ApiError as error:
                assert (error.code == "queue_full" and full) or (error.code == "idempotency_key_reused" and key)
            except AWAY:
                assert fault is not None
            else:
                assert jobs if new else key
                assert not new or [job.params.seed for job in jobs] == list(range(count))
                assert new or {job.id for job in jobs} <= set(self.seen)
                self.accepted.update(job.id for job in jobs)

    @precondition(lambda self: self.seen)
    @rule(fault=fault_in(5), pick=PICK, deletes=st.booleans())
    def give_up(self, fault: Fault | None, pick: int, deletes: bool) -> None:
        """Cancel or delete a job, as the gateway's routes do."""
        job, parts = self._pick(pick), self.parts[1]
        with self.outside.struck_by(fault), suppress_away(fault):
            if deletes:
                self.deleted.add(job.id)
                assert parts.store.discard(job.id) == (not job.discarded)
                remove_if_ended(parts, job.id)
            else:
                assert parts.store.request_cancel(job.id) is not JobStatus.queued

    # What workers do

    @precondition(lambda self: self._messages())
    @rule(fault=fault_in(1), worker=st.integers(0, 3), process=st.integers(0, 1))
    def take(self, fault: Fault | None, worker: int, process: int) -> None:
        """A worker takes a message, and claims the job that is next; or the one that it has, if it knows of none."""
        name = f"worker-{worker}"
        message = self._pop()
        place = len(self.taken)
        self.taken.append((message, None))
        queued = {job.id for job in self.seen.values() if job.status is JobStatus.queued}
        own = {job.id for job in self.seen.values() if job.status is JobStatus.in_progress and job.worker == name}
        with self.outside.struck_by(fault), suppress_away(fault):
            lease = self.faulty_store.claim("demo", name, f"process-{process}")
            if lease is None:
                assert not queued
                del self.taken[place]  # done with, and acknowledged
            else:
                assert lease.job.id in queued | own
                self.taken[place] = (message, lease)

    @precondition(lambda self: self._leases())
    @rule(
        fault=fault_in(1),
        pick=PICK,
        act=st.sampled_from(["renew", "report", "complete", "complete", "fail", "release_cancelled", "release"]),
        insists=st.booleans(),
    )
    def act_on_a_lease(self, fault: Fault | None, pick: int, act: str, insists: bool) -> None:
        """A worker says something about its job; what ends the attempt is said again when the answer is lost."""
        leases = self._leases()
        message, lease = leases[pick % len(leases)]
        with self.outside.struck_by(fault):
            try:
                done = self._say(act, lease)
            except AWAY:
                assert fault is not None
                if not insists:
                    return
                done = self._say(act, lease)
            if act not in ("renew", "report") or not done:
                self.taken.remove((message, lease))
            if done and act == "release":
                self.client.rpush(*message)

    @precondition(lambda self: self.taken)
    @rule(pick=PICK, dies=st.booleans())
    def lose_worker(self, pick: int, dies: bool) -> None:
        """The broker gives a message that was not acknowledged to another worker; the first is dead, or only slow."""
        message, _ = taken = self.taken[pick % len(self.taken)]
        self.client.rpush(*message)
        if dies:
            self.taken.remove(taken)

    @precondition(lambda self: self._leases())
    @rule(pick=PICK)
    def overtake(self, pick: int) -> None:
        """A worker stands still until another one has its job."""
        leases = self._leases()
        message = leases[pick % len(leases)][0]
        self.let_time_pass(31.0)
        self.janitors[0].sweep()
        if again := self.store.claim("demo", "a free worker"):
            self.taken.append((message, again))

    # What happens by itself

    @precondition(lambda self: self._messages())
    @rule()
    def lose_a_message(self) -> None:
        self._pop()

    @rule()
    def beat(self) -> None:
        """A worker's heartbeat, a while after another's, rings for jobs without a bell."""
        self.client.delete("adaspa:rung")
        for priority, bells in self.store.announce(self.parts[0].catalog.default, "a worker").items():
            ring(self.parts[0].celery, "demo", priority, bells)
        for priority, queue in self.store.load("demo").queues.items():
            assert self.client.llen(queue_name("demo", priority)) >= queue.waiting

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0, 61.0]))
    def let_time_pass(self, seconds: float) -> None:
        """By moving every moment that is to come nearer."""
        names = ("leases", "expiry", "purge", "leavings", "arrivals:demo", "arrivals:demo:bulk")
        for name, found in zip(names, self._sorted_sets(*names), strict=True):
            if found:
                self.client.zadd(f"adaspa:{name}", {member: score - seconds * 1000 for member, score in found})

    @rule(fault=fault_in(12))
    def sweep(self, fault: Fault | None) -> None:
        with self.outside.struck_by(fault), suppress_away(fault):
            self.janitors[1].sweep()

    @rule(
        at=st.integers(1, 8),
        who=st.sampled_from(["submit", "sweep", "sweep", "delete"]),
        other=st.sampled_from(["sweep", "take", "cancel", "delete", "let_time_pass"]),
        pick=PICK,
    )
    def two_at_once(self, at: int, who: str, other: str, pick: int) -> None:
        """Another process acts between two calls of the first."""

        def act() -> None:
            if other == "sweep":
                self.janitors[0].sweep()
            elif other == "take" and (message := self._pop()):
                if lease := self.store.claim("demo", "another worker"):
                    self.taken.append((message, lease))
            elif other == "let_time_pass":
                self.let_time_pass(31.0)
            elif self.seen and other in ("cancel", "delete"):
                job = self._pick(pick)
                if other == "cancel":
                    self.store.request_cancel(job.id)
                else:
                    self.deleted.add(job.id)
                    self.store.discard(job.id)

        fault = Fault(at, "after", "interposed", act)
        if who == "submit":
            self.submit(fault, "a", 1, None)
        elif who == "sweep":
            self.sweep(fault)
        elif self.seen:
            job = self._pick(pick)
            self.deleted.add(job.id)
            with self.outside.struck_by(fault):
                self.parts[1].store.discard(job.id)
                remove_if_ended(self.parts[1], job.id)

    # What has to hold at every moment

    @invariant()
    def each_job_moves_only_as_it_may(self) -> None:
        ids = sorted(key.split(":")[2] for key in self._keys("adaspa:job:*"))
        with self.client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(f"adaspa:job:{job_id}").xrange(f"adaspa:events:{job_id}")
            found = pipe.execute()
        jobs = {job_id: job_from_hash(job_id, record) for job_id, record in zip(ids, found[::2], strict=True)}
        for job_id, before in self.seen.items():
            job = jobs.get(job_id)
            if job is None:
                asked_for = before.discarded or job_id in self.deleted or before.status in TERMINAL
                assert asked_for or job_id not in self.accepted, f"{job_id} is lost"
                continue
            assert job.attempt >= before.attempt and job.lost_attempts >= before.lost_attempts
            assert job.discarded >= before.discarded and job.cancel_requested >= before.cancel_requested
            if before.status in TERMINAL:
                assert job.model_copy(update={"discarded": before.discarded, "cancel_requested": True}) == (
                    before.model_copy(update={"cancel_requested": True})
                )
            else:
                assert job.status in LEGAL[before.status]
        self.seen = jobs
        for job, entries in zip(jobs.values(), found[1::2], strict=True):
            self._check_events(job, [fields[b"type"].decode() for _, fields in entries])
            assert job.lost_attempts <= min(job.attempt, MAX_ATTEMPTS)
            assert (job.error is not None) == (job.status is JobStatus.failed)
            assert bool(job.artifacts) == (job.status is JobStatus.completed)
            if job.status is JobStatus.completed:
                assert self.completions.setdefault(job.id, job.attempt) == job.attempt, "completed twice"

    @invariant()
    def every_index_agrees_with_the_records(self) -> None:
        def having(*statuses: JobStatus) -> set[str]:
            return {job.id for job in self.seen.values() if job.status in statuses}

        names = ("waiting:demo", "arrivals:demo", "running:demo", f"jobs:{OPEN_OWNER}", "leases", "expiry", "purge")
        bulk = ("waiting:demo:bulk", "arrivals:demo:bulk", "leavings")
        has = dict(zip(names + bulk, map(self._members, self._sorted_sets(*names, *bulk)), strict=True))
        for name in ("waiting", "arrivals"):
            assert has[f"{name}:demo"] | has[f"{name}:demo:bulk"] == having(JobStatus.queued)
        assert has["running:demo"] == has["leases"] == having(JobStatus.in_progress)
        unfinished = {member.decode() for member in self.client.smembers(f"adaspa:unfinished:{OPEN_OWNER}")}
        assert unfinished == having(JobStatus.queued, JobStatus.in_progress)
        assert has[f"jobs:{OPEN_OWNER}"] == {job.id for job in self.seen.values() if not job.discarded}
        ended = having(*TERMINAL)
        assert has["expiry"] == {job_id for job_id in ended if not self.seen[job_id].discarded}
        assert has["purge"] == {job_id for job_id in ended if self.seen[job_id].discarded}
        assert has["leavings"] <= has["expiry"]
        counted = self.store.totals().ended
        assert counted.get(("demo", "completed", ""), 0) == len(self.completions)
        for key in self._keys("adaspa:idempotency:*"):
            assert self.client.hget(key, "id").decode() in self.seen

    # And in the end

    def teardown(self) -> None:
        """Everything works again: every job ends, by what the service does itself, and leaves nothing."""
        self.outside.fault = None
        for _ in range(3 * MAX_ATTEMPTS):
            self.let_time_pass(61.0)
            self.janitors[0].sweep()
            self.beat()
            while self._pop():
                if lease := self.store.claim("demo", "the last worker"):
                    self._say("complete", lease)
            self.each_job_moves_only_as_it_may()
            self.every_index_agrees_with_the_records()
            if all(job.status in TERMINAL for job in self.seen.values()):
                break
        unended = [job for job in self.seen.values() if job.status not in TERMINAL]
        assert not unended, "every job ends"
        assert self.store.load("demo").waiting == self.store.load("demo").running == 0
        assert all(abs(float(cost)) < 1e-6 for cost in self.client.hvals("adaspa:backlog"))
        for _ in range(3):
            self.let_time_pass(8 * DAY)
            self.janitors[0].sweep()
        left = {key.removeprefix("adaspa:") for key in self._keys("adaspa:*")}
        own = {key for key in left if not key.startswith(("usage:", "times:"))}  # what jobs came to outlives them
        own -= {key for key in own if key.startswith("events:") and 0 < self.client.ttl(f"adaspa:{key}") <= 10}
        assert own <= STAYING, "nothing is left of a job that is over"
        assert self.parts[0].storage.keys("") == []
        self.client.close()

    def _pick(self, pick: int) -> Job:
        return list(self.seen.values())[pick % len(self.seen)]

    def _leases(self) -> list[tuple[Message, Lease]]:
        return [(message, lease) for message, lease in self.taken if lease is not None]

    def _messages(self) -> int:
        return sum(self.client.llen(queue) for queue in QUEUES)

    def _pop(self) -> Message | None:
        """The next message, as Celery takes it."""
        found = next((queue for queue in QUEUES if self.client.llen(queue)), None)
        return (found, self.client.rpop(found)) if found else None

    def _keys(self, pattern: str) -> list[str]:
        return [key.decode() for key in self.client.scan_iter(pattern, count=1000)]

    def _sorted_sets(self, *names: str) -> list[list[tuple[bytes, float]]]:
        """Members and scores of each, in one round trip: looking at everything is most of what this test does."""
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.zrange(f"adaspa:{name}", 0, -1, withscores=True)
            return pipe.execute()

    @staticmethod
    def _members(found: list[tuple[bytes, float]]) -> set[str]:
        return {member.decode() for member, _ in found}

    def _say(self, act: str, lease: Lease) -> bool:
        """Whether it was taken; if not, that has to be right."""
        store, expected = self.faulty_store, expected_refusal(self.store.get(lease.job.id), lease, act)
        says: dict[str, Callable[[], None]] = {
            "renew": lambda: store.renew(lease),
            "report": lambda: store.report_progress(lease, Progress(phase="denoising", step=1, steps=10)),
            "complete": lambda: store.complete(lease, {"video": self._written(lease)}, REPORT, {}),
            "fail": lambda: store.fail(lease, FAILURE),
            "release_cancelled": lambda: store.release_cancelled(lease),
            "release": lambda: store.release(lease),
        }
        try:
            says[act]()
        except (LeaseLost, JobCancelled) as refusal:
            assert type(refusal) is expected, act
            if isinstance(refusal, JobCancelled):
                self.store.release_cancelled(lease)
            return False
        assert expected is None, act
        return True

    def _written(self, lease: Lease) -> Artifact:
        """The attempt's file, in storage; a worker whose job is gone removes what it wrote."""
        key = f"{attempt_prefix(lease.job.id, lease.token)}video.mp4"
        if self.store.get(lease.job.id) is not None:
            self.parts[0].storage.create(key, b"video")
        return Artifact(key=key, content_type="video/mp4", bytes=5, sha256="ab" * 32)

    @staticmethod
    def _check_events(job: Job, events: list[str]) -> None:
        ends = [event for event in events if event in set(TERMINAL)]
        assert events[0] == "queued"
        assert ends == ([job.status] if job.status in TERMINAL else []), "one end, as the record says"
        assert not ends or events[-1] == ends[0], "nothing after the end"
        assert events.count("in_progress") == job.attempt


@contextmanager
def suppress_away(fault: Fault | None) -> Iterator[None]:
    """A call may find nothing there if it was cut off, and only then."""
    try:
        yield
    except AWAY:
        assert fault is not None


def expected_refusal(before: Job | None, lease: Lease, act: str) -> type[Exception] | None:
    """What a worker is told that holds, or held, this lease."""
    ends = {"complete": "completed", "fail": "failed", "release_cancelled": "cancelled", "release": "queued"}
    if before is None or before.token != lease.token:
        return LeaseLost
    if before.status == ends.get(act):
        return None  # said before, and said again
    if act == "complete" and before.status is JobStatus.queued:
        return None  # the lease ran out, but no other attempt has begun
    if before.status is not JobStatus.in_progress:
        return LeaseLost
    if act == "release_cancelled":
        return None if before.cancel_requested else LeaseLost
    return JobCancelled if before.cancel_requested else None


def test_whatever_happens_a_job_ends_once_and_leaves_nothing(valkey_socket: Path, settings: Settings) -> None:
    with patch("adaspa_service.gateway.janitor.log.exception", side_effect=AssertionError("an error of ours")):
        run_state_machine_as_test(lambda: Jobs(valkey_socket, settings))
