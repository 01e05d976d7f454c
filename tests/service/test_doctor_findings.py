"""Single findings of ``adaspa doctor``: what each says of what is there, and what it advises."""

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings, get_settings
from adaspa_service.cli.doctor import LITTLE_DISK, NO_DISK, Finding, State
from adaspa_service.local.folder import reachable_redis
from http_server import serving_file
from running_gateway import Service

doctor = import_module("adaspa_service.cli.doctor")  # the package has the command of this name


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ADASPA_")]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("free", "state"),
    [
        (0, State.broken),
        (NO_DISK - 1, State.broken),
        (NO_DISK, State.warning),
        (LITTLE_DISK - 1, State.warning),
        (LITTLE_DISK, State.ok),
    ],
)
def test_little_room_is_a_warning_and_none_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    looked_at: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (looked_at.append(path), SimpleNamespace(free=free))[1])
    found = doctor.disk("disk", tmp_path / "not" / "there" / "yet")
    assert (found.state, bool(found.mend)) == (state, state is not State.ok)
    assert found.found == f"{free / 2**30:.1f} GiB free" and looked_at == [tmp_path]


@pytest.mark.parametrize(
    ("variables", "state", "found", "mend"),
    [
        ({}, State.ok, "all defaults", ""),
        ({"ADASPA_PORT": "1", "ADASPA_API_KEY": "hunter2"}, State.ok, "ADASPA_API_KEY, ADASPA_PORT", ""),
        ({"ADASPA_PROT": "1"}, State.warning, "unknown setting: ADASPA_PROT", "ADASPA_PROT: did you mean ADASPA_PORT?"),
        (
            {"ADASPA_XYZXYZXYZXYZ": "hunter2", "ADASPA_PORT": "1"},
            State.warning,
            "unknown setting: ADASPA_XYZXYZXYZXYZ",
            "unset ADASPA_XYZXYZXYZXYZ",
        ),
    ],
)
def test_settings_are_named_and_their_values_are_not(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: State, found: str, mend: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert doctor.settings_found() == Finding("settings", state, found, mend)


def test_a_storage_that_is_not_there_yet_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.storage(Settings(), tmp_path / "data")
    assert (found.state, found.found) == (State.ok, f"{tmp_path / 'data' / 'objects'}: will be created")
    assert not (tmp_path / "data").exists()
    (tmp_path / "file").touch()
    inside = doctor.storage(Settings(), tmp_path / "file" / "data")
    assert inside.state is State.broken and f"cannot be created in {tmp_path / 'file'}" in inside.found
    assert "--data-dir" in inside.mend
    (tmp_path / "there" / "objects").mkdir(parents=True)
    whole = doctor.storage(Settings(), tmp_path / "there")
    assert (whole.state, "writing, listing and deleting work" in whole.found) == (State.ok, True)
    monkeypatch.setenv("ADASPA_STORAGE_URL", "memory:///")
    own = doctor.storage(Settings(), tmp_path / "there")
    assert own.found.startswith("memory:///: ")
    for slip in ("s3:bucket", "file:data", "https://a.example/x"):
        monkeypatch.setenv("ADASPA_STORAGE_URL", slip)
        broken = doctor.storage(Settings(), tmp_path / "there")
        assert broken.state is State.broken and "ADASPA_STORAGE_URL" in broken.mend, slip


def test_a_catalog_names_its_models_or_what_is_wrong(tmp_path: Path) -> None:
    assert doctor.catalog(Settings()) == Finding("catalog", State.ok, "built in: demo, demo-image")
    wrong = doctor.catalog(Settings(catalog=tmp_path / "none.json"))
    assert wrong.state is State.broken and "No such file" in wrong.found and "ADASPA_CATALOG" in wrong.mend


def test_a_server_of_ones_own_is_looked_at_while_it_runs(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> list[tuple[State, str]]:
        return [(each.state, each.found) for each in doctor.own_redis(Settings(), short_folder)]

    assert states() == [(State.ok, "not set; `adaspa serve` starts its own")]
    with reachable_redis(short_folder):
        ((state, found),) = states()
        assert state is State.ok and found.endswith("noeviction, append-only file on")
    monkeypatch.setattr(doctor, "installed", lambda _: None)
    assert states() == [(State.broken, "not set, and no embedded server installed")]


def raising() -> None:
    raise StoreUnavailable("away")


def test_a_port_is_free_or_a_gateways_or_anothers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    assert doctor.listening(host, int(port)).found == "a gateway answers and is ready"
    monkeypatch.setattr(service.store, "ping", raising)
    busy = doctor.listening(host, int(port))
    assert (busy.state, busy.found) == (State.warning, "a gateway answers but is not ready")
    assert f"{service.url}/readyz" in busy.mend
    with serving_file(b"a page", "text/html", {}) as other:
        taken = doctor.listening(host, other)
        assert taken.state is State.broken and "ADASPA_PORT" in taken.mend
    assert doctor.listening(host, other) == Finding(f"port {other} on {host}", State.ok, "free")


def test_packages_that_lack_are_a_warning_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"adaspa-serve": "1.2", "fastapi": "3", "uvicorn": "4", "torch": "5"}
    monkeypatch.setattr(doctor, "installed", there.get)
    own, service, worker, local = doctor.packages()
    assert own.state is State.ok and own.found.startswith("1.2 on Python 3.")
    assert (service.state, service.found) == (State.ok, "fastapi 3, uvicorn 4")
    assert (worker.state, worker.found) == (State.warning, "not installed: adaspa, diffusers, transformers, av")
    assert "adaspa-serve[worker]" in worker.mend and "adaspa-serve[local]" in local.mend
    there.clear()
    assert next(iter(doctor.packages())).state is State.broken


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Finding]]:
    """The worker's findings, by a program in the place of its checks."""
    (tmp_path / "adaspa_worker").mkdir()
    (tmp_path / "adaspa_worker" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "installed", lambda _: "1")

    def run(code: str) -> list[Finding]:
        (tmp_path / "adaspa_worker" / "doctor.py").write_text(dedent(code))
        return list(doctor.worker())

    return run


def test_a_workers_findings_are_its_own(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"check": name, "state": name, "found": "f", "mend": "m"} for name in ("ok", "warning", "broken")]
    assert checks(f"import json; print(json.dumps({rows!r}))") == [
        Finding(state.value, state, "f", "m") for state in State
    ]
    (broken,) = checks("raise SystemExit('one\\ntwo')")
    assert (broken.state, broken.found) == (State.broken, "two") and "adaspa-serve[worker]" in broken.mend
    (silent,) = checks("raise SystemExit(3)")
    assert silent.state is State.broken and "status 3" in silent.found
    (nonsense,) = checks("print('{oops')")
    assert nonsense.state is State.broken
    monkeypatch.setattr(doctor, "WORKER_SECONDS", 0.2)
    (late,) = checks("import time; time.sleep(600)")
    assert (late.state, late.found) == (State.broken, "no answer within 0 s")
    monkeypatch.setattr(doctor, "installed", lambda _: None)
    assert checks("raise SystemExit('is not asked')") == []
