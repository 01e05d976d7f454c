"""Workers that are lost, and those that only seem to be: outages of Redis, lost answers, chores that fail."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_api.report import JobError
from adaspa_api.words import JobStatus
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobStore, LeaseLost
from adaspa_service.gateway import janitor
from admitting import create
from running_gateway import Service, serving
from valkey_process import start_valkey
from waiting import until

LEASE_SECONDS = 3.0


@pytest.mark.parametrize("outage", ["killed", "hanging"])
def test_an_outage_longer_than_a_lease_costs_no_running_job_an_attempt(
    settings: Settings, tmp_path: Path, short_folder: Path, outage: str
) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    server = start_valkey(short_folder, *options)
    url = f"unix://{short_folder}/valkey.sock?db=0"
    with serving(settings.model_copy(update={"redis_url": url, "lease_seconds": LEASE_SECONDS}), tmp_path) as service:
        client = service.store.client
        until(lambda: client.exists("adaspa:swept_at"), "a janitor sweeps")
        running, lost = (service.claim(service.create()["id"]) for _ in range(2))
        first_end = client.zscore("adaspa:leases", lost.job.id)
        if outage == "killed":
            server.kill()
            server.wait()
        else:
            os.kill(server.pid, signal.SIGSTOP)
        threading.Event().wait(LEASE_SECONDS + 1.5)
        if outage == "killed":
            server = start_valkey(short_folder, *options)
        else:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: client.zscore("adaspa:leases", lost.job.id) != first_end, "a sweep comes before any renewal")

        def given_up() -> bool:
            service.store.renew(running)  # as its worker does all the time
            return status(service, lost.job.id) == "queued"

        until(given_up, "the job whose worker is not heard of is queued")
        with pytest.raises(LeaseLost):
            service.store.renew(lost)
        still = service.store.get(running.job.id)
        assert still is not None and (still.attempt, still.lost_attempts) == (1, 0)
    server.kill()
    server.wait()


def test_a_worker_whose_claim_was_not_answered_gets_the_job_when_it_asks_again(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    job, other = create(store, params()), create(store, params())
    first = store.claim("demo", "worker-1", "process-1")
    again = store.claim("demo", "worker-1", "process-1")
    assert first is not None and again is not None
    assert (again.job.id, again.attempt, again.job.lost_attempts) == (job.id, 2, 0)
    with pytest.raises(LeaseLost):
        store.renew(first)
    store.renew(again)
    store.fail(again, JobError(code="generation_failed", message="over"))
    after = store.claim("demo", "worker-1", "process-1")
    assert after is not None and after.job.id == other.id


def test_a_job_whose_worker_has_a_new_process_is_queued_at_once_and_given_up_at_the_limit(
    valkey: redis.Redis, params: Callable[..., JobParams]
) -> None:
    store = JobStore(valkey, max_attempts=2)
    deadly = create(store, params())
    for attempt in (1, 2):
        lease = store.claim("demo", "worker-1", f"process-{attempt}")
        assert lease is not None and (lease.job.id, lease.attempt) == (deadly.id, attempt)
    assert store.claim("demo", "worker-1", "process-3") is None
    failed = store.get(deadly.id)
    assert failed is not None and failed.error is not None
    assert (failed.status, failed.error.code, failed.lost_attempts) == (JobStatus.failed, "worker_lost", 2)
    assert store.totals().leases_lost == {"demo": 2}


def test_a_worker_that_starts_queues_the_job_that_its_earlier_process_had(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    job = create(store, params())
    lease = store.claim("demo", "worker-1", "process-1")
    assert lease is not None and store.start_worker("worker-2") is None
    store.renew(lease)
    store.client.zincrby("adaspa:running:demo", -30_000, job.id)  # it has run for so long
    assert store.start_worker("worker-1") == job.id
    ((row,),) = store.usage(2).values()
    assert 30 <= row.gpu_seconds < 120, "the GPU was held, though nothing came of it"
    queued = store.get(job.id)
    assert queued is not None and (queued.status, queued.lost_attempts) == (JobStatus.queued, 1)
    with pytest.raises(LeaseLost):
        store.renew(lease)
    assert store.start_worker("worker-1") is None


@pytest.mark.parametrize("failing", ["remove", "unexpected"])
def test_a_chore_that_fails_keeps_no_other_from_being_done(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Any, failing: str
) -> None:
    error = {"remove": StorageUnavailable("away"), "unexpected": OSError("?")}

    def fail(*_: object) -> None:
        raise error[failing]

    monkeypatch.setattr(janitor, "remove" if failing == "remove" else "tidy", fail)
    with serving(settings, tmp_path) as service:
        store = service.store
        lost, ended = service.claim(service.create()["id"]).job.id, service.completed()
        deleted = service.completed()
        store.discard(deleted)
        store.client.zadd("adaspa:leases", {lost: 0}, xx=True)
        store.client.zadd("adaspa:expiry", {ended: 0}, xx=True)
        until(lambda: status(service, lost) == "queued", "the lost job is queued")
        until(lambda: status(service, ended) is None, "the expired job is hidden")
        if failing != "remove":
            until(lambda: store.get(deleted) is None, "the deleted job is removed")


def status(service: Service, video_id: str) -> str | None:
    """The job's status; None if it is unknown."""
    answer = service.http.get(f"/videos/{video_id}")
    return answer.json()["status"] if answer.is_success else None
