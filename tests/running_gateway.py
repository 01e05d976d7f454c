"""A gateway on a real port, and a stand-in for the worker."""

import base64
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn
from adaspa_api.report import AttentionReport
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Job, Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import attempt_prefix
from adaspa_jobs.store import JobStore, Lease
from adaspa_service.gateway import connections
from adaspa_service.gateway.app import create_app
from adaspa_service.gateway.state import AppState
from adaspa_service.webhooks.addresses import Resolve, system_resolve
from claiming import claim
from waiting import PATIENCE, until

FILES = {
    "video": ("video.mp4", "video/mp4", bytes(range(256)) * 40),
    "thumbnail": ("thumbnail.webp", "image/webp", b"a small picture"),
    "spritesheet": ("spritesheet.webp", "image/webp", b"many small pictures"),
}
"""Name, type and bytes of what the stand-in makes."""
REPORT = AttentionReport(
    attention_work=0.65,
    density=0.3,
    recall=0.9,
    recall_is_estimate=True,
    unevenness=0.024,
    attention_calls={"dense": 16, "search": 8, "sparse": 16, "skipped": 0},
    fell_back=["layer 0 did not run through AdaSpa (2 calls)"],
    searches=2,
    dense_steps=4,
    search_steps=2,
    sparse_steps=4,
    dense_seconds=1.0,
    search_seconds=0.6,
    sparse_seconds=0.5,
    cache_bytes=1000,
    weights={"transformer": {"int8": 900, "bfloat16": 100, "float32": 9}, "vae": {"float32": 50}},
)


def demo_catalog(path: Path, models: Mapping[str, dict[str, Any]]) -> Path:
    """Write a catalog of the demo model by other names, each with fields of its own."""
    demo = next(iter(Catalog.load(None).models.values())).model_dump(mode="json")
    path.write_text(json.dumps([demo | own | {"id": name} for name, own in models.items()]))
    return path


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as clients write it into JSON."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass
class Service:
    """A running gateway, and its parts as a worker would have them."""

    url: str
    parts: AppState
    http: httpx.Client
    scratch: Path
    stopping: threading.Event
    server: uvicorn.Server

    @property
    def token(self) -> str:
        """What it asks for as long as there are no keys, unless it is open."""
        return self.parts.open_token.get_secret_value()

    @property
    def store(self) -> JobStore:
        return self.parts.store

    def create(self, **fields: Any) -> dict[str, Any]:
        """Submit a prompt; the answer."""
        response = self.http.post("/videos", json={"prompt": "a red circle", **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def claim(self, video_id: str) -> Lease:
        """Begin an attempt, as a worker does."""
        lease = claim(self.store, video_id)
        assert lease is not None
        return lease

    def step(self, lease: Lease, step: int) -> None:
        """Report a denoising step."""
        steps = lease.job.params.steps
        progress = Progress(phase="denoising", step=step, steps=steps, step_kind="sparse", eta_seconds=1.5)
        self.store.report_progress(lease, progress)

    def complete(
        self,
        lease: Lease,
        video: bytes = FILES["video"][2],
        report: AttentionReport = REPORT,
        kind: str = "video/mp4",
        has_audio: bool = False,
    ) -> Job:
        """Put files into storage and end the attempt."""
        artifacts = {}
        for variant, (name, content_type, content) in FILES.items():
            path = self.scratch / name
            path.write_bytes(video if variant == "video" else content)
            key = f"{attempt_prefix(lease.job.id, lease.token)}{name}"
            artifacts[variant] = self.parts.storage.put_file(key, path, kind if variant == "video" else content_type)
        artifacts["video"].has_audio = has_audio
        self.store.complete(lease, artifacts, report, {"denoising": 1.5})
        job = self.store.get(lease.job.id)
        assert job is not None
        return job

    def completed(self, **fields: Any) -> str:
        """The id of a job that was run to its end."""
        return self.complete(self.claim(self.create(**fields)["id"])).id

    def openai(self) -> openai.OpenAI:
        """The public client, as it comes."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def settle(self) -> None:
        """Wait until nothing is left to do for requests that were answered, and nobody follows events."""
        until(lambda: not self.server.server_state.tasks, "nothing is left to do after the answers")

    def messages(self, model: str = "demo") -> int:
        """Messages in a model's queue, once the bells of all that was answered are rung."""
        self.settle()
        return int(self.store.client.llen(f"generate.{model}"))  # type: ignore[arg-type]


@contextmanager
def serving(settings: Settings, scratch: Path, resolve: Resolve = system_resolve) -> Iterator[Service]:
    """A gateway on a free port, in a thread; webhooks' hosts are looked up by ``resolve``."""
    app = create_app(settings, resolve)
    listener = socket.create_server(("127.0.0.1", 0))
    config = connections.configure(app, settings)
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        until(lambda: server.started, "the gateway serves")
        with httpx.Client(base_url=url, timeout=PATIENCE) as http:
            service = Service(url, app.state.shared, http, scratch, app.state.stopping, server)
            if not settings.open_access:
                http.headers["Authorization"] = f"Bearer {service.token}"
            yield service
    finally:
        app.state.stopping.set()
        server.should_exit = True
        thread.join()
