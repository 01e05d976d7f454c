"""When a worker takes jobs: the states of its child, and what its parent announces in each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_api.words import Priority
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.queue import QueueUnavailable
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import StoreUnavailable
from adaspa_worker import app, heartbeat
from adaspa_worker.readiness import Readiness, State
from celery.worker import state
from tiny_catalog import model_spec


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
    worker._beat()
    ready = [(worker._spec, "one", [Priority.bulk], None), ("m", Priority.bulk, 2)]
    assert done == ["beat", *(ready if child is State.ready else [])]
    assert (state.should_stop is None) == (child is not State.failed)
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
    monkeypatch.setattr(app._stopping, "value", True)
    assert made.stopping()
