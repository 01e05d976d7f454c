"""The benchmarks of SGLang's attention layers and whole transformer, on a CPU: they measure what they say.

`sglang_stand_ins` says what is not the server's.
"""

from collections import defaultdict

import pytest
import sglang_stand_ins  # noqa: F401 - before the server looks for a platform
from adaspa.schedule import StepKind

from benchmarks.attention import sglang_layers, sglang_model
from benchmarks.attention.served_layer import Case, inputs, ours
from benchmarks.attention.sglang_layers import OURS, Layer

CASES = (Case("h3", 2, (3, 6, 8), text=5, sound=3), Case("wan", 2, (3, 6, 8)))


@pytest.fixture(scope="module", autouse=True)
def started():
    with sglang_layers.started():
        yield
    sglang_layers.parallel_state.cleanup_dist_env_and_memory()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_kind_of_call_of_a_request_is_timed(case):
    qkv = [x.float() for x in inputs(case, "cpu")]
    layer, times = Layer(case, OURS, {"sparsity": 0.5, "block_size": 16}, qkv), defaultdict(list)
    density = ours(layer, case, times)
    assert {name: len(found) for name, found in times.items()} == {
        **dict.fromkeys(("default", "with_lse", "first_search", "later_search"), 1),
        **{"sparse": 6, "library": 3},
    }
    kinds = layer.state().record.step_kinds
    assert {step for step, kind in kinds.items() if kind is StepKind.DENSE} == {0, 9}
    assert {step for step, kind in kinds.items() if kind is StepKind.SEARCH} == {10, 30}
    assert density == pytest.approx(layer.state().record.report()["density"])
    assert [x.shape[1] for x in layer.rows()] == [case.rows] * 3
    dense = Layer(case, "torch_sdpa", {}, qkv)(0)
    apart = (layer(34) - dense).view(1, -1, *dense.shape[-2:])[:, : case.rows].abs().amax((0, 2, 3))
    assert (apart[: case.others] < 1e-4).all()
    assert apart[case.others :].max() > 1e-3


def test_the_steps_of_a_request_are_counted_from_its_calls():
    names = ("dense", "default", "with_lse", "first_search", "later_search", "sparse", "library", "sub_block", "router")
    times = {name: [1000.0 * (place + 1)] * 2 for place, name in enumerate(names)}
    found = sglang_layers.row(CASES[1], times, {"density": 0.2})
    assert found["all_dense_s"] == 50 and found["sub_block_s"] == 10 + 40 * 8
    assert found["ours_s"] == 9 + 3 + 4 + 5 + 38 * 6
    assert found["ratio_without_dense_steps"] == pytest.approx((4 + 5 + 38 * 6) / (40 * 8), abs=0.001)


def test_a_whole_transformer_runs_by_the_servers_attention_and_by_ours(monkeypatch):
    for name, size in {"HEADS": 2, "FEED_FORWARD": 64, "TEXT": 16, "GRID": (4, 6, 8)}.items():
        monkeypatch.setattr(sglang_model, name, size)
    theirs, told = sglang_model.denoise(sglang_model.SDPBackend.MATH, "cpu")
    assert set(told) == {"seconds"} and len(told["seconds"]) == sglang_model.STEPS
    same, told = sglang_model.denoise({"sparsity": 0.0001, "block_size": 16}, "cpu")
    assert told["density"] == 1 and (same - theirs).norm() < 0.02 * theirs.norm()
    sparse, told = sglang_model.denoise({"sparsity": 0.8, "block_size": 16}, "cpu")
    assert told["density"] < 0.25 and (told["dense_steps"], told["search_steps"], told["sparse_steps"]) == (2, 2, 4)
    assert told["fell_back"] == [] and (sparse - theirs).norm() > 0.02 * theirs.norm()
