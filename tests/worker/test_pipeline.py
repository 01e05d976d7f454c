"""The engine: prompt in, frames out, the same for a seed, with nothing of a request left behind."""

import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines import ahead
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from host_memory import taken
from interrupted import Stop, stop_at
from pydantic import ValidationError
from tiny_wan import FRAMES, SIZE, model_spec
from waiting import PATIENCE, until

LORA = {"name": "style", "source": "style.safetensors", "sha256": 64 * "0"}


def generate(
    engine: Engine, params: JobParams, on_step: Callable[[int, str | None], None] = lambda *_: None
) -> np.ndarray:
    """The clip, uint8 [frames, height, width, 3]."""
    latents = engine.denoise(params, engine.encode_prompt(params), on_step)
    return np.stack(list(engine.frames(latents, lambda: None)))


def test_frames_have_the_asked_number_and_size(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    for count in (FRAMES, 5):
        clip = generate(tiny_engine, params(num_frames=count))
        assert clip.shape == (count, SIZE, SIZE, 3) and clip.dtype == np.uint8


def test_a_seed_gives_the_same_frames_twice(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    first, again, other = (generate(tiny_engine, params(seed=seed)) for seed in (2**63 - 1, 2**63 - 1, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_step_is_told_with_its_kind(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    steps: list[tuple[int, str | None]] = []
    generate(tiny_engine, params(steps=10), lambda done, kind: steps.append((done, kind)))
    assert [done for done, _ in steps] == list(range(1, 11))
    assert [kind for _, kind in steps][:3] == ["dense", "dense", "search"] and steps[-1][1] == "sparse"
    report = tiny_engine.report()
    kinds = [kind for _, kind in steps]
    assert [report[f"{kind}_steps"] for kind in ("dense", "search", "sparse")] == [
        kinds.count(kind) for kind in ("dense", "search", "sparse")
    ]


def test_a_job_chooses_its_sparsity_and_the_next_one_gets_the_models_own(
    tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    densities = []
    for sparsity in (None, 0.0, 0.7, None):
        generate(tiny_engine, params(steps=10, sparsity=sparsity))
        densities.append(tiny_engine.report()["density"])
    own, dense, sparse, own_again = densities
    assert dense == 1.0 and sparse < own < 1.0 and own_again == own


def test_what_a_step_callback_raises_comes_through_and_leaves_nothing(
    tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    before = generate(tiny_engine, params(steps=10))
    with pytest.raises(Stop):
        generate(tiny_engine, params(steps=10), stop_at(5))
    tiny_engine.reset()
    assert tiny_engine.pipe.transformer.adaspa.state is None  # type: ignore[attr-defined]
    assert np.array_equal(generate(tiny_engine, params(steps=10)), before)


def test_a_stop_in_mid_decode_comes_through_and_the_next_clip_is_right(
    tiny_engine: Engine, params: Callable[..., JobParams]
) -> None:
    before = generate(tiny_engine, params())
    latents = tiny_engine.denoise(params(), tiny_engine.encode_prompt(params()), lambda *_: None)
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(tiny_engine.frames(latents, check))
    assert np.array_equal(generate(tiny_engine, params()), before)


def test_a_pipeline_without_an_engine_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "AllegroPipeline"}')
    with pytest.raises(ModelUnavailable, match=r"contains a AllegroPipeline, .*; allowed: CogVideoX.*, WanPipeline"):
        load(ModelSpec.model_validate(model_spec(tmp_path)), tmp_path)


def test_a_folder_that_does_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(ModelSpec.model_validate(model_spec(tmp_path)), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a process holds")
@pytest.mark.parametrize(
    ("memory", "most", "kept"),
    [({}, 1.25, 1.25), ({"storage_dtype": "float8_e4m3fn"}, 1.25, 0.5), ({"gguf": ["transformer.gguf"]}, 0.6, 0.5)],
)
def test_loading_takes_host_memory_for_one_copy_of_the_weights(
    tiny_pipeline: Path, tmp_path: Path, memory: dict[str, Any], most: float, kept: float
) -> None:
    """In another type than that of the files, and in many of them; what a cast has freed is not kept."""
    found = taken(tiny_pipeline, tmp_path, memory)
    assert found.most < most and found.kept < kept, found
    assert found.kept > 0.2 or found.device == "cuda", "else nothing would have been seen"


def test_frames_come_while_the_vae_decodes_on(tiny_engine: Engine, params: Callable[..., JobParams]) -> None:
    latents = tiny_engine.denoise(params(), tiny_engine.encode_prompt(params(), {}), lambda *_: None)
    whole = list(tiny_engine.frames(latents, lambda: None))
    shown, calls = threading.Event(), []

    def check() -> None:
        calls.append(1)
        if len(calls) == latents.shape[2]:
            assert shown.wait(PATIENCE), "the first frame is there before the last part is decoded"

    frames = tiny_engine.frames(latents, check)
    first = next(frames)
    shown.set()
    assert np.array_equal([first, *frames], whole)
    calls.clear()
    shown.clear()
    left = tiny_engine.frames(latents, check)
    next(left)
    threading.Timer(0.2, shown.set).start()
    left.close()
    assert not [each for each in threading.enumerate() if each.name == "ahead"]


def test_who_leaves_when_all_is_done_but_taken_leaves_no_error_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cancel while the last frames are encoded."""
    ends, errors = list[Any](), list[Any]()

    class Queue(queue.Queue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            ends.extend([item] if isinstance(item, ahead._End) else [])
            super().put(item, block, timeout)

    def run(hand_on: Callable[[int], None]) -> None:
        for number in range(1 + ahead.AHEAD):
            hand_on(number)

    monkeypatch.setattr(ahead, "queue", SimpleNamespace(Queue=Queue, Full=queue.Full))
    monkeypatch.setattr(threading, "excepthook", errors.append)
    results = ahead.ahead(run)
    assert next(results) == 0
    until(lambda: ends, "the thread tells of its end, for which there is no room")
    results.close()
    assert errors == []


def test_weights_that_are_kept_in_float8_take_a_byte_each_and_make_nearly_the_same_clip(
    tiny_engine: Engine, tiny_pipeline: Path, params: Callable[..., JobParams]
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"storage_dtype": "float8_e4m3fn"}))
    small = load(spec, tiny_pipeline)
    blocks, plain = (engine.pipe.transformer.blocks[0].ffn for engine in (small, tiny_engine))  # type: ignore[attr-defined]
    kept = sum(weight.nbytes for weight in blocks.parameters())
    assert kept == sum(weight.numel() for weight in plain.parameters())
    transformers = [engine.pipe.transformer for engine in (small, tiny_engine)]  # type: ignore[attr-defined]
    told = [engine.report()["weights"]["transformer"] for engine in (small, tiny_engine)]
    assert [sum(types.values()) for types in told] == [sum(w.nbytes for w in t.parameters()) for t in transformers]
    assert set(told[0]) - set(told[1]) == {"float8_e4m3fn"}
    clip = generate(small, params())
    small.reset()
    difference = np.abs(clip.astype(float) - generate(tiny_engine, params())).mean()
    assert 0 < difference < 1
    assert np.array_equal(clip, generate(small, params()))
    assert sum(weight.nbytes for weight in blocks.parameters()) == kept, "nothing stays cast"


@pytest.mark.parametrize(
    ("changes", "others"),
    [({"compile": True, "gpus": 2}, "compile and several gpus"), ({"loras": [LORA]}, "loras")],
)
def test_what_weights_in_float8_do_not_go_with_is_refused_in_the_catalog(changes: dict[str, Any], others: str) -> None:
    with pytest.raises(ValidationError, match=f"memory.storage_dtype: cannot be combined with {others}; allowed: null"):
        ModelSpec.model_validate(model_spec("unused", memory={"storage_dtype": "float8_e4m3fn"}, **changes))
