"""What the worker's tests share."""

from pathlib import Path

import pytest
from tiny_wan import save_pipeline


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny untrained Wan pipeline; copy it before changing it."""
    return save_pipeline(tmp_path_factory.mktemp("tiny-wan"))
