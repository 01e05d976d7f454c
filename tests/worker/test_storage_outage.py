"""A job whose storage goes away: the real runner against a real S3-compatible server that is killed."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adaspa_jobs.job import Job, JobParams, Progress
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore, Lease
from adaspa_worker.generate import Runner
from adaspa_worker.pipeline import Engine
from s3_servers import URL, S3Server, s3_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """nanio, which keeps its objects over a restart."""
    with s3_server("nanio", tmp_path / "server") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def run(
    store: JobStore, server: S3Server, tiny_engine: Engine, params: Callable[..., JobParams]
) -> Callable[[float], Job]:
    """Runs a job to its end with so many seconds of patience for the storage; gives its record."""

    def to_the_end(patience: float) -> Job:
        runner = Runner(
            store=store,
            storage=ObjectStorage(URL),
            engine=lambda _: tiny_engine,
            name="worker-1",
            stopping=lambda: False,
            end_process=lambda: None,
            renew_seconds=0.05,
            time_limit_seconds=600,
            upload_retry_seconds=patience,
        )
        job = store.create(params())
        runner.run("tiny")
        ended = store.get(job.id)
        assert ended is not None
        return ended

    return to_the_end


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
    server: S3Server, run: Callable[[float], Job], at_upload: list[Callable[[], object]]
) -> None:
    back: list[threading.Timer] = []

    def outage() -> None:
        server.stop()
        back.append(threading.Timer(1.0, server.start))
        back[0].start()

    at_upload.append(outage)
    job = run(60)
    back[0].join()
    assert (job.status, job.attempt) == ("completed", 1)
    assert server.objects() == sorted(f"service/{artifact.key}" for artifact in job.artifacts.values())


def test_a_storage_that_stays_away_fails_its_job_and_the_next_one_completes(
    server: S3Server, run: Callable[[float], Job], at_upload: list[Callable[[], object]]
) -> None:
    at_upload.append(server.stop)
    job = run(1)
    assert job.status == "failed" and job.error is not None
    assert job.error.code == "storage_unavailable"
    server.start()
    assert run(1).status == "completed"
