"""The service that is soaked on a CPU: two workers of the stand-in, and one of each demo model."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from adaspa_worker.source import resolve
from diffusers import WanTransformer3DModel
from tiny_loras import diffusers, entry, low_ranks
from tiny_wan import model_spec

from chaos.service import Service, Worker

DEMOS = ("demo", "demo-image")


def cpu_service(folder: Path) -> Service:
    """The service, not yet started."""
    stubs = {name: Worker("stub", _celery(name), {"ADASPA_WORKER_MODEL": "stub"}) for name in ("stub-0", "stub-1")}
    demos = {model: Worker(model, ["adaspa_worker", "--model", model]) for model in DEMOS}
    return Service(folder, _catalog(_lora(folder)), stubs | demos)


def _celery(name: str) -> list[str]:
    pool = ["--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    queues = ["--queues", "generate.stub,generate.stub:bulk", "--hostname", name]
    return ["celery", "--quiet", "--app", "chaos.worker", "worker", *queues, *pool]


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
