"""What a worker looks at before it becomes Celery's, and what it says where that is not as it has to be."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.redis_check import Problem
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_worker import __main__ as program
from adaspa_worker import metrics
from adaspa_worker.provenance import ProvenanceError
from chaos.workshop import raising
from gateway_process import taken_port
from tiny_catalog import model_spec, write_catalog

SAFE, FATAL, OTHER = (
    Problem("it loses jobs when it restarts", "set appendonly", fatal=False),
    Problem("it is a replica", "name the primary", fatal=True),
    Problem("it is full", "give it room", fatal=True),
)


class Start:
    """A start of the program, up to where it becomes Celery's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
        self.patch, self.settings = monkeypatch, settings
        self.became: list[list[str]] = []
        self.done: list[str] = []
        for name in ("kernel_cache", "allocator"):
            part = SimpleNamespace(use=lambda *_, name=name: self.done.append(name))
            monkeypatch.setattr(program, name, part)
        monkeypatch.setattr(program.os, "execv", lambda _, command: self.became.append(command))
        for name in ("NAME", "MODEL", "PRIORITIES"):
            monkeypatch.setenv(f"ADASPA_WORKER_{name}", "")
        monkeypatch.setenv(metrics.FOLDER, "")
        monkeypatch.delenv(metrics.FOLDER)

    def __call__(self, *arguments: str, **changes: Any) -> list[str]:
        settings = self.settings.model_copy(update=changes)
        self.patch.setattr(program, "get_settings", lambda: settings)
        self.patch.setattr("sys.argv", ["adaspa_worker", *arguments])
        self.became.clear()
        program.main()
        (command,) = self.became
        return command


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    catalog = write_catalog(tmp_path / "catalog.json", model_spec("builtin:demo", id="stub"))
    own: dict[str, Any] = {"redis_url": redis_url, "storage_url": str(tmp_path / "objects"), "catalog": catalog}
    yield Start(monkeypatch, Settings(_env_file=None, **own))
    if folder := os.environ.get(metrics.FOLDER):
        Path(folder).rmdir()


def test_a_redis_that_cannot_be_used_is_refused_and_of_any_other_nothing_is_said(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for problems, said in (([], []), ([SAFE], []), ([SAFE, FATAL, OTHER], [FATAL, OTHER])):
        found = SimpleNamespace(problems=problems)
        monkeypatch.setattr(program.redis_check, "look", lambda _, found=found: found)
        if not said:
            assert start()
            continue
        with pytest.raises(SystemExit) as ended:
            start()
        assert ended.value.code == 1 and start.became == []
        assert capsys.readouterr().err.splitlines() == [f"adaspa worker: {problem}" for problem in said]


def test_a_worker_that_could_not_do_its_jobs_does_not_take_up_those_of_its_last_process(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is known to be in vain would cost them an attempt."""
    taken_up: list[str] = []
    monkeypatch.setattr(JobStore, "start_worker", lambda _, name: taken_up.append(name))
    refusals: list[tuple[Any, str, Exception]] = [
        (program.kernel_cache, "use", program.SettingsError("ADASPA_KERNEL_CACHE: cannot write")),
        (program.Catalog, "load", program.CatalogError("catalog: broken")),
        (program, "folder_of", program.ModelUnavailable("stub: no folder")),
        (program, "check", program.ModelUnavailable("stub: broken")),
        (program.Provenance, "check", ProvenanceError("cannot sign a file")),
        (program.ObjectStorage, "check", program.StorageUnavailable("storage: away")),
    ]
    for owner, name, error in refusals:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, raising(error))
            with pytest.raises(SystemExit) as ended:
                start()
        assert (ended.value.code, capsys.readouterr().err) == (1, f"adaspa worker: {error}\n")
        assert taken_up == [] and start.became == []
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "start_worker", raising(program.StoreUnavailable("redis: away")))
        with pytest.raises(SystemExit):
            start()
    assert capsys.readouterr().err == "adaspa worker: redis: away\n" and start.became == []
    command = start()
    assert taken_up == [command[command.index("--hostname") + 1]]


def test_metrics_have_their_folder_and_port_only_where_they_are_served(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    assert metrics.FOLDER not in os.environ
    with taken_port() as port, pytest.raises(SystemExit):
        start(metrics_port=port)
    assert f"ADASPA_METRICS_PORT: cannot use port {port} (" in capsys.readouterr().err and start.became == []
    assert metrics.FOLDER not in os.environ, "nothing is left of a worker that did not start"
    start(metrics_port=port)
    assert Path(os.environ[metrics.FOLDER]).is_dir()


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_the_worker_is_what_the_settings_say(start: Start, level: str, store: JobStore) -> None:
    command = start(log_level=level)
    assert command[command.index("--loglevel") + 1] == level
    assert {"--without-gossip", "--without-mingle", "--without-heartbeat"} <= {*command}
    assert command[command.index("--pool") + 1] == "prefork", "its child can be killed"
    assert start.done == ["kernel_cache", "allocator"], "before PyTorch is imported"
    assert os.environ["ADASPA_WORKER_MODEL"] == "stub", "the catalog's first"


def test_a_name_that_stays_is_the_operators(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def named() -> str:
        start()
        return os.environ["ADASPA_WORKER_NAME"]

    host = program.socket.gethostname()
    monkeypatch.delenv(program.WORKER_ID, raising=False)
    first, second = named(), named()
    assert first != second and first.startswith("stub-") and first.endswith(f"@{host}")
    monkeypatch.setenv(program.WORKER_ID, "gpu-3")
    assert named() == named() == f"stub-gpu-3@{host}"


@pytest.mark.parametrize(
    ("arguments", "queues", "priorities"),
    [
        ((), "generate.stub,generate.stub:bulk", "interactive,bulk"),
        (("--only", "bulk"), "generate.stub:bulk", "bulk"),
        (("--only", "interactive", "--model", "stub"), "generate.stub", "interactive"),
    ],
    ids=str,
)
def test_a_worker_serves_both_queues_of_its_model_or_the_one_that_it_is_told(
    start: Start, arguments: tuple[str, ...], queues: str, priorities: str
) -> None:
    command = start(*arguments)
    assert command[command.index("--queues") + 1] == queues
    assert os.environ["ADASPA_WORKER_PRIORITIES"] == priorities, "what its child claims jobs of"


def test_a_model_that_the_catalog_lacks_is_named_with_those_that_it_has(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start("--model", "none")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "adaspa worker: --model: 'none' is not in the catalog; allowed: stub\n"
