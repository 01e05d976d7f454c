"""What a worker does before it takes jobs: a short clip of each kind of attention, and a count of what it compiled."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.settings import Settings, SettingsError
from adaspa_worker import kernel_cache
from adaspa_worker.compilations import counted
from adaspa_worker.pipeline import Engine
from adaspa_worker.warm_up import default_params, kinds, shortened, warm_up
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
