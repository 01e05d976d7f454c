"""What the end-to-end tests share: a tiny model, a catalog, and a running service."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from adaspa_service.local.supervisor import free_port
from collector import Collector, collecting
from diffusers import WanTransformer3DModel
from service_process import LEASE_SECONDS, Service, children, environment
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
def collector() -> Iterator[Collector]:
    """What receives the shared service's traces."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="session")
def metrics_port() -> int:
    """Where the shared service's worker serves its metrics."""
    return free_port("127.0.0.1")


@pytest.fixture(scope="session")
def service(
    catalog_with_lora: Path, collector: Collector, metrics_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A running service with everything turned on that lets it be watched, which all share that need none of their
    own; nothing of it may be left at the end."""
    data_dir = tmp_path_factory.mktemp("serve") / "data"
    settings = {"webhook_http": "true", "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "4,1"}
    watched = {"metrics_port": str(metrics_port), "log_format": "json", "lease_seconds": LEASE_SECONDS}
    env = environment(catalog_with_lora, **watched, **settings)
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    running = Service(data_dir, env | traced).start()
    yield running
    running.stop(signal.SIGTERM)
    assert children(data_dir) == {}
