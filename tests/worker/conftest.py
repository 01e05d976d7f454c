"""What the worker's tests share: a tiny pipeline, loaded once, and parameters that fit it."""

from pathlib import Path
from typing import Any

import pytest
from adaspa_service.contract.catalog import ModelSpec
from adaspa_worker.pipeline import Engine, load
from tiny_wan import FRAMES, SIZE, model_spec, save_pipeline


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny untrained Wan pipeline; copy it before changing it."""
    return save_pipeline(tmp_path_factory.mktemp("tiny-wan"))


@pytest.fixture(scope="session")
def tiny_engine(tiny_pipeline: Path) -> Engine:
    """The tiny pipeline, loaded."""
    return load(ModelSpec.model_validate(model_spec(tiny_pipeline)), tiny_pipeline)


@pytest.fixture
def usual_params(usual_params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a job of the tiny model."""
    tiny = {"model": "tiny", "prompt": "a red circle", "width": SIZE, "height": SIZE, "num_frames": FRAMES, "steps": 4}
    return usual_params | tiny
