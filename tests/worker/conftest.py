"""What the worker's tests share: a tiny pipeline, loaded once, and parameters that fit it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.storage import ObjectStorage
from adaspa_worker.engines.encodings import Encodings
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.runner import Runner
from job_bench import Bench, Spy
from tiny_wan import FRAMES, SIZE, model_spec, save_pipeline


@pytest.fixture(scope="session", autouse=True)
def whole_float32() -> None:
    """On a GPU, cuDNN would cut the numbers of a float32 convolution to TF32, with other cuts for other shapes."""
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny untrained Wan pipeline; copy it before changing it."""
    return save_pipeline(tmp_path_factory.mktemp("tiny-wan"))


@pytest.fixture(scope="session")
def tiny_engine(tiny_pipeline: Path) -> Engine:
    """The tiny pipeline, loaded."""
    return load(ModelSpec.model_validate(model_spec(tiny_pipeline)), tiny_pipeline)


@pytest.fixture
def elsewhere(bench: Bench, tiny_pipeline: Path) -> Runner:
    """Another worker, with an engine of its own."""
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline))
    return replace(bench.runner, name="worker-2", process="other", engine=lambda _: load(spec, tiny_pipeline))


@pytest.fixture
def usual_params(usual_params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a job of the tiny model."""
    tiny = {"model": "tiny", "prompt": "a red circle", "width": SIZE, "height": SIZE, "num_frames": FRAMES, "steps": 4}
    return usual_params | tiny


@pytest.fixture
def bench(valkey: redis.Redis, tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tiny_engine.reset()  # of other tests' denoisings, so that its state at the end is this test's
    tiny_engine.encodings = Encodings()  # type: ignore[attr-defined]
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    stopping, ended, store = threading.Event(), threading.Event(), Spy(valkey)
    runner = Runner(
        store=store,
        storage=ObjectStorage(str(tmp_path / "objects")),
        engine=lambda _: tiny_engine,
        name="worker-1",
        stopping=stopping.is_set,
        end_process=ended.set,
        hear_seconds=0.05,
        tell_seconds=0,
        time_limit_seconds=600,
        back_off_seconds=(0.0,),
        upload_retry_seconds=1.0,
    )
    yield Bench(runner, store, tmp_path / "objects", scratch, stopping, ended)
    assert tiny_engine.pipe.transformer.adaspa.state is None  # type: ignore[attr-defined]
