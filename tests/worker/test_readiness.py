"""When a worker takes jobs: the states of its child, and what its parent announces in each."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_api.words import Priority
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.queue import QueueUnavailable
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import StoreUnavailable
from adaspa_worker import app, heartbeat, memory_limit, parent, readiness, room, runner
from adaspa_worker.lease import WorkerStopping
from adaspa_worker.readiness import Readiness, State, has_limit, warms_up
from adaspa_worker.source import ModelUnavailable
from celery.platforms import EX_FAILURE
from celery.worker import state
from tiny_catalog import model_spec
from waiting import PATIENCE, runs, until


def test_a_child_is_ready_once_it_is_warm_and_fails_for_good() -> None:
    seen: list[State] = []
    readiness = Readiness()
    assert readiness.state is State.begun
    readiness.reach(lambda: seen.append(readiness.state), lambda: False)
    assert (seen, readiness.state) == ([State.warming], State.ready)
    readiness.reach(lambda: seen.append(readiness.state), lambda: False)  # a later child, in the place of a killed one
    assert (seen[1:], readiness.state) == ([State.warming], State.ready)

    def broken() -> None:
        seen.append(readiness.state)
        raise ValueError("no such model")

    readiness.reach(broken, lambda: False)
    assert readiness.state is State.failed


def test_a_child_that_has_nothing_to_load_or_is_to_stop_loads_nothing() -> None:
    for warm_up, stopping in ((None, False), (lambda: pytest.fail("it loads"), True)):
        readiness = Readiness()
        readiness.reach(warm_up, lambda stopping=stopping: stopping)
        assert readiness.state is State.ready


def test_a_child_whose_predecessor_was_killed_while_it_loaded_ends_its_worker() -> None:
    readiness = Readiness()
    readiness._state.value = State.warming
    readiness.reach(lambda: pytest.fail("it loads again"), lambda: False)
    assert readiness.state is State.failed


@pytest.mark.parametrize("child", State)
def test_a_worker_beats_in_every_state_and_announces_its_model_only_when_it_is_ready(
    child: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setenv("ADASPA_WORKER_NAME", "one")
    monkeypatch.setenv("ADASPA_WORKER_PRIORITIES", "bulk")
    monkeypatch.setattr(heartbeat, "beat", lambda: done.append("beat"))
    monkeypatch.setattr(app, "_readiness", SimpleNamespace(state=child))
    monkeypatch.setattr(app, "ring", lambda _, *what: done.append(what))
    monkeypatch.setattr(state, "should_stop", None)
    worker: Any = app.Heartbeat.__new__(app.Heartbeat)
    worker._spec = SimpleNamespace(id="m")

    def announce(*what: Any) -> dict[Priority, int]:
        done.append(what)
        return {Priority.bulk: 2}

    worker._store = SimpleNamespace(announce=announce)
    fits = Fits(limit=7, frames={"": {"64x64": 9}})
    app._fits.value = fits.model_dump_json().encode()
    worker._beat()
    app._fits.value = b""
    ready = [(worker._spec, "one", [Priority.bulk], fits), ("m", Priority.bulk, 2)]
    assert done == ["beat", *(ready if child is State.ready else [])]
    assert state.should_stop == (EX_FAILURE if child is State.failed else None), "whoever started it hears of it"
    for error in (StoreUnavailable("away"), QueueUnavailable("away")):

        def away(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(app, "ring", away)
        worker._beat()  # the next one may find it back


@pytest.mark.parametrize(("lease", "hears"), [(3.0, 1.0), (60.0, 2.0)])
def test_a_runner_has_its_limits_from_settings_and_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease: float, hears: float
) -> None:
    own: dict[str, Any] = {"checkpoint_steps": 7, "checkpoint_seconds": 11.0, "upload_retry_seconds": 13.0}
    own |= {"fail_blank": True, "visible_mark": "made by a machine"}
    settings = Settings(_env_file=None, storage_url=str(tmp_path), lease_seconds=lease, time_limit_seconds=100.0, **own)
    spec = ModelSpec.model_validate(model_spec("builtin:demo", time_limit_seconds=50.0))
    monkeypatch.setenv("ADASPA_WORKER_NAME", "one")
    monkeypatch.setenv("ADASPA_WORKER_PRIORITIES", "bulk,interactive")
    monkeypatch.setattr(app, "get_settings", lambda: settings)
    monkeypatch.setattr(app, "served", lambda: spec)
    made, again = app.runner.__wrapped__(), app.runner.__wrapped__()
    names = ("checkpoint_steps", "checkpoint_seconds", "upload_retry_seconds", "fail_blank")
    assert {name: getattr(made, name) for name in names} == {name: own[name] for name in names}
    assert (made.name, made.hear_seconds, made.time_limit_seconds) == ("one", hears, 50.0)
    assert made.priorities == [Priority.bulk, Priority.interactive] and made.store.lease_seconds == lease
    assert made.provenance.mark == "made by a machine" and made.process != again.process
    assert made.entry == spec.denoising and made.engine is app.engine
    made.storage.create("videos/x", b"x")
    assert (tmp_path / "videos" / "x").read_bytes() == b"x"
    monkeypatch.setattr(app._stopping, "value", True)
    assert made.stopping()


def test_a_child_that_is_told_to_stop_ends_at_once_while_it_loads_and_not_with_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends, loading, stopping = list[int](), threading.Event(), threading.Event()
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(readiness.os, "_exit", lambda status: (ends.append(status), loading.set()))
    child = Readiness()

    def nobody_looks_any_more() -> None:
        for thread in threading.enumerate():
            if thread.name == "stopping":
                thread.join(PATIENCE / 10)
                assert not thread.is_alive(), "what looks whether the worker is to stop goes on behind the load"

    for fails in (False, True):

        def load(fails: bool = fails) -> None:
            assert not fails

        child.reach(load, stopping.is_set)
        nobody_looks_any_more()
    assert ends == []

    def loads() -> None:
        stopping.set()
        assert loading.wait(PATIENCE)

    stopping.set()
    Readiness().reach(loads, stopping.is_set)
    assert ends == [], "it has not even begun"
    stopping.clear()
    Readiness().reach(loads, stopping.is_set)
    nobody_looks_any_more()  # as long as ending the process is only noted
    assert ends and {*ends} == {0}


@pytest.mark.parametrize("gpu", [True, False])
def test_a_worker_warms_up_and_has_a_limit_with_a_gpu_or_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(readiness, "has_gpu", lambda: gpu)
    for warm, warms in ((None, gpu), (True, True), (False, False)):
        for limit, limited in ((None, gpu), (10**9, True)):
            settings = Settings(_env_file=None, warm=warm, worker_memory_bytes=limit)
            assert (warms_up(settings), has_limit(settings)) == (warms, limited), (gpu, warm, limit)


@pytest.mark.parametrize("there", [True, False])
def test_there_is_a_gpu_where_nvidias_driver_is(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def load(name: str) -> object:
        assert name == "libcuda.so.1"
        if not there:
            raise OSError("cannot open shared object file")
        return object()

    monkeypatch.setattr(readiness.ctypes, "CDLL", load)
    assert readiness.has_gpu() == there


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("limit", [None, 10**9])
def test_a_child_reckons_what_fits_and_then_loads_where_each_is_wanted(
    monkeypatch: pytest.MonkeyPatch, warm: bool, limit: int | None
) -> None:
    done: list[Any] = []
    settings = Settings(_env_file=None, warm=warm, worker_memory_bytes=limit)
    child = Readiness()
    monkeypatch.setenv("ADASPA_WORKER_MODEL", "demo")
    monkeypatch.setattr(readiness, "has_gpu", lambda: False)
    monkeypatch.setattr(app, "get_settings", lambda: settings)
    monkeypatch.setattr(app, "_readiness", child)
    monkeypatch.setattr(app, "load_warm", lambda: done.append("loads"))
    monkeypatch.setattr(memory_limit, "memory_limit", lambda: limit)
    told = Fits(limit=10**9, frames={"": {"64x64": 9}})
    monkeypatch.setattr(room, "tell", lambda *given: (done.append(given[2]), told)[1])
    try:
        app._become_ready()
        assert child.state is State.ready
        assert done == [*([limit] if limit else []), *(["loads"] if warm else [])]
        assert Fits.read(app._fits.value) == (told if limit else None)
    finally:
        app._fits.value = b""


def test_a_child_whose_memory_tells_nothing_announces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_env_file=None, warm=False, worker_memory_bytes=10**9)
    monkeypatch.setenv("ADASPA_WORKER_MODEL", "demo")
    monkeypatch.setattr(app, "get_settings", lambda: settings)
    monkeypatch.setattr(room, "tell", lambda *_: None)
    app.prepare()
    assert Fits.read(app._fits.value) is None


def test_a_new_child_clears_what_an_earlier_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ADASPA_WORKER_NAME", "one")
    left, others = (Path(tempfile.mkdtemp(prefix=f"adaspa-{name}-")) for name in ("one", "two"))
    app._begin_child()
    assert not left.exists() and others.exists()


def test_a_load_that_fails_is_tried_again_and_one_that_succeeds_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def load(spec: ModelSpec, folder: Path) -> Any:
        loads.append(spec.id)
        if len(loads) == 1:
            raise ModelUnavailable("not now")
        return SimpleNamespace(model=spec.id)

    monkeypatch.setattr("adaspa_worker.pipeline.load", load)
    monkeypatch.setattr(app.gc, "freeze", lambda: None)
    app.engine.cache_clear()
    try:
        with pytest.raises(ModelUnavailable, match="not now"):
            app.engine("demo")
        assert app.engine("demo") is app.engine("demo") and loads == ["demo", "demo"]
        assert app.engine("demo").model == "demo"  # type: ignore[attr-defined]
        with pytest.raises(ModelUnavailable, match="model nothing is not in this worker's catalog"):
            app.engine("nothing")
    finally:
        app.engine.cache_clear()


def test_a_child_that_hangs_has_its_limit_and_its_time_to_unwind_before_its_parent_kills_it() -> None:
    """So that the job fails with its own reason, and is not lost with its process."""
    limit = app.get_settings().time_limit_seconds
    assert app.app.conf.task_time_limit > limit + 2 * runner.UNWIND_SECONDS
    assert app.app.conf.worker_proc_alive_timeout >= 3600, "a load may take its time"


def test_a_runner_that_cannot_be_left_otherwise_kills_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADASPA_WORKER_MODEL", "demo")
    monkeypatch.setenv("ADASPA_WORKER_NAME", "one")
    monkeypatch.setenv("ADASPA_WORKER_PRIORITIES", "bulk")
    monkeypatch.setattr(app, "get_settings", lambda: Settings(_env_file=None, storage_url=str(tmp_path)))
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(app.os, "kill", lambda *what: killed.append(what))
    app.runner.__wrapped__().end_process()
    assert killed == [(os.getpid(), signal.SIGKILL)], "no clean end, in which a hanging kernel would be waited for"


def test_a_worker_whose_connection_is_made_anew_has_one_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery stops the consumer's steps when Redis is lost, and starts them again."""
    timers: list[str] = []
    monkeypatch.setattr(app.Heartbeat, "_beat", lambda self: timers.append("beats"))
    monkeypatch.setattr(app.JobStore, "from_settings", lambda settings: None)
    monkeypatch.setattr(app, "served", lambda: None)
    timer = SimpleNamespace(cancel=lambda: timers.append("ends"))
    consumer = SimpleNamespace(
        timer=SimpleNamespace(call_repeatedly=lambda seconds, beat: (timers.append(f"every {seconds}"), timer)[1])
    )
    step: Any = app.Heartbeat(None)
    for _ in range(2):
        step.start(consumer)
        step.stop(consumer)
    assert timers == ["beats", "every 5.0", "ends"] * 2


def test_the_folder_of_the_metrics_goes_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "metrics"
    (folder / "deeper").mkdir(parents=True)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    app._remove_metrics()
    assert not folder.exists()
    app._remove_metrics()
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    app._remove_metrics()


def test_a_process_whose_parent_is_killed_ends() -> None:
    """It would go on with a job that another worker takes over."""
    begins = "import time; from adaspa_worker.parent import die_with_parent; die_with_parent()"
    child = f"{begins}; print(1, flush=True); time.sleep(600)"
    code = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        input()
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen([sys.executable, "-c", dedent(code)], **pipes)  # type: ignore[call-overload]
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    parent.wait()
    try:
        until(lambda: not runs(pid), "the child ends", seconds=PATIENCE / 10)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_process_whose_parent_has_just_ended_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adopts it would be waited for instead."""
    ends: list[int] = []
    monkeypatch.setattr(parent.ctypes, "CDLL", lambda _: SimpleNamespace(prctl=lambda *_: None))
    monkeypatch.setattr(parent.os, "_exit", ends.append)
    for ids, wanted in (([7, 7], []), ([7, 1], [1])):
        monkeypatch.setattr(parent.os, "getppid", lambda ids=ids: ids.pop(0))
        parent.die_with_parent()
        assert ends == wanted


@pytest.mark.parametrize(
    ("becomes", "exits", "stops", "ends"),
    [
        (State.ready, None, None, None),
        (State.failed, None, None, EX_FAILURE),
        (State.warming, -9, None, EX_FAILURE),
        (State.warming, None, 0, 0),
        (State.warming, 0, 0, 0),
        (State.failed, 1, 0, 0),
    ],
    ids=["ready", "failed", "killed", "told to stop", "ended because it was told to", "failed as it was told to stop"],
)
def test_a_worker_waits_for_its_child_and_ends_as_the_first_reason_says(
    monkeypatch: pytest.MonkeyPatch, becomes: State, exits: int | None, stops: int | None, ends: int | None
) -> None:
    """A child that is told to stop ends by itself, which is no failure."""
    child, warming = SimpleNamespace(exitcode=None), SimpleNamespace(state=State.begun)
    looks: list[int] = []

    def sleep(_: float) -> None:
        looks.append(1)
        warming.state = State.warming
        if len(looks) == 3:
            warming.state, child.exitcode = becomes, exits
            monkeypatch.setattr(state, "should_stop", stops)
        assert len(looks) < 5, "it waits for ever"

    monkeypatch.setattr(app, "_readiness", warming)
    monkeypatch.setattr(app, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(state, "should_stop", None)
    worker = SimpleNamespace(pool=SimpleNamespace(_pool=SimpleNamespace(_pool=[child])))
    step: Any = app.WarmFirst.__new__(app.WarmFirst)
    if ends is None:
        step.start(worker)
    else:
        with pytest.raises(app.WorkerShutdown) as ended:
            step.start(worker)
        assert ended.value.code == ends
    assert len(looks) == 3


def test_a_child_that_has_ended_because_its_worker_is_to_stop_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the worker sees either: the signal comes, and the child ends, just before it is looked at."""

    class Child:
        @property
        def exitcode(self) -> int:
            monkeypatch.setattr(state, "should_stop", 0)
            return 0

    monkeypatch.setattr(app, "_readiness", SimpleNamespace(state=State.warming))
    monkeypatch.setattr(state, "should_stop", None)
    step: Any = app.WarmFirst.__new__(app.WarmFirst)
    with pytest.raises(app.WorkerShutdown) as ended:
        step.start(SimpleNamespace(pool=SimpleNamespace(_pool=SimpleNamespace(_pool=[Child()]))))
    assert ended.value.code == 0


@pytest.mark.parametrize(("warm", "cuda", "loads"), [(None, False, False), (None, True, True), (True, False, True)])
def test_a_driver_alone_is_no_gpu_to_warm_up(
    monkeypatch: pytest.MonkeyPatch, warm: bool | None, cuda: bool, loads: bool
) -> None:
    done: list[Any] = []
    monkeypatch.setenv("ADASPA_WORKER_MODEL", "demo")
    monkeypatch.setattr(app, "get_settings", lambda: Settings(_env_file=None, warm=warm))
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(app, "engine", lambda model: (done.append(model), "the engine")[1])
    monkeypatch.setattr("adaspa_worker.warm_up.warm_up", lambda engine, spec, folder: done.append((engine, spec.id)))
    app.load_warm()
    assert done == (["demo", ("the engine", "demo")] if loads else [])


@pytest.mark.parametrize("port", [None, 9100])
def test_metrics_are_served_where_a_port_is_set(monkeypatch: pytest.MonkeyPatch, port: int | None) -> None:
    served: list[int] = []
    monkeypatch.setattr(app, "get_settings", lambda: Settings(_env_file=None, metrics_port=port))
    monkeypatch.setattr(app.metrics, "serve", served.append)
    app._serve_metrics()
    assert served == ([port] if port else [])


def test_a_child_hears_through_shared_memory_that_its_worker_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app._stopping, "value", False)
    app._tell_child()
    assert app._stopping.value is True


def test_a_child_begins_and_ends_with_what_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's signals run these, each with arguments that they do without."""
    done: list[Any] = []
    monkeypatch.setenv("ADASPA_WORKER_NAME", "one")
    monkeypatch.setattr(app.metrics, "forget_earlier_child", lambda: done.append("forgets"))
    monkeypatch.setattr(app.scratch, "clear", done.append)
    monkeypatch.setattr(app.tracing, "start", done.append)
    monkeypatch.setattr(app.tracing, "flush", lambda: done.append("flushes"))
    monkeypatch.setattr(app, "die_with_parent", lambda: done.append("dies with its parent"))
    monkeypatch.setattr(app._readiness, "reach", lambda *_: done.append("becomes ready"))
    app.worker_process_init.send(sender=None)
    assert done == ["forgets", "one", "adaspa-worker", "dies with its parent", "becomes ready"], "what may last is last"
    done.clear()
    app.worker_process_shutdown.send(sender=None)
    assert done == ["flushes"]


def test_all_that_a_worker_logs_has_the_settings_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what Celery's pool says of children that were killed."""
    configured: list[Settings] = []
    settings = Settings(_env_file=None)
    monkeypatch.setattr(app, "get_settings", lambda: settings)
    monkeypatch.setattr(app.logs, "configure", configured.append)
    pool = app.get_logger()
    monkeypatch.setattr(pool, "propagate", False)
    for signals in (app.celeryd_init, app.setup_logging):
        configured.clear()
        pool.propagate = False
        signals.send(sender=None)
        assert configured == [settings] and pool.propagate


@pytest.mark.parametrize("error", [WorkerStopping(), StoreUnavailable("away"), ValueError("a mistake"), None], ids=repr)
def test_the_bell_of_a_job_that_goes_back_goes_back(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    ran: list[str] = []

    def run(model: str) -> None:
        ran.append(model)
        if error is not None:
            raise error

    monkeypatch.setenv("ADASPA_WORKER_MODEL", "demo")
    monkeypatch.setattr(app, "runner", lambda: SimpleNamespace(run=run))
    if error is None:
        app.generate()
    elif isinstance(error, ValueError):
        with pytest.raises(ValueError, match="a mistake"):
            app.generate()
    else:
        with pytest.raises(app.Reject) as rejected:
            app.generate()
        assert rejected.value.requeue
    assert ran == ["demo"]
