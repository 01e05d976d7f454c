"""Scenes of processes that start, are told to stop, and start again: what they announce, take up, and give back."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import redis
from adaspa_api.report import AttentionReport
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore, StoreUnavailable
from adaspa_service.local import process as processes
from adaspa_service.local.process import Child
from adaspa_worker import __main__ as program
from adaspa_worker import heartbeat, metrics
from adaspa_worker.lease import WorkerStopping
from adaspa_worker.readiness import Readiness, State, warms_up
from admitting import create
from tiny_catalog import model_spec, write_catalog
from valkey_process import running_valkey
from waiting import runs, until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import ASKED, raising

ID = "one"
"""The part of a worker's name that stays when it starts again."""


@contextmanager
def place(**settings: Any) -> Iterator[tuple[Settings, JobStore]]:
    """Redis and a folder for a worker of a model of which only the catalog is read."""
    with (
        running_valkey("--appendonly", "yes") as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        catalog = write_catalog(
            folder / "catalog.json", model_spec("builtin:demo", id="stub"), model_spec("builtin:demo", id="other")
        )
        own = {
            "redis_url": f"unix://{folder}/valkey.sock?db=0",
            "storage_url": str(folder / "objects"),
            "catalog": catalog,
        }
        yield Settings(_env_file=None, **(own | settings)), JobStore(client, max_attempts=3)


class Begins(Scene):
    """The worker's program, up to where it becomes Celery's."""

    name = "by hand: a worker that starts"
    promise = "a worker that starts takes up what its earlier process had, and serves what it was told to"

    def play(self, stage: Stage) -> None:
        with place() as (settings, store):
            self.served(settings, store)
            self.taken_up(settings, store)
            self.refused(settings)

    def start(self, settings: Settings, *arguments: str, worker: str | None = ID) -> tuple[list[str], dict[str, str]]:
        """Run the program; the command that it becomes, and its environment."""
        became: list[list[str]] = []
        seen: dict[str, str] = {}

        def execute(_: str, command: list[str]) -> None:
            became.append(command)
            seen.update(os.environ)

        named = {program.WORKER_ID: worker} if worker else {}
        with (
            patch("sys.argv", ["adaspa_worker", *arguments]),
            patch.object(program, "get_settings", lambda: settings),
            patch.object(program.os, "execv", execute),
            patch.dict(os.environ, named),
        ):
            program.main()
        return became[0], seen

    def option(self, command: list[str], name: str) -> str:
        return command[command.index(name) + 1]

    def served(self, settings: Settings, store: JobStore) -> None:
        for arguments, model, queues, priorities in (
            ((), "stub", "generate.stub,generate.stub:bulk", "interactive,bulk"),
            (("--model", "other"), "other", "generate.other,generate.other:bulk", "interactive,bulk"),
            (("--only", "interactive"), "stub", "generate.stub", "interactive"),
            (("--only", "bulk", "--model", "other"), "other", "generate.other:bulk", "bulk"),
        ):
            command, environment = self.start(settings, *arguments)
            assert self.option(command, "--queues") == queues, f"{arguments}: serves {self.option(command, '--queues')}"
            told = {name: environment[f"ADASPA_WORKER_{name}"] for name in ("MODEL", "PRIORITIES", "NAME")}
            assert (told["MODEL"], told["PRIORITIES"]) == (model, priorities), f"{arguments}: {told}"
            assert self.option(command, "--hostname") == told["NAME"] and told["NAME"].startswith(f"{model}-{ID}@"), (
                told
            )
            assert self.option(command, "--concurrency") == "1", "a worker runs several jobs at a time"
        names = {self.start(settings, worker=None)[1]["ADASPA_WORKER_NAME"] for _ in range(2)}
        assert len(names) == 2, "two workers without a name of their own have one"

    def taken_up(self, settings: Settings, store: JobStore) -> None:
        """An earlier process of this worker had a job; so had one of another."""
        own, other = (create(store, JobParams.model_validate(ASKED)) for _ in range(2))
        name = self.start(settings)[1]["ADASPA_WORKER_NAME"]
        assert store.claim("stub", name, "earlier") and store.claim("stub", "another", "x")
        self.start(settings, "--model", "other")
        assert store.get(own.id).status == "in_progress", "a worker of another model gives it back"  # type: ignore[union-attr]
        self.start(settings)
        found: Any = store.get(own.id)
        assert (found.status, found.lost_attempts) == ("queued", 1), f"its job waits for its lease: {found.status}"
        assert store.get(other.id).status == "in_progress", "another worker's job is given back"  # type: ignore[union-attr]
        for _ in range(2):
            assert store.claim("stub", name, "earlier")
            self.start(settings)
        found = store.get(own.id)
        assert (found.status, found.error.code) == ("failed", "worker_lost"), f"after three starts: {found.status}"

    def refused(self, settings: Settings) -> None:
        """What is wrong is one line, and the end."""
        for arguments, changes, says in (
            (("--model", "none"), {}, "--model: 'none' is not in the catalog; allowed: stub, other"),
            ((), {"redis_url": "unix:///nowhere/valkey.sock"}, "valkey.sock"),
            ((), {"storage_url": "/dev/null/objects"}, "objects"),
            ((), {"catalog": Path("/nowhere.json")}, "/nowhere.json"),
        ):
            said: list[str] = []
            stderr = SimpleNamespace(write=said.append, flush=lambda: None)
            with patch("sys.stderr", stderr):
                try:
                    self.start(settings.model_copy(update=changes), *arguments)
                except SystemExit as error:
                    assert error.code == 1, f"{arguments} {changes}: ends with {error.code}"
                else:
                    raise AssertionError(f"a worker starts with {arguments} {changes}")
            text = "".join(said).strip()
            assert says in text and "\n" not in text and text.startswith("adaspa worker: "), f"{changes}: {text}"


class Ready(Scene):
    """The states of a worker's child, and what its parent tells of it."""

    name = "by hand: a worker that becomes ready"
    promise = "no job is announced for a worker that is not ready, and one that cannot be ready ends"

    def play(self, stage: Stage) -> None:
        self.states()
        with place(warm=False) as (settings, store), TemporaryDirectory() as folder:
            own = {
                "ADASPA_WORKER_MODEL": "stub",
                "ADASPA_WORKER_NAME": "one",
                "ADASPA_WORKER_PRIORITIES": "interactive,bulk",
            }
            own[heartbeat.VARIABLE] = f"{folder}/beat"
            with patch.dict(os.environ, own), patch("adaspa_jobs.settings.get_settings", lambda: settings):
                from adaspa_worker import app  # noqa: PLC0415  which reads settings as it is imported

                with patch.object(app, "get_settings", lambda: settings):
                    self.beats(app, store, Path(folder, "beat"))
                    self.runner(app, settings)
                    self.given_back(app)
        self.reports()

    def states(self) -> None:
        for begins, warm_up, stops, ends in (
            (State.begun, None, False, State.ready),
            (State.begun, lambda: None, False, State.ready),
            (State.begun, raising(ValueError("x")), False, State.failed),
            (State.begun, raising(AssertionError("it warms up, though it is to stop")), True, State.ready),
            (State.warming, lambda: None, False, State.failed),
            (State.warming, None, False, State.ready),
            (State.ready, lambda: None, False, State.ready),
        ):
            readiness, seen = Readiness(), list[State]()
            readiness._state.value = begins

            def noted(warm_up: Any = warm_up, readiness: Readiness = readiness, seen: list[State] = seen) -> None:
                seen.append(readiness.state)
                warm_up()

            readiness.reach(noted if warm_up else None, lambda stops=stops: stops)
            assert readiness.state is ends, f"{begins.name}: then {readiness.state.name}, not {ends.name}"
            assert all(state is State.warming for state in seen), f"while it warms up it is {seen}"
        for told in (None, True, False):  # if nobody says, whoever has a GPU
            for gpu in (True, False):
                with patch("adaspa_worker.readiness.has_gpu", lambda gpu=gpu: gpu):
                    found = warms_up(Settings(_env_file=None, warm=told))
                assert found is (gpu if told is None else told), f"told {told}, with a GPU {gpu}: it warms up {found}"

    def beats(self, app: Any, store: JobStore, file: Path) -> None:
        celery = SimpleNamespace(timer=SimpleNamespace(call_repeatedly=lambda *_: SimpleNamespace(cancel=lambda: None)))
        rung: list[tuple[str, int]] = []
        jobs = [create(store, JobParams.model_validate(ASKED)) for _ in range(3)]
        step, shut = app.Heartbeat(None), app.state.should_stop
        with patch.object(app, "ring", lambda _, model, priority, times: rung.append((str(priority), times))):
            for state, workers in ((State.begun, 0), (State.warming, 0), (State.failed, 0), (State.ready, 1)):
                app._readiness._state.value = state
                app.state.should_stop = None
                file.unlink(missing_ok=True)
                step.start(celery)
                assert file.exists(), f"a worker that is {state.name} does not beat"
                assert store.load("stub").workers == workers, f"a worker that is {state.name} is announced"
                assert bool(app.state.should_stop) == (state is State.failed), f"{state.name}: {app.state.should_stop}"
        app.state.should_stop = shut
        assert rung == [("interactive", 3), ("bulk", 0)], f"jobs whose bells are lost are rung for: {rung}"
        assert [spec.id for spec in store.announced()] == ["stub"]
        with patch.object(step._store, "announce", raising(StoreUnavailable("away"))):
            file.unlink()
            step._beat()
            assert file.exists(), "a worker whose Redis is away does not beat"
        for job in jobs:
            store.request_cancel(job.id)

    def runner(self, app: Any, settings: Settings) -> None:
        """A worker's jobs are run as its settings say."""
        own = {"time_limit_seconds": 500.0, "checkpoint_steps": 7, "checkpoint_seconds": 11.0, "fail_blank": True}
        own |= {"upload_retry_seconds": 13.0, "lease_seconds": 3.0}
        for limit, wanted in ((None, 500.0), (200.0, 200.0), (900.0, 500.0)):
            spec = app.served().model_copy(update={"time_limit_seconds": limit})
            changed = settings.model_copy(update=own)
            with (
                patch.object(app, "get_settings", lambda changed=changed: changed),
                patch.object(app, "served", lambda spec=spec: spec),
            ):
                app.runner.cache_clear()
                made = app.runner()
            assert made.time_limit_seconds == wanted, f"a limit of {limit} of the model: {made.time_limit_seconds}"
            told = made.checkpoint_steps, made.checkpoint_seconds, made.upload_retry_seconds, made.fail_blank, made.name
            assert told == (7, 11.0, 13.0, True, "one"), told
            assert made.hear_seconds <= 1.0, f"with a lease of 3 s a cancel is heard within {made.hear_seconds}"
            assert [str(each) for each in made.priorities] == ["interactive", "bulk"]
        app.runner.cache_clear()

    def given_back(self, app: Any) -> None:
        """The message of a job that is given back goes back, too."""
        conf = app.app.conf
        assert not conf.worker_enable_remote_control, "whoever reaches Redis can end a worker by one message"
        assert list(conf.accept_content) == ["json"], f"a worker reads messages in {conf.accept_content}"
        assert conf.task_acks_late and conf.task_reject_on_worker_lost and conf.worker_prefetch_multiplier == 1
        for error, again in ((WorkerStopping(), True), (StoreUnavailable("away"), True), (None, False)):
            runs = SimpleNamespace(run=raising(error) if error else lambda _: None)
            with patch.object(app, "runner", lambda runs=runs: runs):
                try:
                    app.generate()
                except app.Reject as rejected:
                    assert again and rejected.requeue, f"{error!r}: its message is lost"
                else:
                    assert not again, f"{error!r}: its message counts as done"

    def reports(self) -> None:
        """What a job's report says is counted."""
        shared = {"dense_steps": 1, "search_steps": 0, "sparse_steps": 0, "dense_seconds": 0.1, "search_seconds": 0.0}
        shared |= {"sparse_seconds": 0.0, "searches": 0}

        def told(name: str) -> float:
            kept = getattr(metrics, name).collect()[0].samples
            return sum(
                each.value for each in kept if each.labels.get("model") == "told" and each.name.endswith(ends[name])
            )

        ends = {"density": "_sum", "work": "_sum", "recall": "_sum", "fell_back": "_total", "cache_bytes": "bytes"}
        for more, wanted in (
            ({"density": 0.5, "attention_work": 0.25, "recall": 0.75, "cache_bytes": 7}, [0.5, 0.25, 0.75, 0, 7]),
            ({"density": 1.0, "fell_back": ["a", "b"], "cache_bytes": 3}, [1.5, 0.25, 0.75, 1, 3]),
        ):
            metrics.observe_report("told", AttentionReport.model_validate(shared | more))
            found = [told(name) for name in ends]
            assert found == wanted, f"{[*ends]} of {more}: {found}, not {wanted}"


class Tended(Scene):
    """Programs that a supervisor starts: they end by themselves, hang, or leave something behind."""

    name = "by hand: programs that are started again"
    promise = "a program that ends is started again, later each time, and one that is stopped leaves nothing"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.again(folder)
            self.stopped(folder)

    def child(self, folder: Path, code: str, **more: Any) -> Child:
        command = [sys.executable, "-c", dedent(code)]
        return Child("it", command, folder, os.environ, ready=lambda: True, **more)

    def again(self, folder: Path) -> None:
        child, now = self.child(folder, "print('first'); raise SystemExit('the last words')"), [1000.0]
        with patch.object(processes, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)):
            delays = []
            for _ in range(7):
                child.start()
                until(lambda: child.exit_status() is not None, "it ends")
                assert child.exit_status() == 1 and child.last_words() == "the last words", child.last_words()
                now[0] += 5
                delays.append(child.schedule_restart())
                assert child.restart_at == now[0] + delays[-1]
            assert delays == [1, 2, 5, 10, 30, 30, 30], f"it is started again after {delays}"
            child.start()
            until(lambda: child.exit_status() is not None, "it ends")
            now[0] += 121
            assert child.schedule_restart() == 1, "one that ran for two minutes is started again as late as before"
        child = self.child(folder, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        child.start()
        until(lambda: child.exit_status() is not None, "it ends")
        assert child.last_words() == "SIGKILL" and not child.is_ready()

    def stopped(self, folder: Path) -> None:
        code = """
            import signal, subprocess, sys, time
            {0}
            other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(other.pid, flush=True)
            time.sleep(600)
        """
        for does, seconds, hurry, status in (
            ("", 600.0, False, -signal.SIGTERM),
            ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", 600.0, False, 0),
            ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.3, False, -signal.SIGKILL),
            ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 600.0, True, -signal.SIGKILL),
        ):
            child = self.child(folder, code.format(does), stop_seconds=seconds)
            child.log.unlink(missing_ok=True)
            child.start()
            until(lambda child=child: child.log.read_text().strip(), "it has started another")
            child.stop(lambda hurry=hurry: hurry)
            assert child.exit_status() == status, f"{does}: ended with {child.exit_status()}, not {status}"
            other = int(child.log.read_text().split()[0])
            until(lambda other=other: not runs(other), f"{does}: what it had started goes on")


SCENES: list[Scene] = [Begins(), Ready(), Tended()]
