"""The parts of the service as processes: started, struck, and started again when they have ended."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import redis
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.local.process import tied
from adaspa_service.local.supervisor import free_port
from s3_servers import URL, S3Server, s3_server
from tiny_catalog import model_spec, write_catalog
from valkey_process import start_valkey
from waiting import PATIENCE

from chaos.grouped import FOLLOWER, GROUPED
from chaos.history import History
from chaos.links import Link, Network, Way
from chaos.points import FOLDER
from chaos.power import Shim

MODEL = "tiny"
TENANTS = ("a", "b")
"""Each has an API key."""
LEASE_SECONDS = 3.0
MAX_ATTEMPTS = 6
QUEUE_CAP = 40
GATEWAYS, WORKERS = 2, 3
ROOT = Path(__file__).parents[1]


@dataclass
class Part:
    """One process, in a group of its own with whatever it starts."""

    name: str
    folder: Path
    env: dict[str, str]
    shim: Shim
    links: dict[str, Link]
    """Its ways to ``redis`` and ``storage``."""
    port: int | None = None
    """Of a gateway; workers have none."""
    identity: str = ""
    """What a worker calls itself; another one each time that it starts."""
    starts: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self.identity = f"{self.name}-{secrets.token_hex(4)}"
        own = {"ADASPA_PORT": str(self.port)} if self.port else {"ADASPA_WORKER_NAME": self.identity}
        own |= {
            "ADASPA_REDIS_URL": f"redis://127.0.0.1:{self.links['redis'].port}/0",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.links['storage'].port}",
        }
        own |= self.shim.environment(self.name)
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                env=self.env | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=tied(),  # noqa: PLW1509
            )
        self.starts += 1

    def _command(self) -> list[str]:
        if self.port:
            return [sys.executable, "-m", "chaos.gateway"]
        pool = ["--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle"]
        queues = ["--queues", f"generate.{MODEL},generate.{MODEL}:bulk", "--hostname", f"{self.identity}@chaos"]
        celery = [sys.executable, "-m", "celery", "--quiet", "--app", "chaos.worker", "worker", "--loglevel", "info"]
        return [*celery, *queues, *pool, "--without-heartbeat"]

    def signal(self, number: int, who: str = "group") -> None:
        """Signal the whole group, its first process (``parent``), or what that has started (``child``)."""
        with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
            if who == "group":
                os.killpg(self.process.pid, number)
            elif who == "parent":
                self.process.send_signal(number)
            else:
                for child in _children(self.process.pid):
                    os.kill(child, number)

    def followers(self) -> list[int]:
        """The processes that follow a worker's child, where that leads a group."""
        found = []
        for child in _children(self.process.pid):
            for process in _children(child):
                with suppress(OSError):
                    line = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                    found += [process] if FOLLOWER.encode() in line else []
        return found

    def answers(self) -> bool:
        """Whether a gateway is ready."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


def _children(process: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [
            int(n)
            for thread in Path(f"/proc/{process}/task").iterdir()
            for n in (thread / "children").read_text().split()
        ]
    return []


class Fleet:
    """The whole service.

    Args:
        folder: for logs and data; short, because Valkey's socket lies in it.
        storage: an S3 server, whose process has a clock and a disk of its own (``storage``).
        fsync: Valkey's ``appendfsync``.
        shim: through which clocks and disks are set.
        size: how much there is of it.
    """

    def __init__(self, folder: Path, storage: S3Server, fsync: str, shim: Shim, size: "Size") -> None:
        self.folder, self.storage, self.fsync, self.shim = folder, storage, fsync, shim
        self.socket = folder / "valkey.sock"
        self.orders = folder / "orders"
        self.orders.mkdir()
        self.network = Network()
        catalog = write_catalog(folder / "catalog.json", *size.models)
        settings = {
            "REDIS_URL": f"unix://{self.socket}?db=0",
            "STORAGE_URL": URL,
            "DATA_DIR": str(folder / "data"),
            "CATALOG": str(catalog),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "QUEUE_CAP": str(QUEUE_CAP),
            "CHECKPOINT_STEPS": "4",
            "WEBHOOK_HTTP": "true",
            "WEBHOOK_NETWORKS": "127.0.0.0/8",
            "WEBHOOK_RETRY_SECONDS": ",".join(["1"] * 60),
            "WORKER_MODEL": MODEL,
            "WORKER_PRIORITIES": "interactive,bulk",
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
        own = {f"ADASPA_{name}": value for name, value in settings.items()}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        env = clean | own | storage.environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", FOLDER: str(self.orders)}
        self.settings = Settings.model_validate({"redis_url": settings["REDIS_URL"], "catalog": catalog})

        def part(name: str, port: int | None = None) -> Part:
            ends = {"redis": str(self.socket), "storage": storage.port}
            links = {server: Link(self.network, end) for server, end in ends.items()}
            return Part(name, folder, dict(env), shim, links, port)

        self.gateways = [part(f"gateway-{n}", free_port("127.0.0.1")) for n in range(GATEWAYS)]
        self.workers = [part(f"worker-{n}") for n in range(WORKERS)]
        for each in self.workers:
            each.env.update(size.environment)
        if size.grouped:
            self.workers[-1].env[GROUPED] = "1"
        self.keys: dict[str, str] = {}
        """The API keys' tokens by tenant."""
        self._still: list[Part] = []
        """Workers that stand still."""
        self._stopping = threading.Event()
        self._tender = threading.Thread(target=self._tend, daemon=True)
        self._starter = ThreadPoolExecutor(1)
        """Starts what strikers start again: the processes are tied to the thread that does, and strikers end first."""

    def start(self) -> None:
        """Start everything, and wait until the gateways are ready and know every worker."""
        self.start_valkey()
        store = KeyStore(self.client())
        self.keys = {tenant: store.create(tenant, frozenset({Scope.read, Scope.write}))[1] for tenant in TENANTS}
        for part in self.gateways + self.workers:
            part.start()
        self.wait_until_ready()
        self._wait_for_workers()
        self._tender.start()

    def start_valkey(self) -> None:
        """Start Valkey on the data that it had."""
        options = ("--appendonly", "yes", "--appendfsync", self.fsync)
        before = self.shim.before("valkey", tied())
        self.valkey = self._starter.submit(start_valkey, self.folder, *options, before=before).result()

    def kill_valkey(self) -> None:
        """End Valkey at once. What it had written to its file is the system's, and stays."""
        self.valkey.kill()
        self.valkey.wait()

    def cut_power(self, history: History, back_to: int | None = None) -> int:
        """End Valkey, and leave of its append-only file what was synced, or what there was at an earlier size; start it
        again. How many bytes are lost."""
        self.kill_valkey()
        if back_to is None:
            lost = self.shim.cut(self.append_only_file)
        else:
            lost = self.append_only_file.stat().st_size - back_to
            os.truncate(self.append_only_file, back_to)
        history.epoch += 1
        self.start_valkey()
        return lost

    @property
    def append_only_file(self) -> Path:
        """The one that is written to."""
        (path,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return path

    @contextmanager
    def workers_stopped(self, but: Part | None = None) -> Iterator[None]:
        """All workers, or all but one, stand still for a block's length; they take no job, and beat no more."""
        with self._standing([part for part in self.workers if part is not but]):
            yield

    @contextmanager
    def gateways_stopped(self) -> Iterator[None]:
        """All gateways stand still for a block's length: no answer comes, and no lease's time passes."""
        with self._standing(self.gateways):
            yield

    @contextmanager
    def _standing(self, parts: Sequence[Part]) -> Iterator[None]:
        # One that has just ended starts again behind the block: else it would do what none is to do.
        self._still += parts
        stopped = [part.process.pid for part in parts]
        for part in parts:
            part.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._still = [part for part in self._still if part not in parts]
            for group in stopped:
                with suppress(ProcessLookupError):  # it was killed meanwhile
                    os.killpg(group, signal.SIGCONT)

    @contextmanager
    def cut(self, parts: Sequence[Part], server: str, way: Way) -> Iterator[None]:
        """Cut parts off from a server for the length of a block."""
        with ExitStack() as cuts:
            for part in parts:
                cuts.enter_context(part.links[server].cut(way))
            yield

    def start_storage(self) -> None:
        """Start the S3 server on the objects that it had."""
        self._starter.submit(self.storage.start).result()

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        """Until both gateways answer."""
        deadline = time.monotonic() + seconds
        while not all(gateway.answers() for gateway in self.gateways):
            assert time.monotonic() < deadline, "the gateways do not come back"
            time.sleep(0.1)

    def _wait_for_workers(self) -> None:
        """Until all have announced themselves: one that cannot start would be started again for ever."""
        while self.ask(TENANTS[0], "/models")["data"][0]["workers"] < WORKERS:
            for part in self.workers:
                log = (self.folder / f"{part.name}.log").read_text()
                assert part.process.poll() is None, f"{part.name} has ended by itself:\n{log[-2000:]}"
            time.sleep(0.1)

    def ask(self, tenant: str, path: str) -> Any:
        """What the first gateway answers to a tenant."""
        url, headers = (
            f"http://127.0.0.1:{self.gateways[0].port}{path}",
            {"Authorization": f"Bearer {self.keys[tenant]}"},
        )
        return httpx.get(url, headers=headers, timeout=20).raise_for_status().json()

    def client(self) -> redis.Redis:
        """A client of Valkey, beside the service."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def stop(self) -> None:
        """End every process, at once."""
        self._stopping.set()
        if self._tender.ident:  # else it could not start
            self._tender.join()
        for part in self.gateways + self.workers:
            part.signal(signal.SIGCONT)
            part.signal(signal.SIGKILL)
            part.process.wait()
        self.kill_valkey()
        self._starter.shutdown()
        self.network.close()

    def _tend(self) -> None:
        """Start again what has ended, as an orchestrator does."""
        while not self._stopping.wait(0.2):
            for part in self.gateways + self.workers:
                if part.process.poll() is not None and part not in self._still:
                    part.signal(signal.SIGKILL)  # what it left
                    part.start()


@dataclass(frozen=True)
class Size:
    """How much there is of a service."""

    models: Sequence[dict[str, Any]] = (model_spec("builtin:demo"),)
    """Its catalog; the workers serve the first."""
    grouped: bool = True
    """Whether the last worker is a group of two processes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the workers."""


@contextmanager
def running_fleet(fsync: str, size: Size = Size()) -> Iterator[Fleet]:
    """A running service with nothing in it; its logs stay if the run fails."""
    with TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        shim = Shim(folder)
        with s3_server("nanio", folder / "s3", before=tied(), environment=shim.environment("storage")) as storage:
            fleet = Fleet(folder, storage, fsync, shim, size)
            try:
                fleet.start()
                yield fleet
            finally:
                fleet.stop()


def settings_json(fleet: Fleet) -> dict[str, str]:
    """What of the service's settings is not the default, for the report."""
    shown = ("LEASE_SECONDS", "MAX_ATTEMPTS", "CHECKPOINT_STEPS")
    return json.loads(json.dumps({name: fleet.gateways[0].env[f"ADASPA_{name}"] for name in shown}))
