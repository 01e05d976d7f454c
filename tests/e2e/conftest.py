"""What the end-to-end tests share: a tiny model, a catalog, and a running service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import WanTransformer3DModel
from service_process import Service, children, environment
from tiny_loras import WAN, diffusers, entry, low_ranks
from tiny_wan import model_spec, save_pipeline, write_catalog


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with the tiny model."""
    folder = tmp_path_factory.mktemp("model")
    pipeline = save_pipeline(folder / "tiny")
    return write_catalog(folder / "catalog.json", model_spec(pipeline))


@pytest.fixture(scope="session")
def catalog_with_lora(catalog: Path) -> Path:
    """The same with an adapter named ``ink``."""
    (spec,) = json.loads(catalog.read_text())
    transformer = WanTransformer3DModel.from_pretrained(f"{spec['source']}/transformer")
    ink = entry(catalog.parent / "ink.safetensors", diffusers(low_ranks(transformer, WAN)), scale=0.7)
    return write_catalog(catalog.parent / "with_lora.json", spec | {"loras": [ink]})


@pytest.fixture(scope="session")
def service(catalog_with_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service, which all share that need none of their own; nothing of it may be left at the end."""
    data_dir = tmp_path_factory.mktemp("serve") / "data"
    settings = {"webhook_http": "true", "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "4,1"}
    running = Service(
        data_dir, environment(catalog_with_lora, lease_seconds="3", log_format="json", **settings)
    ).start()
    yield running
    running.stop()
    assert children(data_dir) == {}
