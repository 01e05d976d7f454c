"""A job whose storage goes away: the real runner against a real S3-compatible server that is killed."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adaspa_jobs.job import Job, JobParams, Progress
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore, Lease
from adaspa_worker.pipeline import Engine
from adaspa_worker.runner import Runner
from admitting import create
from claiming import record
from s3_servers import URL, S3Server, s3_server
from waiting import PATIENCE

Params = Callable[..., JobParams]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """nanio, which keeps its objects over a restart."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with s3_server("nanio", tmp_path / "server") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def worker(store: JobStore, server: S3Server, tiny_engine: Engine) -> Callable[..., Runner]:
    """Makes a worker's runner, with so many seconds of patience for the storage."""

    def make(name: str = "worker-1", patience: float = 1.0) -> Runner:
        return Runner(
            store=store,
            storage=ObjectStorage(URL),
            engine=lambda _: tiny_engine,
            name=name,
            stopping=lambda: False,
            end_process=lambda: None,
            hear_seconds=0.05,
            tell_seconds=0,
            time_limit_seconds=600,
            upload_retry_seconds=patience,
            back_off_seconds=(0.0,),
        )

    return make


@pytest.fixture
def at_upload(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Takes what is to be done, once, when an upload begins."""
    original, acts = store.report_progress, list[Callable[[], object]]()

    def report(lease: Lease, progress: Progress) -> None:
        if progress.phase == "uploading" and acts:
            acts.pop()()
        original(lease, progress)

    monkeypatch.setattr(store, "report_progress", report)
    return acts


def test_an_upload_waits_for_a_storage_that_comes_back(
    store: JobStore,
    params: Params,
    server: S3Server,
    worker: Callable[..., Runner],
    at_upload: list[Callable[[], object]],
) -> None:
    back: list[threading.Timer] = []

    def outage() -> None:
        server.stop()
        back.append(threading.Timer(1.0, server.start))
        back[0].start()

    at_upload.append(outage)
    job = create(store, params())
    worker(patience=PATIENCE).run("tiny")
    back[0].join()
    job = record(store, job.id)
    assert (job.status, job.attempt) == ("completed", 1)
    assert server.objects() == sorted(f"service/{artifact.key}" for artifact in job.artifacts.values())


def test_a_storage_that_stays_away_costs_a_job_one_attempt_and_no_other_is_begun_before_it_is_back(
    store: JobStore,
    params: Params,
    server: S3Server,
    worker: Callable[..., Runner],
    at_upload: list[Callable[[], object]],
) -> None:
    jobs = [create(store, params()) for _ in range(2)]
    at_upload.append(server.stop)
    runner = worker()
    for _ in range(4):
        runner.run("tiny")

    def stand() -> list[tuple[str, int, int]]:
        return [(job.status, job.attempt, job.worker_errors) for job in (record(store, job.id) for job in jobs)]

    assert stand() == [("queued", 1, 1), ("queued", 0, 0)]
    server.start()
    for _ in jobs:
        runner.run("tiny")
    assert stand() == [("completed", 2, 1), ("completed", 1, 0)]


def test_a_worker_whose_own_storage_is_broken_leaves_the_jobs_to_those_whose_is_not(
    store: JobStore,
    params: Params,
    worker: Callable[..., Runner],
    at_upload: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, bad = worker("good"), worker("bad")
    jobs = [create(store, params()) for _ in range(2)]

    def lose_secret() -> None:
        with monkeypatch.context() as context:
            context.setenv("AWS_SECRET_ACCESS_KEY", "another since this morning")
            bad.storage = ObjectStorage(URL)

    at_upload.append(lose_secret)
    for _ in range(4):
        bad.run("tiny")
    assert [job.status for job in store.unfinished("open")] == ["queued", "queued"]
    for _ in jobs:
        good.run("tiny")
    found: list[Job] = [record(store, job.id) for job in jobs]
    assert [(job.status, job.worker) for job in found] == [("completed", "good")] * 2
    assert [job.worker_errors for job in found] == [1, 0]
