"""The service that is soaked: gateways, workers of the stand-in and of the CPU demo models, Valkey and a folder."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import redis
from adaspa_jobs.store import JobStore
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.local.process import tied
from adaspa_service.local.supervisor import free_port
from adaspa_worker.source import resolve
from diffusers import WanTransformer3DModel
from tiny_loras import diffusers, entry, low_ranks
from tiny_wan import model_spec, write_catalog
from valkey_process import start_valkey
from waiting import until

from chaos.points import FOLDER

TENANTS = ("a", "b", "c")
KEPT_SECONDS = 90
"""How long ended jobs are kept: after that as many go as come."""
ROOT = Path(__file__).parents[1]
DEMOS = ("demo", "demo-image")


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
    """Two gateways, two workers of the stand-in, one of each demo model.

    Args:
        folder: for everything; short, because Valkey's socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.objects = folder, folder / "objects"
        (folder / "orders").mkdir()
        self.loras = _lora(folder)
        catalog = write_catalog(folder / "catalog.json", *_catalog(self.loras))
        settings = {
            "REDIS_URL": f"unix://{folder}/valkey.sock?db=0",
            "STORAGE_URL": str(self.objects),
            "DATA_DIR": str(folder / "data"),
            "CATALOG": str(catalog),
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
        self._env = clean | own | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", FOLDER: str(folder / "orders")}
        self.ports = [free_port("127.0.0.1") for _ in range(2)]
        gateways = [
            self._part(f"gateway-{n}", ["adaspa_service.gateway"], ADASPA_PORT=str(port))
            for n, port in enumerate(self.ports)
        ]
        stubs = [self._part(f"stub-{n}", _celery("stub", f"stub-{n}"), ADASPA_WORKER_MODEL="stub") for n in range(2)]
        demos = [self._part(model, ["adaspa_worker", "--model", model]) for model in DEMOS]
        self.parts = gateways + stubs + demos
        self.restarted = [gateways[1], stubs[1]]
        """Those that are; the others are seen for the whole time."""
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        """Start everything, and wait until all models are served."""
        self._valkey = start_valkey(self.folder, "--appendonly", "yes", "--rdbcompression", "no", before=tied())
        client = redis.Redis(unix_socket_path=str(self.folder / "valkey.sock"))
        self.store = JobStore(client)
        made = KeyStore(client)
        self.keys = {tenant: made.create(tenant, frozenset({Scope.read, Scope.write}))[1] for tenant in TENANTS}
        for part in self.parts:
            part.start()
        until(lambda: all(self._is_ready(port) for port in self.ports), "the gateways are ready", 300)
        until(self._all_served, "every model has its workers", 300)

    def _part(self, name: str, command: list[str], **own: str) -> Part:
        return Part(name, [sys.executable, "-m", *command], self.folder / f"{name}.log", self._env | own)

    def _is_ready(self, port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _all_served(self) -> bool:
        for part in self.parts:
            assert part.process.poll() is None, f"{part.name} has ended by itself:\n{part.log.read_text()[-2000:]}"
        return all(self.store.load(model).workers for model in ("stub", *DEMOS))

    def stop(self) -> None:
        """End everything at once."""
        for part in self.parts:
            if part.starts:
                part.end(signal.SIGKILL)
        if hasattr(self, "_valkey"):
            self._valkey.kill()
            self._valkey.wait()


def _celery(model: str, name: str) -> list[str]:
    queues = f"generate.{model},generate.{model}:bulk"
    pool = ["--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return ["celery", "--quiet", "--app", "chaos.worker", "worker", "--queues", queues, "--hostname", name, *pool]


def _catalog(loras: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shipped = {spec["id"]: spec for spec in json.loads((files("adaspa_jobs") / "catalog.json").read_text())}
    stub = model_spec(
        "builtin:demo",
        id="stub",
        sizes=["64x64", "96x64", "128x128"],
        tasks=["text_to_video", "image_to_video"],
        loras=loras,
    )
    return [stub, shipped["demo"] | {"loras": loras}, shipped["demo-image"]]


def _lora(folder: Path) -> list[dict[str, Any]]:
    """An adapter of random weights for the demo model."""
    transformer = WanTransformer3DModel.from_pretrained(resolve("builtin:demo"), subfolder="transformer")
    layers = [f"blocks.{i}.attn1.to_{c}" for i in range(2) for c in "qv"]
    return [entry(folder / "look.safetensors", diffusers(low_ranks(transformer, layers)))]
