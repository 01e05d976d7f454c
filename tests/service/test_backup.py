"""A restored backup of Redis, as docs/operations.md has it made and put back."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from adaspa_api.words import JobStatus
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore, Lease
from admitting import create
from claiming import claim
from running_gateway import REPORT, serving
from valkey_process import start_valkey
from waiting import until

Params = Callable[..., JobParams]


@contextmanager
def server(folder: Path, *options: str) -> Iterator[JobStore]:
    process: subprocess.Popen[bytes] = start_valkey(folder, *options)
    try:
        with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as client:
            yield JobStore(client)
    finally:
        process.terminate()
        process.wait()


def get(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def begin(store: JobStore, params: Params) -> Lease:
    lease = claim(store, create(store, params()).id)
    assert lease is not None
    return lease


def test_after_a_restore_what_ran_and_what_has_ended_since_is_run_again(params: Params, tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="adaspa-") as before, TemporaryDirectory(prefix="adaspa-") as after:
        with server(Path(before), "--appendonly", "yes", "--appendfsync", "always") as store:
            waiting, running = create(store, params()), begin(store, params)
            store.complete(begin(store, params), {}, REPORT, {})
            shutil.copytree(Path(before) / "appendonlydir", Path(after) / "appendonlydir")
            store.complete(running, {}, REPORT, {})
            since = create(store, params())
        with server(Path(after), "--appendonly", "yes") as store:
            assert store.get(since.id) is None
            assert get(store, running.job).status is JobStatus.in_progress
            assert len(store.page()[0]) == 3
            store.client.zadd("adaspa:leases", {running.job.id: 0})  # its time is over
            settings = Settings(redis_url=f"unix://{after}/valkey.sock?db=0", storage_url=str(tmp_path / "objects"))
            with serving(settings, tmp_path) as service:
                until(lambda: get(store, running.job).status is JobStatus.queued, "the job is queued again")
                again = service.complete(service.claim(running.job.id))
                assert (again.attempt, again.lost_attempts) == (2, 1)
                assert service.complete(service.claim(waiting.id)).status is JobStatus.completed


def test_an_rdb_is_read_without_the_append_only_file_which_is_then_turned_on(params: Params) -> None:
    with TemporaryDirectory(prefix="adaspa-") as before, TemporaryDirectory(prefix="adaspa-") as after:
        with server(Path(before), "--appendonly", "yes") as store:
            job = create(store, params())
            store.client.save()
            shutil.copy(Path(before) / "dump.rdb", after)
        with server(Path(after), "--appendonly", "no") as store:
            assert get(store, job).status is JobStatus.queued
            store.client.config_set("appendonly", "yes")
            until(lambda: not store.client.info("persistence")["aof_rewrite_in_progress"], "the file is written")
            later = create(store, params())
        with server(Path(after), "--appendonly", "yes") as store:
            assert [get(store, each).status for each in (job, later)] == [JobStatus.queued] * 2
