"""The gateway at which the audit sits: it plays the workers, so that each number and each field of an answer is known
beforehand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_api.report import JobError, LayerReport
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.settings import Settings
from running_gateway import REPORT, Service, serving
from tiny_catalog import model_spec, write_catalog
from valkey_process import running_valkey
from waiting import until

LORA = {"source": "/nowhere", "sha256": "ab" * 32, "scale_range": [0.25, 1.5]}
FIRST = model_spec(
    "builtin:demo",
    id="first",
    sizes=["64x64", "96x64", "64x96"],
    frames=[9, 5, 33],
    tasks=["text_to_video", "image_to_video", "first_last_frame"],
    qualities=["exact", "fast"],
    output_formats=["webm", "mp4", "gif"],
    sparsity_range=[0.1, 0.9],
    retained_mass_range=[0.6, 0.95],
    flow_shift_range=[1, 8],
    warmup_range=[0.1, 0.5],
    max_batch=3,
    bulk_above=3,
    loras=[
        LORA | {"name": "own", "scale": 0.5},
        LORA | {"name": "look", "scale": 0.75, "group": "g"},
        LORA | {"name": "other", "group": "g"},
        LORA | {"name": "more"},
    ],
    default_loras=[{"name": "own"}],
    max_loras=3,
)
PLAIN = model_spec("builtin:demo", id="plain", negative_prompt=False, max_batch=20)
LAYERED = REPORT.model_copy(update={"layers": [LayerReport(layer=at, density=[0.5], recall=[0.9]) for at in (0, 1)]})
"""What AdaSpa did, with a part for each layer."""
MOST_SEED = 2**53 - 1
QUEUE_CAP = 12
HOUR = 3600
AGES = {"created_at": 2 * HOUR, "started_at": HOUR}
"""How long ago (s) what is told of a job was, once it is aged: no two of its times are the same then."""
ROUNDS = 30
"""Of a janitor, a second or more each; what failed is tried again within 10 s. What is not done by then never is."""
CSP = "default-src 'none'; frame-ancestors 'none'"
SAFELY = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of Valkey, with which nothing is lost."""
SAFE = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}


@contextmanager
def desk(**settings: Any) -> Iterator[Service]:
    """A gateway at which the audit sits, open to everybody unless settings say otherwise."""
    with running_valkey(*SAFELY) as folder, seat(folder, **settings) as running:
        yield running


@contextmanager
def seat(folder: Path, **settings: Any) -> Iterator[Service]:
    """The same, with the Valkey that has this folder."""
    own = {"redis_url": f"unix://{folder}/valkey.sock?db=0", "storage_url": str(folder / "objects")}
    own |= {"catalog": write_catalog(folder / "catalog.json", FIRST, PLAIN), "data_dir": folder / "data"}
    own |= {"open_access": True, "queue_cap": QUEUE_CAP, "image_networks": "127.0.0.0/8"}
    with serving(Settings(_env_file=None, **(own | settings)), folder) as running:
        for recent in (running.parts.loads, running.parts.times):  # what is known of a model is asked for anew
            recent._recent = lambda _: None  # type: ignore[method-assign]
        yield running


def until_swept(service: Service, done: Callable[[], object], what: str) -> None:
    """Wait for what the gateway's janitor does; AssertionError names what is not done after many of its rounds."""
    parts = service.parts
    with (  # what the rounds of its two threads begin with
        patch.object(parts.acts, "take", wraps=parts.acts.take) as begun,
        patch.object(parts.store, "take_purgeable", wraps=parts.store.take_purgeable) as begun_in_storage,
    ):
        until(lambda: done() or min(begun.call_count, begun_in_storage.call_count) > ROUNDS, what)
    assert done(), f"not within {ROUNDS} rounds of the janitor: {what}"


def refused(service: Service, status: int, what: str, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask what has to be refused: with this code or for this field."""
    answer = service.http.request(method, path, **options)
    said = f"{method} {path} {str(options.get('json', options.get('data', '')))[:150]}"
    assert answer.status_code == status, f"{said}: {answer.status_code}, not {status}: {answer.text[:200]}"
    error = answer.json()["error"]
    kinds = {429: "rate_limit_error", 503: "server_error", 501: "server_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error"), f"{said}: {error}"
    assert what in (error["param"], error["code"]), f"{said}: {error}, not {what}"
    assert (status in (429, 503)) == ("retry-after" in answer.headers), f"{said}: {dict(answer.headers)}"
    return answer


def announced(service: Service, spec: ModelSpec, worker: str, fits: Fits | None = None) -> None:
    """A worker says that it serves a model, and is counted for an hour: how busy this machine is must not matter."""
    service.store.announce(spec, worker, fits=fits)
    for name in ("workers", "serving"):
        service.store.client.zincrby(f"adaspa:{name}:{spec.id}", 3_600_000, worker)
    service.store.client.zincrby(f"adaspa:serving:{spec.id}:bulk", 3_600_000, worker)
    service.store.client.zincrby("adaspa:served_until", 3_600_000, spec.id)


def aged(service: Service, video_id: str) -> None:
    """Let a job that has begun, or waits, have done so long ago."""
    key = f"adaspa:job:{video_id}"
    for name, ago in AGES.items():
        if service.store.client.hexists(key, name):
            service.store.client.hincrby(key, name, -ago)


def error_of(code: str) -> Any:
    return JobError.model_validate({"code": code, "message": "as it was told"})
