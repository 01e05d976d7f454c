"""What the end-to-end tests share: a tiny model, a catalog, and a running service for each module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from service_process import Service, children, environment
from tiny_wan import model_spec, save_pipeline, write_catalog


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with the tiny model."""
    folder = tmp_path_factory.mktemp("model")
    pipeline = save_pipeline(folder / "tiny")
    return write_catalog(folder / "catalog.json", model_spec(pipeline))


@pytest.fixture(scope="module")
def service(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service, shared by the tests of one module; nothing of it may be left at the end."""
    data_dir = tmp_path_factory.mktemp("serve") / "data"
    running = Service(data_dir, environment(catalog, lease_seconds="3")).start()
    yield running
    running.stop()
    assert children(data_dir) == {}
