"""Supervisor, which starts Valkey, gateway and workers, keeps them running, and stops them."""

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from adaspa_jobs.listening import at_fault, listener, local_url, reason

from adaspa_service.access.open_token import with_token
from adaspa_service.local.folder import LocalError, claim, identity, valkey_child, valkey_url, wait_until_ready
from adaspa_service.local.process import Child

PORTS = range(20_000, 32_768)
"""Ports below those that a system gives to programs that ask for any."""
WORKER_SECONDS = 1800.0
"""Time limit for a worker's start, which may download, load and compile its model."""


class Supervisor:
    """Supervisor of the whole service on one machine, for the duration of a ``with`` block.

    Args:
        data_dir: folder for all persistent data: Valkey's append-only file, objects, logs. One service at a time.
        host, port: address that the gateway listens on.
        workers: the model of each worker; None means the first of the catalog. May be empty.
        say: receives short lines for the user.

    Raises:
        LocalError: on entering, if the port or the folder is in use, or a part does not start.
    """

    def __init__(
        self, data_dir: Path, host: str, port: int, *, workers: Sequence[str | None], say: Callable[[str], None]
    ) -> None:
        self.data_dir, self.host, self.port = data_dir.resolve(), host, port
        self.workers, self.say = workers, say
        self.token = os.environ.get("ADASPA_OPEN_TOKEN") or secrets.token_urlsafe()
        self.children: list[Child] = []
        self._signals: dict[int, Any] = {}
        self._hurry = False

    @property
    def url(self) -> str:
        """Address at which clients on this machine reach the gateway."""
        return local_url(self.host, self.port)

    @property
    def page(self) -> str:
        """Address of the page with the token, behind the # that a browser never sends."""
        return with_token(self.url, self.token)

    @property
    def redis_url(self) -> str:
        """Address of Redis: ADASPA_REDIS_URL, or the data folder's own server."""
        return os.environ.get("ADASPA_REDIS_URL") or valkey_url(self.data_dir)

    def __enter__(self) -> "Supervisor":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._signals[number] = signal.signal(number, _interrupt)
        try:
            self._prepare()
            for child in self._plan():
                self.children.append(child)
                child.start()
                if child.name == "valkey":
                    wait_until_ready([child])  # the others' first act is to ask it
            wait_until_ready(self.children, self.say)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def watch(self) -> None:
        """Check the children once. Report a dead one and schedule its restart, later each time."""
        for child in self.children:
            if child.restart_at is not None:
                if time.monotonic() >= child.restart_at:
                    child.start()
            elif child.exit_status() is not None:
                delay = child.schedule_restart()
                self.say(f"{child.name} ended ({child.last_words()}); restarting it in {delay:.0f} s")

    def serve(self) -> None:
        """Watch the children until interrupted (KeyboardInterrupt)."""
        while True:
            self.watch()
            time.sleep(0.2)

    def _prepare(self) -> None:
        self._lock = claim(self.data_dir)
        check_port(self.host, self.port)

    def _plan(self) -> list[Child]:
        environment = os.environ | {
            "ADASPA_DATA_DIR": str(self.data_dir),
            "ADASPA_HOST": self.host,
            "ADASPA_PORT": str(self.port),
            "ADASPA_OPEN_TOKEN": self.token,  # the same when the gateway starts again
            "PYTHONUNBUFFERED": "1",
        }
        environment.setdefault("ADASPA_LOG_FORMAT", "text")  # the log files are for people
        environment.setdefault("ADASPA_STORAGE_URL", str(self.data_dir / "objects"))
        logs = self.data_dir / "logs"
        plan = []
        if "ADASPA_REDIS_URL" not in environment:
            environment["ADASPA_REDIS_URL"] = self.redis_url
            plan.append(valkey_child(self.data_dir, environment, self._lock))
        python = [sys.executable, "-m"]
        # ADASPA_METRICS_PORT is the first worker's here: two cannot listen there, and the gateway has a port anyway.
        # Draining would help nobody: everything ends at once.
        gateways = {
            name: value
            for name, value in environment.items()
            if name not in ("ADASPA_METRICS_PORT", "ADASPA_DRAIN_SECONDS")
        }
        plan.append(Child("gateway", [*python, "adaspa_service.gateway"], logs, gateways, ready=self._gateway_ready))
        for number, model in enumerate(self.workers, 1):
            name = "worker" if number == 1 else f"worker-{number}"
            heartbeat = self.data_dir / "run" / f"{name}.heartbeat"
            heartbeat.unlink(missing_ok=True)
            own = environment | {"ADASPA_HEARTBEAT_FILE": str(heartbeat)}
            own["ADASPA_WORKER_ID"] = f"{identity(self.data_dir)}-{number}"  # it takes its killed job up at once
            if number > 1:
                own.pop("ADASPA_METRICS_PORT", None)
            serve = ["--model", model] if model else []
            command = [*python, "adaspa_worker", *serve]
            plan.append(Child(name, command, logs, own, ready=heartbeat.exists, start_seconds=WORKER_SECONDS))
        return plan

    def _gateway_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).is_success
        except httpx.TransportError:
            return False

    def _stop(self) -> None:
        """End the children, last started first. A second signal kills the rest at once."""

        def hurry(*_: object) -> None:
            self._hurry = True

        for number in self._signals:
            signal.signal(number, hurry)
        for child in reversed(self.children):
            child.stop(lambda: self._hurry)
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        if hasattr(self, "_lock"):
            self._lock.close()


def check_port(host: str, port: int) -> None:
    """Check that the gateway can listen there. Raises LocalError."""
    try:
        listener(host, port).close()
    except OSError as error:
        raise LocalError(f"cannot use port {port} on {host} ({reason(error)}); use --{at_fault(error)}") from error


def free_port(host: str) -> int:
    """Return a port that is free right now, and that no other program is given before it is used.

    Raises:
        LocalError: none is free, or the address is not one of this machine.
    """
    for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server((host, port)):
            return port
    raise LocalError(
        f"{host}: no port from {PORTS[0]} to {PORTS[-1]} is free, or this machine does not have the address"
    )


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt
