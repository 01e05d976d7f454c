"""The service that is soaked: gateways, workers, Valkey and a folder."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis
from adaspa_jobs.store import JobStore
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.local.process import tied
from adaspa_service.local.supervisor import free_port
from tiny_catalog import write_catalog
from valkey_process import start_valkey
from waiting import until

from chaos.points import FOLDER

TENANTS = ("a", "b", "c")
KEPT_SECONDS = 90
"""How long ended jobs are kept: after that as many go as come."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Worker:
    """One worker of the service.

    Args:
        model: that it serves.
        command: arguments of Python.
        variables: of its environment.
        prepare: what is done before it starts, while those before it are starting.
    """

    model: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None


@dataclass
class Part:
    """One process with its children."""

    name: str
    command: list[str]
    log: Path
    env: dict[str, str]
    starts: int = 0
    started_at: float = 0.0
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it."""
        self.starts, self.started_at = self.starts + 1, time.monotonic()
        own = {"ADASPA_WORKER_NAME": f"{self.name}-{secrets.token_hex(4)}"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=tied(),  # noqa: PLW1509
            )

    def restart(self, how: signal.Signals) -> None:
        """End it and start it again."""
        self.end(how)
        self.start()

    def end(self, how: signal.Signals) -> None:
        """End it by a signal, and what it has started with it."""
        group = self.process.pid
        self.process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait()

    def processes(self) -> list[Path]:
        """It and its children in ``/proc``."""
        found = [self.process.pid]
        for pid in found:
            with suppress(FileNotFoundError):  # it has just ended
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [Path(f"/proc/{pid}") for pid in found]


class Service:
    """Two gateways, and workers.

    Args:
        folder: for everything; short, because Valkey's socket lies in it.
        catalog: entries of the models.
        workers: by name, in the order in which they start.
    """

    def __init__(self, folder: Path, catalog: Sequence[Mapping[str, Any]], workers: Mapping[str, Worker]) -> None:
        self.folder, self.objects, self.workers = folder, folder / "objects", workers
        (folder / "orders").mkdir()
        written = write_catalog(folder / "catalog.json", *map(dict, catalog))
        settings = {
            "REDIS_URL": f"unix://{folder}/valkey.sock?db=0",
            "STORAGE_URL": str(self.objects),
            "DATA_DIR": str(folder / "data"),
            "CATALOG": str(written),
            "LEASE_SECONDS": "15",
            "MAX_ATTEMPTS": "6",
            "CHECKPOINT_STEPS": "4",
            "RESULT_TTL_SECONDS": str(KEPT_SECONDS),
            "WEBHOOK_HTTP": "true",
            "WEBHOOK_NETWORKS": "127.0.0.0/8",
            "WEBHOOK_RETRY_SECONDS": ",".join(["1"] * 60),
            "WORKER_PRIORITIES": "interactive,bulk",
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        own = {f"ADASPA_{name}": value for name, value in settings.items()}
        self.environment = clean | own | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", FOLDER: str(folder / "orders")}
        self.ports = [free_port("127.0.0.1") for _ in range(2)]
        gateways = [
            self._part(f"gateway-{n}", ["adaspa_service.gateway"], {"ADASPA_PORT": str(port)})
            for n, port in enumerate(self.ports)
        ]
        self.parts = gateways + [self._part(name, each.command, each.variables) for name, each in workers.items()]
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        """Start everything, and wait until all models are served."""
        self._valkey = start_valkey(self.folder, "--appendonly", "yes", "--rdbcompression", "no", before=tied())
        client = redis.Redis(unix_socket_path=str(self.folder / "valkey.sock"))
        self.store = JobStore(client)
        made = KeyStore(client)
        self.keys = {tenant: made.create(tenant, frozenset({Scope.read, Scope.write}))[1] for tenant in TENANTS}
        for part in self.parts:
            if part.name in self.workers:
                self.workers[part.name].prepare()
            part.start()
        until(self._all_ready, "the gateways are ready", 300)
        until(self._all_served, "every model has its workers", 300)

    def part(self, name: str) -> Part:
        """The gateway or worker of this name."""
        return next(part for part in self.parts if part.name == name)

    def _part(self, name: str, command: Sequence[str], own: Mapping[str, str]) -> Part:
        return Part(name, [sys.executable, "-m", *command], self.folder / f"{name}.log", {**self.environment, **own})

    def _all_ready(self) -> bool:
        self._check()
        return all(self._is_ready(port) for port in self.ports)

    def _is_ready(self, port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _all_served(self) -> bool:
        self._check()
        return all(self.store.load(worker.model).workers for worker in self.workers.values())

    def _check(self) -> None:
        for part in self.parts:
            assert part.process.poll() is None, f"{part.name} has ended by itself:\n{part.log.read_text()[-2000:]}"

    def stop(self) -> None:
        """End everything at once."""
        for part in self.parts:
            if part.starts:
                part.end(signal.SIGKILL)
        if hasattr(self, "_valkey"):
            self._valkey.kill()
            self._valkey.wait()
