"""What the service's tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_client import Client, plans
from adaspa_jobs.settings import Settings
from driven_client import Driven
from running_gateway import Service, serving
from waiting import PATIENCE


@pytest.fixture
def settings(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Settings:
    """Settings of a gateway with everything of its own. It asks for nothing but where a test is marked ``asks``: there
    for its token, and from the first key on for keys."""
    monkeypatch.chdir(tmp_path)
    opened = None if request.node.get_closest_marker("asks") else True
    return Settings(redis_url=redis_url, storage_url=str(tmp_path / "objects"), open_access=opened)


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """A running gateway. A lease that nobody renews outlasts the test."""
    with serving(settings.model_copy(update={"lease_seconds": PATIENCE}), tmp_path) as running:
        yield running


@pytest.fixture
def emptied(gateway: Service, valkey: redis.Redis) -> Iterator[Service]:
    """The gateway that a file has for all its tests, with nothing in its store and its storage."""
    gateway.parts.storage.delete_prefix("")
    yield gateway
    gateway.settle()  # no bell is left for the next test


@pytest.fixture(params=[Client, Driven], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a Python client, of each kind in turn; its pauses are short."""
    monkeypatch.setattr(plans, "DELAYS", (0.02,))
    return request.param
