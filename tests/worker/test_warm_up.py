"""What a worker does before it takes jobs: a short clip of each kind of attention, and a count of what it compiled."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from adaspa_api.words import Task
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.settings import Settings, SettingsError
from adaspa_worker import kernel_cache
from adaspa_worker.compilations import counted
from adaspa_worker.pipeline import Engine
from adaspa_worker.sound import Sound
from adaspa_worker.warm_up import default_params, kinds, pictures, shortened, warm_up
from tiny_wan import model_spec
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def one_more(place, length: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adds one."""
    at = place + tl.arange(0, length)
    tl.store(at, tl.load(at) + 1)


def test_a_warm_up_takes_each_kind_of_step_and_leaves_nothing(
    tiny_engine: Engine, tiny_pipeline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, default_steps=50, fps_range=[1, 30]))
    with caplog.at_level(logging.INFO):
        warm_up(tiny_engine, spec, tiny_pipeline)
    steps = [record.getMessage() for record in caplog.records if record.name == "adaspa_worker.warm_up"]
    assert steps == [
        f"tiny: warm-up: step {step} of 4 ({kind})"
        for step, kind in enumerate(("dense", "search", "search", "sparse"), 1)
    ]
    assert tiny_engine.snapshot() is None
    assert tiny_engine.pipe.transformer.adaspa.state is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"attention": {"preset": "exact"}}, 1),
        ({"attention": {"preset": "balanced"}}, 3),
        ({"attention": {"preset": "fast", "dense_tail": 5}}, 5),
        ({"attention": {"preset": "fast", "few_steps": 8}, "default_steps": 8}, 8),
        ({"call": {"sigmas": [1 - i / 30 for i in range(30)]}, "default_steps": 30}, 30),
        ({"call": {"timesteps": [1000 - i for i in range(30)]}, "default_steps": 30}, 30),
    ],
)
def test_a_warm_up_has_the_fewest_steps_of_all_kinds(changes: dict[str, Any], steps: int) -> None:
    spec = ModelSpec.model_validate(model_spec("nowhere", **({"default_steps": 50} | changes)))
    whole = default_params(spec)
    short = shortened(whole, spec, 1)
    assert short.steps == steps
    assert kinds(short, spec) == kinds(whole, spec)


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries' folders are the test's to set, and as they were after it."""
    for variable in kernel_cache.FOLDERS:
        monkeypatch.setenv(variable, "")  # so that there is something to undo, where none is set
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("own_folders")
def test_kernels_that_are_in_the_cache_do_not_count_as_compiled(tmp_path: Path) -> None:
    kernel_cache.use(Settings(kernel_cache=tmp_path))
    source = ASTSource(one_more, signature={"place": "*fp32", "length": "constexpr"}, constexprs={"length": 16})
    found = []
    for _ in range(2):
        with counted() as compilations:
            triton.compile(source, target=GPUTarget("cuda", 90, 32))
        found.append((compilations.kernels, compilations.kernels_cached))
    assert found == [(1, 0), (0, 1)]
    assert list((tmp_path / "triton").rglob("*.cubin"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")


@pytest.mark.usefixtures("own_folders")
def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"ADASPA_KERNEL_CACHE: .*cannot write to"):
        kernel_cache.use(Settings(kernel_cache=tmp_path / "file"))


def test_a_warm_up_that_fails_leaves_nothing_either(
    tiny_engine: Engine, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, shown = ModelSpec.model_validate(model_spec(tiny_pipeline)), list[object]()
    preview = tiny_engine.preview

    def shows() -> Any:
        shown.append(preview())
        return shown[-1]

    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny_engine, "preview", shows)
    monkeypatch.setattr(tiny_engine, "frames", fails)
    with pytest.raises(torch.OutOfMemoryError):
        warm_up(tiny_engine, spec, tiny_pipeline)
    assert len(shown) == 4, "what previews run is compiled too"
    assert tiny_engine.snapshot() is None and tiny_engine.pipe.transformer.adaspa.state is None  # type: ignore[attr-defined]


@pytest.mark.usefixtures("own_folders")
def test_whoever_listens_to_compilations_already_goes_on_hearing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []

    def listener(*, cache_hit: bool, **_: Any) -> None:
        heard.append(cache_hit)

    monkeypatch.setattr(triton.knobs.compilation, "listener", listener)
    kernel_cache.use(Settings(kernel_cache=tmp_path))
    source = ASTSource(one_more, signature={"place": "*fp32", "length": "constexpr"}, constexprs={"length": 32})
    with pytest.raises(ValueError, match="whatever"), counted() as compilations:
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
        raise ValueError("whatever")
    assert compilations.kernels == 1
    triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compilations.kernels_cached == 0, "what comes later is not counted"
    assert heard == [False, True] and triton.knobs.compilation.listener is listener


def test_graphs_of_torch_compile_are_counted_within_the_block() -> None:
    """Those that its caches cannot hold count as compiled, and either cache of it may have found one."""
    counters = torch._dynamo.utils.counters
    kept = {name: dict(counters[name]) for name in ("inductor", "aot_autograd")}

    def compiles(**counts: int) -> None:
        for name, count in counts.items():
            counters["aot_autograd" if name.startswith("autograd") else "inductor"][name] += count

    try:
        compiles(fxgraph_cache_miss=5, fxgraph_cache_bypass=1, fxgraph_cache_hit=2, autograd_cache_hit=2)
        with counted() as found:
            compiles(fxgraph_cache_miss=2, fxgraph_cache_bypass=1, fxgraph_cache_hit=4)
        assert (found.graphs, found.graphs_cached) == (3, 4)
        with counted() as found:
            compiles(autograd_cache_hit=7)
        assert (found.graphs, found.graphs_cached) == (0, 3)
        assert str(found) == "compiled 0 kernels and 0 graphs, found 0 and 3 in the cache"
    finally:
        for name, counts in kept.items():
            counters[name].clear()
            counters[name].update(counts)


@pytest.mark.parametrize("task", Task)
def test_a_warm_up_has_what_the_models_first_task_takes(task: Task) -> None:
    spec = ModelSpec.model_validate(model_spec("nowhere", tasks=[task], frames=[33], default_frames=33, start_frames=5))
    asked = default_params(spec)
    given = pictures(spec, asked)
    assert set(given) == task.roles and (asked.seed, asked.model) == (0, "tiny")
    for role, what in given.items():
        if role.kind == "audio":
            assert isinstance(what, Sound) and not what.samples.any() and what.samples.size
            continue
        images = what if isinstance(what, list) else [what]
        assert len(images) == (5 if role.kind == "video" else 1)
        assert {image.size for image in images} == {(asked.width, asked.height)}  # type: ignore[union-attr]


def test_a_warm_up_says_the_models_own_example() -> None:
    examples = ["a red circle moves left", "a blue square"]
    spec = ModelSpec.model_validate(model_spec("nowhere", prompt_examples=examples, sizes=["128x64", "64x64"]))
    asked = default_params(spec)
    assert (asked.prompt, asked.width, asked.height) == (examples[0], 128, 64)
    assert (asked.steps, asked.num_frames, asked.fps) == (spec.default_steps, spec.default_frames, spec.fps)
    assert asked.guidance_scale == spec.default_guidance
