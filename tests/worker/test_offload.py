"""Weights that lie in host memory until the GPU computes with them: pinned at their own size, and moved as they are."""

import gc
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines import in_groups
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from tiny_gguf import write
from tiny_wan import model_spec
from torch import Tensor, nn

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Locks:
    """What CUDA's runtime is asked to lock, and the answer that it gives."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.error = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if not self.error:
            self.held[address] = size
        return self.error

    def cudaHostUnregister(self, address: int) -> int:
        del self.held[address]
        return 0


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Locks]:
    """A runtime that locks nothing."""

    def check(error: int) -> None:
        if error:
            raise RuntimeError("CUDA error: out of memory")

    found = Locks()
    monkeypatch.setattr("torch.cuda.cudart", lambda: found)
    monkeypatch.setattr("torch.cuda.check_error", check)
    yield found


def test_weights_lie_in_locked_pages_of_their_own_size_and_are_what_they_were(locks: Locks) -> None:
    module = nn.Sequential(nn.Linear(300, 700), nn.Linear(700, 3, dtype=torch.bfloat16), nn.BatchNorm1d(3))
    module.register_buffer("none", torch.empty(0))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    for weight in (*module.parameters(), *module.buffers()):
        in_groups.pin(weight)
    after = module.state_dict()
    assert all(
        torch.equal(after[name], weight) and after[name].dtype == weight.dtype for name, weight in before.items()
    )
    pages = {address // PAGESIZE: size for address, size in locks.held.items()}
    assert all(address % PAGESIZE == size % PAGESIZE == 0 for address, size in locks.held.items())
    assert len(pages) == len(before) - 1, "no two of them share a page, and what has no bytes needs none"
    assert sum(pages.values()) - sum(weight.nbytes for weight in before.values()) < len(pages) * PAGESIZE
    del module, weight, after
    gc.collect()
    assert locks.held == {}, "pages that are no longer there are not locked, either"


def test_memory_that_cannot_be_locked_is_told(locks: Locks) -> None:
    locks.error, weight = 2, torch.ones(10)
    with pytest.raises(RuntimeError, match="out of memory"):
        in_groups.pin(weight)
    assert weight.sum() == 10


def loaded(folder: Path, **memory: Any) -> Engine:
    return load(ModelSpec.model_validate(model_spec(folder, memory=memory)), folder)


def denoise(engine: Engine, params: JobParams) -> Tensor:
    try:
        return engine.denoise(params, engine.encode_prompt(params, {}), lambda *_: None)
    finally:
        engine.reset()


@on_a_gpu
def test_by_groups_a_gpu_makes_the_same_clip_of_weights_pinned_once(
    tiny_engine: Engine, tiny_pipeline: Path, params: Callable[..., JobParams]
) -> None:
    pinned = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    offloaded = loaded(tiny_pipeline, group_offload=True)
    weights = list(offloaded.pipe.transformer.blocks.parameters())  # type: ignore[attr-defined]
    assert all(weight.is_pinned() for weight in weights)
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == pinned, "PyTorch has no copy"
    assert torch.equal(denoise(tiny_engine, params()), denoise(offloaded, params()))
    assert torch.equal(denoise(tiny_engine, params(seed=5)), denoise(offloaded, params(seed=5)))


SMALLER: dict[str, dict[str, str]] = {
    "bfloat16": {},
    "storage_dtype": {"storage_dtype": "float8_e4m3fn"},
    "int8": {"quantization": "int8"},
    "gguf": {},
}


@on_a_gpu
@pytest.mark.parametrize("kind", SMALLER)
def test_part_by_part_a_gpu_makes_the_same_clip_or_the_reason_is_told_at_load(
    tiny_engine: Engine,
    tiny_pipeline: Path,
    params: Callable[..., JobParams],
    tmp_path: Path,
    kind: str,
) -> None:
    if kind == "int8" and find_spec("torchao") is None:
        pytest.skip("needs torchao")
    memory: dict[str, Any] = dict(SMALLER[kind])
    if kind == "gguf":
        memory["gguf"] = [str(write(tmp_path / "tiny.gguf", tiny_engine.pipe.transformer))]  # type: ignore[attr-defined]
    try:
        offloaded = loaded(tiny_pipeline, cpu_offload=True, **memory)
    except ModelUnavailable as error:
        assert "memory.cpu_offload: a weight in" in str(error)
        print(f"{kind}: {error}")
        return
    parts = [offloaded.pipe.transformer, offloaded.pipe.text_encoder]  # type: ignore[attr-defined]
    assert {next(part.parameters()).device.type for part in parts} == {"cpu"}
    whole = loaded(tiny_pipeline, **memory)
    for asked in (params(quality="exact"), params(), params(seed=5)):
        assert torch.equal(denoise(offloaded, asked), denoise(whole, asked))
    print(f"{kind}: works")
