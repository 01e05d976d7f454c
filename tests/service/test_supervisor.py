"""The supervisor of a whole service on one machine, with programs in the parts' places that do little."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from adaspa_service.local import LocalError, Supervisor, folder, process, valkey
from adaspa_service.local.supervisor import check_port, free_port
from waiting import PATIENCE, runs, until

PART = """
import json, os, signal, sys
from urllib.parse import unquote
import socket

NAME = os.path.basename(os.environ.get("ADASPA_HEARTBEAT_FILE", "gateway")).partition(".")[0]

def tell(**said):
    with open(os.environ["TOLD"], "ab", buffering=0) as file:  # a line at once, of several programs
        file.write(json.dumps({"name": NAME, **said}).encode() + b"\\n")

def store_answers():
    with socket.socket(socket.AF_UNIX) as wire:
        try:
            wire.connect(unquote(os.environ["ADASPA_REDIS_URL"].removeprefix("unix://").partition("?")[0]))
        except OSError:
            return False
        return True

def end(*_):
    tell(ends=True, store=store_answers())
    if os.environ.get("DEAF") != NAME:
        sys.exit(0)

signal.signal(signal.SIGTERM, end)
tell(environment=dict(os.environ), arguments=sys.argv[1:], pid=os.getpid(), store=store_answers())
if os.environ.get("BROKEN") == NAME:
    sys.exit("the model is broken")
"""
GATEWAY = """
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

TCPServer.allow_reuse_address = True
TCPServer((os.environ["ADASPA_HOST"], int(os.environ["ADASPA_PORT"])), Handler).serve_forever()
"""
WORKER = """
import time
time.sleep(float(os.environ.get("SLOW", 0)))
tell(ready=True)
open(os.environ["ADASPA_HEARTBEAT_FILE"], "w").close()
while True:
    signal.pause()
"""


class Told:
    """What the parts tell of themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def starts(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["name"] == name and "pid" in line]

    def ends(self) -> list[tuple[str, bool]]:
        """Each part that was told to end, in this order, and whether the store was still there."""
        return [(line["name"], line["store"]) for line in self.lines() if "ends" in line]


@pytest.fixture
def told(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The programs stand where Python looks first; nothing of the developer's own settings comes through."""
    code = short_folder / "code"
    (code / "adaspa_service").mkdir(parents=True)
    (code / "adaspa_service" / "__init__.py").touch()
    (code / "adaspa_service" / "gateway.py").write_text(PART + GATEWAY)
    (code / "adaspa_worker.py").write_text(PART + WORKER)
    for name in [name for name in os.environ if name.startswith("ADASPA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.setenv("TOLD", str(short_folder / "told"))
    return Told(short_folder / "told")


def supervisor(short_folder: Path, *workers: str | None, say: Callable[[str], None] = lambda _: None) -> Supervisor:
    host = "127.0.0.1"
    return Supervisor(short_folder / "data", host, free_port(host), workers=workers, say=say)


def test_each_part_is_told_what_is_its_own(short_folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"METRICS_PORT": "9464", "DRAIN_SECONDS": "30", "LOG_FORMAT": "json"}.items():
        monkeypatch.setenv(f"ADASPA_{name}", value)
    with supervisor(short_folder, None, "second", "third") as service:
        parts = {name: told.starts(name)[0] for name in ("gateway", "worker", "worker-2", "worker-3")}
        environments = {name: part["environment"] for name, part in parts.items()}
        shared = {
            "ADASPA_DATA_DIR": str(service.data_dir),
            "ADASPA_HOST": "127.0.0.1",
            "ADASPA_PORT": str(service.port),
            "ADASPA_OPEN_TOKEN": service.token,
            "ADASPA_REDIS_URL": service.redis_url,
            "ADASPA_STORAGE_URL": str(service.data_dir / "objects"),
            "ADASPA_LOG_FORMAT": "json",
        }
        for name, environment in environments.items():
            assert {key: environment.get(key) for key in shared} == shared, name
            assert parts[name]["store"], f"{name} is started before the store that it asks first"
        ports = {name: environment.get("ADASPA_METRICS_PORT") for name, environment in environments.items()}
        assert ports == {"gateway": None, "worker": "9464", "worker-2": None, "worker-3": None}
        assert "ADASPA_DRAIN_SECONDS" not in environments["gateway"], "what stops at once waits for nobody"
        assert [parts[name]["arguments"] for name in parts] == [[], [], ["--model", "second"], ["--model", "third"]]
        ids = {environment.get("ADASPA_WORKER_ID") for environment in environments.values()}
        assert len(ids) == 4 and None in ids, "two workers have one id, or the gateway has one"
        patience = {child.name: child.start_seconds for child in service.children}
        assert patience["worker"] == patience["worker-2"] == 1800, "its model may be downloaded, loaded and compiled"
        assert patience["valkey"] == patience["gateway"] == 60
    ends = told.ends()
    assert ends == [(name, True) for name in ("worker-3", "worker-2", "worker", "gateway")]
    with supervisor(short_folder, None):
        again = told.starts("worker")[1]["environment"]
        assert again["ADASPA_WORKER_ID"] == environments["worker"]["ADASPA_WORKER_ID"], "its job waits for its lease"


def test_what_is_set_wins_and_a_redis_that_is_set_is_not_started(
    short_folder: Path, told: Told, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "REDIS_URL": redis_url,
        "STORAGE_URL": "memory:///",
        "OPEN_TOKEN": "a-token-of-ones-own",
        "LOG_FORMAT": "auto",
    }
    for name, value in own.items():
        monkeypatch.setenv(f"ADASPA_{name}", value)
    with supervisor(short_folder) as service:
        (gateway,) = told.starts("gateway")
        assert {name: gateway["environment"][f"ADASPA_{name}"] for name in own} == own
        assert service.page == f"{service.url}/#token=a-token-of-ones-own" and service.redis_url == redis_url
        assert [child.name for child in service.children] == ["gateway"]
        assert not (service.data_dir / "valkey").exists()


def test_a_part_that_ends_is_started_again_as_it_was(
    short_folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "BACK_OFF_SECONDS", (0.0,))
    said: list[str] = []
    with supervisor(short_folder, None, say=said.append) as service:
        for name in ("gateway", "worker"):
            os.kill(told.starts(name)[0]["pid"], signal.SIGKILL)

            def comes_again(name: str = name) -> bool:
                service.watch()
                return len(told.starts(name)) == 2

            until(comes_again, f"{name} is started again")
            first, second = (each["environment"] for each in told.starts(name))
            assert first == second
        assert said == [f"{name} ended (SIGKILL); restarting it in 0 s" for name in ("gateway", "worker")]


def test_a_worker_is_waited_for_though_it_was_ready_an_earlier_time(
    short_folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, slow in enumerate(("0", "1"), 1):
        monkeypatch.setenv("SLOW", slow)
        with supervisor(short_folder, None):
            assert [line for line in told.lines() if "ready" in line] == [{"name": "worker", "ready": True}] * number


def test_a_part_that_does_not_start_ends_all_others(
    short_folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "worker")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    failing = supervisor(short_folder, None)
    with pytest.raises(LocalError, match="worker did not start: the model is broken"), failing:
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert not folder.answers_ping(short_folder / "data" / "run" / "valkey.sock")
    assert told.ends()[-1] == ("gateway", True)
    folder.claim(short_folder / "data").close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_wish_to_stop_ends_it_and_a_second_one_at_once(
    short_folder: Path, told: Told, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAF", "gateway")
    handler = signal.getsignal(number)

    def insist() -> None:
        until(told.ends, "the gateway is told to end, which it does not hear")
        os.kill(os.getpid(), number)

    impatient = threading.Thread(target=insist)
    with pytest.raises(KeyboardInterrupt), supervisor(short_folder) as service:
        for child in service.children:
            child.stop_seconds = 3600.0
        impatient.start()
        os.kill(os.getpid(), number)
        service.serve()
    impatient.join()
    assert all(child.exit_status() is not None for child in service.children)
    assert signal.getsignal(number) is handler


def test_a_port_is_chosen_that_is_free_and_that_no_program_is_given() -> None:
    ports = {free_port("127.0.0.1") for _ in range(20)}
    assert len(ports) > 10 and all(20_000 <= port < 32_768 for port in ports)
    with socket.create_server(("127.0.0.1", min(ports))):
        check_port("127.0.0.1", max(ports))
        with pytest.raises(LocalError, match=f"cannot use port {min(ports)} on 127.0.0.1 .*use --port"):
            check_port("127.0.0.1", min(ports))
    with pytest.raises(
        LocalError, match=r"192\.0\.2\.1: no port .* is free, or this machine does not have the address"
    ):
        free_port("192.0.2.1")


@pytest.fixture
def data_dir(short_folder: Path) -> Path:
    return short_folder / "data"


def test_a_folder_has_one_service_until_nobody_writes_there(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0.2)
    lock = folder.claim(data_dir)
    with pytest.raises(LocalError, match="another service is using data folder"):
        folder.claim(data_dir)
    server = folder.valkey_child(data_dir, os.environ, lock)
    server.start()
    lock.close()  # as the end of the process that had it does
    with pytest.raises(LocalError, match="another service is using data folder"):
        folder.claim(data_dir)
    server.stop(lambda: True)
    folder.claim(data_dir).close()


def test_a_folder_that_cannot_be_one_is_named(short_folder: Path) -> None:
    (file := short_folder / "file").touch()
    for path in (file, file / "data"):
        with pytest.raises(LocalError, match=f"data folder {path}: "):
            folder.claim(path)


def test_a_folder_keeps_its_name_and_no_other_has_it(short_folder: Path) -> None:
    names = []
    for path in (short_folder / "a", short_folder / "b"):
        folder.claim(path).close()
        names.append(folder.identity(path))
        assert folder.identity(path) == names[-1]
        (path / "run" / "id").write_text("")  # as a kill may leave it
        names.append(folder.identity(path))
        assert folder.identity(path) == names[-1]
    assert len({*names}) == 4 and all(names)


def test_a_server_without_its_supervisor_ends_with_all_written(data_dir: Path) -> None:
    """What its client was told to be done is there for the next one; a client that comes meanwhile needs none."""
    with folder.reachable_redis(data_dir) as url, redis.Redis.from_url(url) as client:
        client.set("kept", "x")
        with folder.reachable_redis(data_dir) as same, redis.Redis.from_url(same) as other:
            assert other.get("kept") == b"x"
        assert client.get("kept") == b"x", "whoever found it there has ended it"
    assert not folder.answers_ping(data_dir / "run" / "valkey.sock")
    with folder.reachable_redis(data_dir) as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"x"


def test_a_store_of_ones_own_keeps_all_that_it_is_told_and_is_its_users_alone(data_dir: Path) -> None:
    with folder.reachable_redis(data_dir) as url, redis.Redis.from_url(url) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "maxmemory": "0",
            "port": "0",
            "dir": str(data_dir / "valkey"),
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert (data_dir / "run" / "valkey.sock").stat().st_mode & 0o777 == 0o700


def child(name: str, path: Path, code: str, ready: Callable[[], bool], seconds: float = 60.0) -> process.Child:
    command = ["sh", "-c", dedent(code)]
    return process.Child(name, command, path, os.environ, ready=ready, start_seconds=seconds)


@pytest.fixture
def started(short_folder: Path) -> Iterator[list[process.Child]]:
    children: list[process.Child] = []
    yield children
    for each in children:
        each.stop(lambda: True)


def test_what_is_not_ready_is_told_once_and_then_given_up(
    short_folder: Path, started: list[process.Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        assert 0 < seconds < 1
        now[0] += seconds

    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    started += [
        child("quick", short_folder, "sleep 600", lambda: True),
        child("slow", short_folder, "sleep 600", lambda: now[0] > 1006),
        child("late", short_folder, "sleep 600", lambda: False, 20.0),
    ]
    said: list[tuple[str, float]] = []
    for each in started:
        each.start()
    with pytest.raises(LocalError, match="late is not ready after 20 s; see"):
        folder.wait_until_ready(started, lambda line: said.append((line, now[0])))
    ((line, when),) = said
    assert line == f"waiting for slow, late to start; logs are in {short_folder}"
    assert 1005 < when < 1006 and 1020 < now[0] < 1021


def test_one_that_ends_is_noticed_though_it_was_ready(short_folder: Path, started: list[process.Child]) -> None:
    started += [
        child("first", short_folder, "echo why >&2; exit 3", lambda: True),
        child("other", short_folder, "sleep 600", lambda: False),
    ]
    for each in started:
        each.start()
    started[0].was_ready = True
    with pytest.raises(LocalError, match="first did not start: why"):
        folder.wait_until_ready(started)


def test_a_program_started_again_is_ready_anew_and_says_its_own_last_words(
    short_folder: Path, started: list[process.Child]
) -> None:
    ready = [True]
    one = child("one", short_folder, "echo words; exit 1", lambda: ready[0])
    silent = child("one", short_folder, "exit 7", lambda: ready[0])  # of the same log
    started.append(one)
    one.start()
    one.was_ready = True
    until(lambda: one.exit_status() is not None, "it ends")
    assert one.last_words() == "words"
    silent.start()
    until(lambda: silent.exit_status() is not None, "it ends")
    assert silent.last_words() == f"exit status 7, nothing logged to {short_folder / 'one.log'}"
    ready[0] = False
    one.start()
    assert not one.is_ready(), "it was ready the time before"


def test_a_program_is_started_again_later_each_time_and_soon_behind_a_long_run(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    one, delays = child("one", short_folder, "exit 1", lambda: True), list[float]()
    for ran in (0, 0, 0, 0, 0, 0, 120, 121, 0, 120, 10_000):
        one.start()
        until(lambda: one.exit_status() is not None, "it ends")
        now[0] += ran
        delays.append(one.schedule_restart())
        assert one.restart_at == now[0] + delays[-1]
    assert delays == [1, 2, 5, 10, 30, 30, 30, 1, 2, 5, 1]


@pytest.mark.parametrize("deaf", [False, True])
def test_what_a_program_started_ends_with_it(short_folder: Path, deaf: bool) -> None:
    """Though it hears no wish to end, and what it started is not its own matter."""
    code = f"{'trap : TERM;' if deaf else ''} sleep 600 & echo $!; while :; do wait; sleep 0.05; done"
    one = child("one", short_folder, code, lambda: True)
    one.start()
    until(lambda: one.log.read_text().strip(), "it has started another")
    other = int(one.log.read_text().split()[0])
    assert runs(other)
    one.stop(lambda: deaf)
    assert one.exit_status() == -(signal.SIGKILL if deaf else signal.SIGTERM)
    until(lambda: not runs(other), "the other ends")


@pytest.mark.parametrize(("length", "long"), [(100, False), (101, True), (200, True)])
def test_a_socket_is_where_nobody_else_can_put_one(
    short_folder: Path, length: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the folder's path is: two folders have two, and one that another user made is not used."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short_folder / "tmp"))
    deep = short_folder / ("a" * (length - len(str(short_folder)) - len("//run/valkey.sock")))
    folders = deep, deep.with_name("b" * len(deep.name))
    sockets = [valkey.socket_path(each) for each in folders]
    assert len({*sockets}) == 2 and sockets[0] == valkey.socket_path(deep)
    assert not list(short_folder.iterdir()), "whoever only asks makes no folder"
    for data_dir, sock in zip(folders, sockets, strict=True):
        valkey.command(data_dir, sock)
        assert len(os.fsencode(sock)) <= valkey.MAX_SOCKET_PATH and sock.parent.stat().st_mode & 0o777 == 0o700
        assert sock.is_relative_to(short_folder / "tmp") is long
    theirs = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: theirs)
    if not long:
        valkey.command(deep, sockets[0])  # whoever may write there may serve it
    if long:
        their_own = valkey.socket_path(deep)
        assert their_own != sockets[0]
        their_own.parent.mkdir()
        for ask in (lambda: valkey.socket_path(deep), lambda: valkey.command(deep, their_own)):
            with pytest.raises(PermissionError, match=f"belongs to another user: '{their_own.parent}'"):
                ask()


STARTER = """
import os, signal, sys
from pathlib import Path
from adaspa_service.local.process import Child

folder = Path(sys.argv[1])
script = "trap 'echo told; exit' TERM; echo $$; while :; do sleep 0.05; done"
for name in ("SIGKILL", "SIGTERM"):
    number = signal.Signals[name]
    Child(name, ["sh", "-c", script], folder, os.environ, ready=lambda: True, orphan_signal=number).start()
print("started", flush=True)
signal.pause()
"""


def test_what_a_supervisor_started_ends_with_it_however_that_ends(short_folder: Path) -> None:
    """At once, or by a signal at which it still does something."""
    logs = {name: short_folder / f"{name}.log" for name in ("SIGKILL", "SIGTERM")}
    command = [sys.executable, "-c", STARTER, str(short_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None and starter.stdout.readline() == b"started\n"
        until(lambda: all(log.exists() and log.read_text().strip() for log in logs.values()), "both run")
        pids = [int(log.read_text().split()[0]) for log in logs.values()]
        starter.kill()
    until(lambda: not any(runs(pid) for pid in pids), "what it started ends")
    assert [log.read_text().split()[1:] for log in logs.values()] == [[], ["told"]]


SERVES = """
import os, signal, sys
from pathlib import Path
from adaspa_service.local import folder

data_dir = Path(sys.argv[1])
server = folder.valkey_child(data_dir, os.environ, folder.claim(data_dir))
server.start()
folder.wait_until_ready([server])
print("started", flush=True)
signal.pause()
"""


def test_a_store_whose_supervisor_dies_ends_in_order(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes what it has half written, and leaves the folder."""
    monkeypatch.setattr(folder, "LOCK_SECONDS", PATIENCE)
    with subprocess.Popen([sys.executable, "-c", SERVES, str(data_dir)], stdout=subprocess.PIPE) as serves:
        assert serves.stdout is not None and serves.stdout.readline() == b"started\n"
        serves.kill()
    log = data_dir / "logs" / "valkey.log"
    until(lambda: "bye bye" in log.read_text(), "it ends as it does when it is asked to")
    folder.claim(data_dir).close()
