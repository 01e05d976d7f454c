"""Celery application of a worker: one prefork child that runs one job at a time.

The parent process never imports torch: CUDA does not survive a fork, so the model is loaded in the child, before the
worker takes jobs (``readiness``) or by the first of them. On SIGTERM (or Ctrl-C) Celery stops taking messages and waits
for the running task; the flag below, in memory that parent and child share, makes that task give its job back at its
next denoising step.
"""

import ctypes
import gc
import logging
import os
import signal
import time
from functools import lru_cache
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import TYPE_CHECKING, Any

from adaspa_api.words import Priority
from adaspa_jobs import logs, tracing
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.queue import TASK, QueueUnavailable, make_celery, ring
from adaspa_jobs.settings import get_settings
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore, StoreUnavailable
from billiard.util import get_logger
from celery import bootsteps
from celery.exceptions import Reject, WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker import state

from adaspa_worker import heartbeat, metrics, scratch
from adaspa_worker.lease import HEAR_SECONDS, WorkerStopping
from adaspa_worker.parent import die_with_parent
from adaspa_worker.provenance import Provenance
from adaspa_worker.readiness import Readiness, State, has_limit, warms_up
from adaspa_worker.runner import Runner
from adaspa_worker.source import ModelUnavailable, folder_of

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine

log = logging.getLogger(__name__)

LAST_SECONDS = 600.0
"""A child in which not even the lease's thread runs, as in a call that keeps Python's lock, is killed by the parent
this long after the time limit."""

app = make_celery(get_settings())
app.conf.task_time_limit = get_settings().time_limit_seconds + LAST_SECONDS
# A child that warms up says that it is there once it is warm, however long that takes.
app.conf.worker_proc_alive_timeout = 24 * 3600.0
_stopping = RawValue(ctypes.c_bool, False)
_readiness = Readiness()
_fits = RawArray(ctypes.c_char, 2**18)
"""JSON of what fits into the child's memory, for its parent to announce."""


@app.task(name=TASK, acks_late=True)
def generate() -> None:
    """Run the job that is next. Everything about it is in its record; a failed job is a successful task."""
    try:
        runner().run(os.environ["ADASPA_WORKER_MODEL"])
    except (WorkerStopping, StoreUnavailable) as error:
        raise Reject(repr(error), requeue=True) from None  # the runner has told the log


@lru_cache(maxsize=1)
def runner() -> Runner:
    """Return the child's runner; its connections must not be inherited from the parent."""
    settings = get_settings()
    return Runner(
        store=JobStore.from_settings(settings),
        storage=ObjectStorage(settings.storage_url),
        engine=engine,
        name=os.environ["ADASPA_WORKER_NAME"],
        entry=served().denoising,
        stopping=lambda: bool(_stopping.value),
        end_process=lambda: os.kill(os.getpid(), signal.SIGKILL),
        hear_seconds=min(settings.lease_seconds / 3, HEAR_SECONDS),
        time_limit_seconds=served().limit(settings.time_limit_seconds),
        checkpoint_steps=settings.checkpoint_steps,
        checkpoint_seconds=settings.checkpoint_seconds,
        upload_retry_seconds=settings.upload_retry_seconds,
        fail_blank=settings.fail_blank,
        provenance=Provenance.of(settings),
        priorities=priorities(),
        spec=served(),
    )


@lru_cache(maxsize=1)
def engine(model: str) -> "Engine":
    """Return the loaded model. A failed load is not remembered: the next job tries again."""
    from adaspa_worker.pipeline import load  # noqa: PLC0415  torch, only in the child

    spec = Catalog.load(get_settings().catalog).get(model)
    if spec is None:
        raise ModelUnavailable(f"model {model} is not in this worker's catalog")
    loaded = load(spec, folder_of(spec))
    # What is there now stays. Each job ends with a look for garbage, which else goes through all of it, for 0.3 s.
    gc.collect()
    gc.freeze()
    return loaded


def prepare() -> None:
    """Find out what fits into this worker's memory; then load the model, if a worker is warm before it takes jobs."""
    settings = get_settings()
    if has_limit(settings):
        from adaspa_worker import memory_limit, room  # noqa: PLC0415  torch, only in the child

        spec = served()
        fits = room.tell(spec, folder_of(spec), memory_limit.memory_limit())
        _fits.value = b"" if fits is None else fits.model_dump_json().encode()
    if warms_up(settings):
        load_warm()


def load_warm() -> None:
    """Load the model, and run a short clip. Raises whatever is wrong with it."""
    import torch  # noqa: PLC0415  only in the child

    from adaspa_worker.warm_up import warm_up  # noqa: PLC0415

    if get_settings().warm is None and not torch.cuda.is_available():  # a driver, and a PyTorch without CUDA
        return
    spec, start = served(), time.monotonic()
    log.info("%s: loading the model", spec.id)
    loaded = engine(spec.id)
    took = time.monotonic() - start
    compilations = warm_up(loaded, spec, folder_of(spec))
    log.info(
        "%s: ready after %.1f s, including %.1f s of loading; %s", spec.id, time.monotonic() - start, took, compilations
    )


def served() -> ModelSpec:
    """Return the catalog entry of this worker's model."""
    spec = Catalog.load(get_settings().catalog).get(os.environ["ADASPA_WORKER_MODEL"])
    assert spec is not None  # __main__ has looked
    return spec


def priorities() -> list[Priority]:
    """Return the queues of the model that this worker serves."""
    return [Priority(name) for name in os.environ["ADASPA_WORKER_PRIORITIES"].split(",")]


class WarmFirst(bootsteps.StartStopStep):
    """Step of Celery's worker, before it connects to Redis: wait until the child is ready, or end with it."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        while (reached := _readiness.state) is not State.ready:
            gone = any(child.exitcode is not None for child in worker.pool._pool._pool)
            state.maybe_shutdown()  # only now: a child that has ended may have been told to
            if gone:
                log.error("not ready: the process loading the model was killed")
                raise WorkerShutdown(EX_FAILURE)
            if reached is State.failed:
                raise WorkerShutdown(EX_FAILURE)
            time.sleep(0.02)


class Heartbeat(bootsteps.StartStopStep):
    """Step of Celery's consumer that runs from the moment that the worker takes jobs.

    It beats, announces the model, and rings for jobs that wait without a bell.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        self._store, self._spec = JobStore.from_settings(get_settings()), served()
        self._beat()
        self._timer = consumer.timer.call_repeatedly(heartbeat.EVERY_SECONDS, self._beat)

    def _beat(self) -> None:
        heartbeat.beat()
        if _readiness.state is State.failed:  # of a child in the place of another one
            state.should_stop = EX_FAILURE
        if _readiness.state is not State.ready:
            return
        try:
            bells = self._store.announce(
                self._spec, os.environ["ADASPA_WORKER_NAME"], priorities(), Fits.read(_fits.value)
            )
            for priority, times in bells.items():
                ring(app, self._spec.id, priority, times)
        except (StoreUnavailable, QueueUnavailable) as error:
            log.warning("no heartbeat: %s", error)

    def stop(self, consumer: Any) -> None:
        self._timer.cancel()


app.steps["worker"].add(WarmFirst)
app.steps["consumer"].add(Heartbeat)


@celeryd_init.connect
@setup_logging.connect
def _configure_logs(**_: object) -> None:
    """Before Celery's first warning; and it leaves logging alone once somebody has connected to ``setup_logging``."""
    logs.configure(get_settings())
    get_logger().propagate = True  # the pool's own, which tells of killed children, otherwise prints bare lines


@worker_init.connect
def _serve_metrics(**_: object) -> None:
    if port := get_settings().metrics_port:
        metrics.serve(port)


@worker_shutdown.connect
def _remove_metrics(**_: object) -> None:
    metrics.remove()


@worker_shutting_down.connect
def _tell_child(**_: object) -> None:
    _stopping.value = True


@worker_process_init.connect
def _begin_child(**_: object) -> None:
    metrics.forget_earlier_child()
    scratch.clear(os.environ["ADASPA_WORKER_NAME"])
    tracing.start("adaspa-worker")


@worker_process_shutdown.connect
def _end_child(**_: object) -> None:
    tracing.flush()


@worker_process_init.connect
def _die_with_parent(**_: object) -> None:
    """A child whose parent was killed would go on with a job that another worker takes over."""
    die_with_parent()


@worker_process_init.connect
def _become_ready(**_: object) -> None:
    """After the others: it may take minutes."""
    settings = get_settings()
    needed = warms_up(settings) or has_limit(settings)
    _readiness.reach(prepare if needed else None, lambda: bool(_stopping.value))
