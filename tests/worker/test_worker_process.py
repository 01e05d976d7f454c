"""A real worker process, parent and child, through what no thread of a test could survive."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import torch
from adaspa_api.words import Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.connections import connections
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.queue import make_celery, queue_name
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from admitting import admit
from redis_pair import running_pair
from running_gateway import demo_catalog, serving
from waiting import PATIENCE, until


class Worker(NamedTuple):
    """A process of one, and its log so far."""

    process: subprocess.Popen[bytes]
    log: Callable[[], str]


@contextmanager
def working(redis_url: str, folder: Path, **settings: str) -> Iterator[Callable[[], str]]:
    """A worker of the demo model with an unruly engine; gives its log."""
    with started(redis_url, folder, **settings) as worker:
        yield worker.log


@contextmanager
def started(redis_url: str, folder: Path, warm_up: str | None = None, **settings: str) -> Iterator[Worker]:
    """The same, maybe with a warm-up."""
    settings |= {"warm": "true" if warm_up else "false"}
    named = {f"ADASPA_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {
        "ADASPA_REDIS_URL": redis_url,
        "ADASPA_STORAGE_URL": str(folder / "objects"),
        "ADASPA_LEASE_SECONDS": "30",
        "ADASPA_WORKER_NAME": "worker-1",
        "ADASPA_WORKER_MODEL": "demo",
        "ADASPA_WORKER_PRIORITIES": ",".join(Priority),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))),
        "UNRULY_WARM_UP": warm_up or "",
        **named,
    }
    queues = ",".join(queue_name("demo", priority) for priority in Priority)
    one_child = ["--pool", "prefork", "--concurrency", "1"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]  # as the worker's own
    celery = [sys.executable, "-m", "celery", "--app", "unruly_worker", "worker"]
    command = [*celery, "--queues", queues, *one_child, *quiet]
    log = folder / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Worker(process, log.read_text)
    except BaseException as error:
        error.add_note(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait(PATIENCE)


def run(redis_url: str, params: JobParams, priority: Priority = Priority.interactive) -> Job:
    """Submit a job, without a bell and without any janitor, and wait for its end."""
    with connections(redis_url).client() as client:
        store = JobStore(client)
        job = admit(store, params, priority=priority)[0]
        found: list[Job] = []

        def is_over() -> bool:
            found[:] = [current for current in [store.get(job.id)] if current]
            return found[0].completed_at is not None

        until(is_over, f"the job {params.prompt!r} has ended")
        return found[0]


@pytest.fixture
def ended(redis_url: str, params: Any) -> Callable[..., Job]:
    """Runs a job with a prompt."""

    def submit(prompt: str, priority: Priority = Priority.interactive) -> Job:
        return run(redis_url, params(model="demo", prompt=prompt), priority)

    return submit


def order_about(redis_url: str) -> None:
    """Send the commands by which Celery lets anyone who reaches Redis end a worker; none may be listening."""
    with make_celery(Settings(redis_url=redis_url)) as celery:
        assert celery.control.ping(timeout=2) == []
        celery.control.cancel_consumer(queue_name("demo", Priority.interactive))
        celery.control.shutdown()


def test_a_job_that_kills_or_hangs_its_worker_ends_and_the_next_one_runs_in_a_new_process(
    redis_url: str, store: JobStore, tmp_path: Path, ended: Callable[..., Job]
) -> None:
    """Without waiting for leases to run out: the worker's next process says what became of the one before."""
    with working(redis_url, tmp_path, time_limit_seconds="3600") as log:
        deadly = ended("die")
        assert deadly.error is not None and deadly.error.code == "worker_lost"
        assert (deadly.attempt, deadly.lost_attempts) == (3, 3)
        hung = ended("hang", Priority.bulk)
        assert hung.error is not None and hung.error.code == "time_limit", log()
        assert (hung.attempt, hung.lost_attempts) == (1, 0)
        order_about(redis_url)
        following = ended("go on")
        assert following.error is not None and following.error.code == "out_of_memory", log()
        assert following.attempt == 1


def test_jobs_whose_bells_were_all_lost_are_run_once_the_worker_is_warm(
    redis_url: str, store: JobStore, tmp_path: Path, params: Any, valkey: redis.Redis
) -> None:
    """The worker compares its queues with the bells at each heartbeat, also while it works; but it is not announced and
    takes no job before it is warm."""
    jobs = [admit(store, params(model="demo"), priority=priority)[0] for priority in Priority for _ in range(10)]
    loaded, heartbeat = tmp_path / "loaded", tmp_path / "heartbeat"
    with started(redis_url, tmp_path, warm_up=str(loaded), heartbeat_file=str(heartbeat)) as (_, log):
        until(lambda: "the model is loading" in log(), "the warm-up begins")
        assert not store.announced()
        assert not heartbeat.exists()
        loaded.touch()
        until(lambda: not store.unfinished("open"), "every job has ended")
        until(lambda: not valkey.exists("generate.demo", "generate.demo:bulk"), "no bell is left over")
    ends = [store.get(job.id) for job in jobs]
    assert [job.attempt for job in ends if job and job.error and job.error.code == "out_of_memory"] == [1] * 20, log()


def test_a_worker_finds_the_primary_again_leaves_connections_that_died_without_a_word_and_outlives_refused_writes(
    short_folder: Path, tmp_path: Path, params: Any
) -> None:
    with running_pair(short_folder) as pair, working(f"{pair.url}?health_check_interval=1", tmp_path) as log:

        def code() -> str | None:
            job = run(pair.url, params(model="demo", prompt="go on"))
            return job.error.code if job.error else None

        assert code() == "out_of_memory", log()
        pair.proxy.forget()
        assert code() == "out_of_memory", log()
        pair.fail_over()
        until(lambda: "leads to a read-only replica" in log(), "the worker says what it cannot go on with")
        pair.point_to_second()
        assert code() == "out_of_memory", log()
        met = log().count("Connection to broker lost")
        pair.second.config_set("min-replicas-to-write", 2)  # refused as where the disk of its file is full
        until(lambda: log().count("Connection to broker lost") > met, "the worker hears that nothing is written")
        pair.second.config_set("min-replicas-to-write", 0)
        assert code() == "out_of_memory", log()


@pytest.mark.parametrize(
    ("warm_up", "ends"),
    [
        ("fail", (1, "not ready: MemoryError: no room for the model")),
        ("die", (1, "not ready: the process loading the model was killed")),
        ("stop", (0, "the model is loading")),
    ],
)
def test_a_worker_that_does_not_become_warm_ends(
    redis_url: str, store: JobStore, tmp_path: Path, warm_up: str, ends: tuple[int, str]
) -> None:
    with started(redis_url, tmp_path, warm_up=warm_up) as worker:
        if warm_up == "stop":  # which waits for a file that never comes
            until(lambda: "the model is loading" in worker.log(), "the warm-up begins")
            worker.process.terminate()
        assert (worker.process.wait(PATIENCE), ends[1] in worker.log()) == (ends[0], True)
        assert not store.announced()


def test_a_models_own_limit_holds_where_it_is_lower() -> None:
    spec = Catalog.load(None).default
    assert spec.model_copy(update={"time_limit_seconds": 5}).limit(7200) == 5
    assert spec.limit(7200) == 7200
    assert spec.model_copy(update={"time_limit_seconds": 9000}).limit(7200) == 7200


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="PyTorch takes a GPU's memory by 20 MiB, and so small a model fits"
)
def test_a_request_that_does_not_fit_into_the_workers_memory_is_refused_with_what_would(
    redis_url: str, tmp_path: Path
) -> None:
    catalog = demo_catalog(tmp_path / "catalog.json", {"demo": {"frames": [9, 33], "qualities": ["balanced"]}})
    limited = {"catalog": str(catalog), "worker_memory_bytes": "99000000"}
    settings = Settings(redis_url=redis_url, storage_url=str(tmp_path / "objects"), open_access=True, catalog=catalog)
    with started(redis_url, tmp_path, **limited) as worker, serving(settings, tmp_path) as service:
        load = service.store.load
        until(lambda: any(load("demo").queues[Priority.interactive].fits), "the worker tells what fits")
        assert "demo: does not fit into 0.0922 GiB, and is refused: 128x128 with 33 frames" in worker.log()
        refused = service.http.post("/videos", json={"prompt": "a red circle"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "num_frames"
        assert refused.json()["error"]["message"].endswith("allowed: up to 9 frames at 128x128")
        service.create(num_frames=9)
