"""What the service's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from adaspa_jobs.settings import Settings
from running_gateway import Service, serving


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a gateway with everything of its own."""
    monkeypatch.chdir(tmp_path)
    return Settings(redis_url=redis_url, storage_url=str(tmp_path / "objects"))


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """A running gateway."""
    with serving(settings, tmp_path) as running:
        yield running
