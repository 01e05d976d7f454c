"""A job that is done while Redis is away: the real runner against a real Valkey that is killed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore, StoreUnavailable
from adaspa_worker import lease
from admitting import create
from claiming import record
from job_bench import Bench
from valkey_process import start_valkey


def test_a_video_that_is_done_while_redis_is_away_is_kept_until_redis_is_back(
    short_folder: Path, bench: Bench, params: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STORE_RETRY_SECONDS", 0.05)
    options = ("--appendonly", "yes", "--appendfsync", "always")
    servers = [start_valkey(short_folder, *options)]
    settings = Settings(redis_url=f"unix://{short_folder}/valkey.sock?db=0", lease_seconds=0.4)
    store = bench.runner.store = JobStore.from_settings(settings)
    complete = store.complete
    refused: list[StoreUnavailable] = []

    def complete_late(*arguments: object) -> None:
        if not refused:
            servers[0].kill()
            servers[0].wait()
        try:
            complete(*arguments)  # type: ignore[arg-type]
        except StoreUnavailable as error:
            refused.append(error)
            if len(refused) == 3:
                servers.append(start_valkey(short_folder, *options))
            raise

    monkeypatch.setattr(store, "complete", complete_late)
    job = create(store, params())
    bench.runner.run("tiny")
    job = record(store, job.id)
    assert len(refused) == 3
    assert (job.status, job.attempt) == ("completed", 1)
    assert sorted(artifact.key for artifact in job.artifacts.values()) == bench.files()
    servers[-1].kill()
    servers[-1].wait()


def test_a_worker_that_stops_while_redis_is_away_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STORE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(lease, "STOPPING_SECONDS", 0.1)
    tries: list[int] = []

    def away() -> None:
        tries.append(1)
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        lease.retry(away, lambda: len(tries) > 20)
    assert len(tries) > 20
