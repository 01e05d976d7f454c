"""Sparse steps that get back what the search saw them lose."""

from dataclasses import replace

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import ops
from adaspa.residual import FADING, mean_residual
from adaspa.state import Action
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.hooks import MagCacheConfig
from nan_query import nan_query_harms_no_other
from tiny_pipelines import SPARSE, STEPS, generate, make_wan, make_wan_pipeline

PLAIN = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4), head_adaptive=False)
CONFIG = replace(PLAIN, compensation="residual")
TOKENS = 150
"""Nine blocks and a part of one."""


def run(state, branches=("",), steps=range(6), **places):
    """Outputs, inputs and masks by (step, branch); the content drifts from step to step."""
    results = {}
    for step in steps:
        for b, branch in enumerate(branches):
            state.begin_step(step, branch)
            qkv = tuple(x + 0.02 * step for x in naive.qkv(tokens=TOKENS, batch=2, seed=100 * b))
            out, index = adaspa.attention(*qkv, state, **places), state.cache.index(state.key(0))
            mask = None if index is None else naive.token_mask(index.to_mask(), index.query_block, TOKENS, None, 16)
            results[step, branch] = out, qkv, mask
    return results


def missed(results, branch, search, step):
    """What dense attention has beside the lists of a search: the mean of each 16 queries, as far as it lasts."""
    _, qkv, mask = results[search, branch]
    lost = naive.attend(*qkv)[0] - naive.attend(*qkv, mask)[0]
    means = torch.stack([part.mean(2) for part in lost.split(16, dim=2)], dim=2)
    return FADING ** (50 * (step - search) / 6) * means.repeat_interleave(16, dim=2)[:, :, :TOKENS]


def close(got, wanted):
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"share_lists": True},
        {"selection": "retained_mass", "mass": 0.8},
        {"query_block_size": 64, "query_stride": 4},
    ],
)
def test_sparse_steps_get_back_the_mean_that_each_block_of_queries_lost(change):
    state = adaspa.AdaSpaState(replace(CONFIG, **change).resolve())
    results = run(state, ("cond", "uncond"))
    for branch in ("cond", "uncond"):
        for search, sparse in ((2, 3), (4, 5)):
            out, qkv, _ = results[search, branch]
            close(out, naive.attend(*qkv)[0])  # later searches see all that they lose, too
            out, qkv, mask = results[sparse, branch]
            assert not mask.all()
            close(out, naive.attend(*qkv, mask)[0] + missed(results, branch, search, sparse))
    report = state.record.report()
    assert (report["compensated_calls"], report["fell_back"]) == (4, [])
    assert report["density"] < 0.9


def test_it_brings_the_output_nearer_at_the_same_density():
    plain, compensated = (run(adaspa.AdaSpaState(config.resolve())) for config in (PLAIN, CONFIG))
    for step in (3, 5):
        wanted = naive.attend(*plain[step, ""][1])[0]
        near, far = (float((results[step, ""][0] - wanted).norm()) for results in (compensated, plain))
        assert near < 0.9 * far


@pytest.mark.parametrize("precision", ["full", "int8_fp8"])
def test_what_the_precision_of_sparse_steps_loses_is_put_back_too(precision):
    """A second evaluation of the step that searched: each block of queries has the mean of its dense output."""
    config = replace(CONFIG, block_size=64, query_block_size=64, sparse_precision=precision)
    state, qkv = adaspa.AdaSpaState(config.resolve()), naive.qkv(tokens=300, dim=64)
    state.begin_step(2)
    dense = adaspa.attention(*qkv, state)
    state.begin_step(2)
    assert state.action(0) is Action.SPARSE
    out = adaspa.attention(*qkv, state)
    assert (out - dense).abs().max() > 0.01
    for got, wanted in zip(out.split(64, dim=2), dense.split(64, dim=2), strict=True):
        torch.testing.assert_close(got.mean(2), wanted.mean(2), rtol=1e-3, atol=1e-4)


def test_text_keeps_all_and_gets_nothing_back():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    results = run(state, text=(128, TOKENS))
    out, qkv, mask = results[3, ""]
    assert mask[:, :, 128:].all()
    close(out[:, :, 128:], naive.attend(*qkv)[0][:, :, 128:])
    close(out, naive.attend(*qkv, mask)[0] + missed(results, "", 2, 3))


def test_nothing_is_put_back_where_all_blocks_are_kept():
    config = replace(CONFIG, sparsity=0.01, head_adaptive=False)
    for out, qkv, _ in run(adaspa.AdaSpaState(config.resolve())).values():
        close(out, naive.attend(*qkv)[0])


def test_a_query_block_that_keeps_nothing_has_the_mean_of_what_it_lost():
    dense = naive.qkv(tokens=TOKENS)[0]
    index = adaspa.BlockIndex.from_mask(
        torch.zeros(1, 2, 10, 10, dtype=torch.bool), query_block=16, key_block=16, query_tokens=150, key_tokens=150
    )
    residual = mean_residual((dense, dense, dense), dense, index, None)
    out = torch.zeros_like(dense)
    ops.add_residual(out, residual, 16, 0.5)
    for part in (slice(144, 150), slice(0, 16)):
        wanted = dense[:, :, part].mean(2, keepdim=True) / 2
        torch.testing.assert_close(out[:, :, part], wanted.expand_as(out[:, :, part]))


def test_a_mean_beyond_the_range_of_the_dtype_is_cut_to_it():
    """Values at its ends: dense output and that of the pattern are finite, their difference is not."""
    q, k = torch.zeros(2, 1, 1, 32, 16, dtype=torch.float16)
    v = torch.full((1, 1, 32, 16), -6e4, dtype=torch.float16)
    v[:, :, 16:] = 6e4
    index = adaspa.BlockIndex.from_mask(
        torch.tensor([[[[True, False]] * 2]]), query_block=16, key_block=16, query_tokens=32, key_tokens=32
    )
    residual = mean_residual((q, k, v), torch.full_like(v, 6e4), index, None)
    assert (residual == torch.finfo(torch.float16).max).all()


@pytest.mark.parametrize("text", [None, (70, 90)], ids=["video", "text"])
def test_a_query_that_is_not_a_number_harms_no_other(text):
    nan_query_harms_no_other("top_k", text, torch.float32, compensation="residual")


def test_samples_of_their_own_lengths_have_residuals_of_their_own():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    for step in range(4):
        for sample, tokens in enumerate((150, 90)):
            state.begin_step(step)
            qkv = naive.qkv(tokens=tokens, seed=sample)
            out = adaspa.attention(*qkv, state, sample=sample)
    assert state.cache.residual(state.key(0, 0)).shape == (1, 2, 10, 32)
    assert state.cache.residual(state.key(0, 1)).shape == (1, 2, 6, 32)
    assert out.isfinite().all() and state.record.report()["compensated_calls"] == 2


def test_a_branch_that_missed_a_search_sees_first_what_the_new_lists_lose():
    """A step cache left out its forward in the step of the later search."""
    state = adaspa.AdaSpaState(replace(CONFIG, share_lists=True).resolve())
    run(state, ("cond", "uncond"), range(4))
    run(state, ("cond",), [4])
    state.begin_step(5, "cond")
    assert state.action(0) is Action.SPARSE
    state.begin_step(5, "uncond")
    assert state.action(0) is Action.DENSE_WITH_RESIDUAL
    run(state, ("cond", "uncond"), [5])
    state.begin_step(5, "uncond")
    assert state.action(0) is Action.SPARSE


@pytest.mark.parametrize("beside", ["two evaluations a step", "every second step left out", "a second expert"])
def test_a_guidance_branch_that_looks_at_what_it_lacks_is_no_fallback(beside):
    experts = {"transformer_2": make_wan(seed=1), "boundary_ratio": 0.8} if beside == "a second expert" else {}
    pipe = make_wan_pipeline(**experts)
    handles = adaspa.apply(pipe, replace(SPARSE, searches=(2, 4), compensation="residual", share_lists=True))
    if beside == "two evaluations a step":
        pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    elif beside == "every second step left out":
        pipe.transformer.enable_cache(MagCacheConfig(1.0, 1, 0.5, STEPS, mag_ratios=[1.0] * STEPS))
    generate(pipe)
    for report in (handle.report() for handle in handles):
        assert report["fell_back"] == []
        assert report["compensated_calls"] == report["attention_calls"]["sparse"] > 0


def test_the_work_has_the_sparse_passes_that_searches_take_besides():
    plain, compensated = (adaspa.AdaSpaState(replace(config, searches=(2,)).resolve()) for config in (PLAIN, CONFIG))
    for state in (plain, compensated):
        run(state)
    share = float(compensated.record.patterns[0].share.mean())
    more = compensated.record.attention_work() - plain.record.attention_work()
    assert more == pytest.approx(share / 6)
    assert compensated.record.report()["kinds"]["search"]["calls"] == 1


def test_residuals_are_accounted_and_dropped():
    states = [adaspa.AdaSpaState(config.resolve()) for config in (PLAIN, CONFIG)]
    for state in states:
        run(state)
    assert states[1].cache.nbytes - states[0].cache.nbytes == RESIDUAL
    assert states[1].drop().report()["cache_bytes"] > RESIDUAL
    assert states[1].cache.nbytes == 0 and states[1].cache.residual(states[1].key(0)) is None
    assert states[0].record.report()["compensated_calls"] == 0


RESIDUAL = 2 * 2 * 10 * 32 * 4
"""Bytes of a layer's residual: batch, heads, blocks, channels."""


def test_residuals_over_the_budget_go_to_the_host_and_nothing_else_changes():
    wanted, got = (adaspa.AdaSpaState(replace(CONFIG, cache_budget=budget).resolve()) for budget in (None, 600))
    outputs = [run(state, ("cond", "uncond")) for state in (wanted, got)]
    assert all(torch.equal(outputs[0][place][0], outputs[1][place][0]) for place in outputs[0])
    assert got.cache.nbytes <= 600 and got.cache.host_nbytes >= 2 * RESIDUAL
    report = got.drop().report()
    assert (report["fell_back"], report["refused_layers"], report["compensated_calls"]) == ([], [], 4)
    assert report["cache_bytes"] <= 600 and got.cache.host_nbytes == 0


@pytest.mark.parametrize("room_for", [0, 1])
def test_a_layer_whose_residual_does_not_fit_stays_dense_where_that_is_wanted(room_for):
    """Whichever branch's it is, and nothing of the layer is held."""
    budget = 600 + room_for * RESIDUAL
    state = adaspa.AdaSpaState(replace(CONFIG, share_lists=True, cache_budget=budget, over_budget="dense").resolve())
    for out, qkv, _ in run(state, ("cond", "uncond")).values():
        close(out, naive.attend(*qkv)[0])
    assert state.cache.nbytes == 0
    report = state.drop().report()
    assert report["refused_layers"] == [0] and report["compensated_calls"] == 0
    assert report["cache_bytes"] <= budget


def test_lses_make_room_for_residuals():
    state = adaspa.AdaSpaState(replace(CONFIG, cache_budget=RESIDUAL + 600, over_budget="dense").resolve())
    results = run(state)
    for search, sparse in ((2, 3), (4, 5)):
        out, qkv, mask = results[sparse, ""]
        close(out, naive.attend(*qkv, mask)[0] + missed(results, "", search, sparse))
    assert state.record.report()["refused_layers"] == []


def test_another_compensation_is_named():
    with pytest.raises(ValueError, match=r"^compensation must be one of \('none', 'residual'\), got 'proxies'"):
        replace(CONFIG, compensation="proxies")
