"""A redelivered job goes on from its last checkpoint: dense to the same video, sparse to one that is near it."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from adaspa_jobs.job import JobParams, since
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_worker.checkpoint import BadCheckpoint, Checkpoints, pack, unpack
from adaspa_worker.pipeline import Engine
from admitting import create
from claiming import claimed, lose_lease
from interrupted import interrupted

STEPS = 20


def denoised(engine: Engine, params: JobParams, checkpoint: bytes | None = None) -> tuple[torch.Tensor, list[int]]:
    """Latents, and the steps that were done for them."""
    steps: list[int] = []
    resume = unpack(checkpoint, params.model_dump_json()) if checkpoint else None
    latents = engine.denoise(params, engine.encode_prompt(params), lambda done, _: steps.append(done), resume)
    return latents, steps


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames."""
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-12)))


@pytest.mark.parametrize("at", [1, 7, STEPS - 1, STEPS])
def test_dense_attention_resumes_to_equal_latents(
    tiny_engine: Engine, params: Callable[..., JobParams], at: int
) -> None:
    asked = params(steps=STEPS, sparsity=0.0, flow_shift=5.0)
    whole, _ = denoised(tiny_engine, asked)
    resumed, steps = denoised(tiny_engine, asked, interrupted(tiny_engine, asked, tiny_engine.encode_prompt(asked), at))
    assert steps == list(range(at + 1, STEPS + 1))
    assert torch.equal(resumed, whole)
    report = tiny_engine.report()
    assert report["dense_steps"] == STEPS - at, "the report is of the work that was done"


def test_sparse_attention_searches_first_and_gives_nearly_the_same_frames(
    tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    asked = params(steps=STEPS)
    whole, _ = denoised(tiny_engine, asked)
    frames = np.stack(list(tiny_engine.frames(whole, lambda: None)))
    checkpoint = interrupted(tiny_engine, asked, tiny_engine.encode_prompt(asked), 7)
    kinds: list[str | None] = []
    resumed = tiny_engine.denoise(
        asked,
        tiny_engine.encode_prompt(asked),
        lambda _, kind: kinds.append(kind),
        unpack(checkpoint, asked.model_dump_json()),
    )
    assert kinds[0] == "search" and kinds[1] == "sparse"
    assert psnr(np.stack(list(tiny_engine.frames(resumed, lambda: None))), frames) > 40


def test_a_broken_or_foreign_checkpoint_is_known_as_one(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    asked = params(steps=STEPS)
    checkpoint = interrupted(tiny_engine, asked, tiny_engine.encode_prompt(asked), 3)
    for broken in (b"", checkpoint[:-1], checkpoint[:-1] + bytes([checkpoint[-1] ^ 1]), checkpoint[:1000]):
        with pytest.raises(BadCheckpoint, match="bytes"):
            unpack(broken, asked.model_dump_json())
    with pytest.raises(BadCheckpoint, match="another job"):
        unpack(checkpoint, params(seed=99, steps=STEPS).model_dump_json())


def test_what_a_stalled_attempt_still_writes_removes_nothing_of_the_next_one(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    storage, job = ObjectStorage("memory:///"), create(store, params())
    stalled = Checkpoints(storage, claimed(store, job), every_steps=1, every_seconds=1.0)
    lose_lease(store, job.id)
    assert store.requeue_expired() == [job.id]
    present = Checkpoints(storage, claimed(store, job), every_steps=1, every_seconds=1.0)
    stalled.save({"step": 3})
    present.save({"step": 4})
    stalled.save({"step": 9})
    snapshot = present.load()
    assert snapshot is not None and snapshot["step"] == 4


def test_a_checkpoint_of_another_versions_worker_is_one_of_the_same_job(params: Callable[..., JobParams]) -> None:
    asked = params(seed=7)
    first = {name: value for name, value in asked.model_dump().items() if since(JobParams.model_fields[name]) == 1}
    assert unpack(pack({"step": 3}, json.dumps(first)), asked.identity)["step"] == 3
    for other in (first | {"seed": 8}, first | {"invented": 1}):
        with pytest.raises(BadCheckpoint, match="another job or version"):
            unpack(pack({"step": 3}, json.dumps(other)), asked.identity)
