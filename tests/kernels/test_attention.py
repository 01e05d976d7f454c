from dataclasses import replace

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa.schedule import StepKind
from adaspa.state import Action
from nan_query import nan_query_harms_no_other

CONFIG = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4), head_adaptive=False)


def run(state, steps, branches=("",), layers=1, tokens=150):
    """Outputs and inputs by (step, branch, layer)."""
    results = {}
    for step in range(steps):
        for b, branch in enumerate(branches):
            state.begin_step(step, branch)
            for layer in range(layers):
                inputs = naive.qkv(tokens=tokens, seed=100 * b + 10 * layer)
                # The same content drifts from step to step, as in denoising.
                inputs = tuple(x + 0.02 * step for x in inputs)
                results[step, branch, layer] = adaspa.attention(*inputs, state, layer=layer), inputs
    return results


def wanted_mask(q, k, lse):
    weights = naive.block_weights(q, k, lse, 16)
    return naive.top_k_mask(weights, [[4, 4]])


def test_each_step_does_what_the_schedule_says():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    results = run(state, 6)
    for step in (0, 1, 2):
        out, (q, k, v) = results[step, "", 0]
        torch.testing.assert_close(out.double(), naive.attend(q, k, v)[0], rtol=1e-4, atol=1e-5)
    q1, k1, _ = results[1, "", 0][1]
    q2, k2, _ = results[2, "", 0][1]
    q4, k4, _ = results[4, "", 0][1]
    # The first search takes its weights from the LSE of step 1; the second from that of step 2, and what step 3 kept.
    masks = {3: wanted_mask(q2, k2, naive.lse(q1, k1))}
    _, kept = naive.attend(*results[3, "", 0][1], naive.token_mask(masks[3], 16, 150))
    masks[4] = masks[5] = wanted_mask(q4, k4, torch.maximum((naive.lse(q2, k2) + kept) / 2, kept))
    for step, mask in masks.items():
        out, (q, k, v) = results[step, "", 0]
        wanted, _ = naive.attend(q, k, v, naive.token_mask(mask, 16, 150))
        torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-5)
    report = state.record.report()
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (2, 2, 2)
    assert report["searches"] == 2
    assert report["density"] == pytest.approx(0.4)


def test_a_later_search_finds_what_a_query_lost():
    """All queries look at four blocks, one of them at a single key elsewhere: too little mass for its whole block."""
    q, k, v = (x.float() * 0.1 for x in naive.qkv(tokens=160))
    q, k = q.clone(), k.clone()
    q[..., 0] += 6
    k[:, :, :64, 0] += 4
    q[:, :, 70, 0], q[:, :, 70, 1], k[:, :, 150, 1] = 0, 30, 6
    state = adaspa.AdaSpaState(CONFIG.resolve())
    kept = []
    for step in range(6):
        state.begin_step(step)
        adaspa.attention(q, k, v, state)
        if state.kind is StepKind.SEARCH:
            kept.append(state.cache.index(state.key(0)).to_mask()[0, 0, 70 // 16].nonzero().flatten().tolist())
    assert kept[0] == [0, 1, 2, 3]
    assert 150 // 16 in kept[1], "the block that the query lost"


def test_a_search_from_every_fourth_row_loses_little_recall():
    # Tokens drift along the sequence and some keys draw all: neighbouring rows want about the same blocks.
    generator = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, 6, 512)
    path = torch.stack([angle.cos(), angle.sin()], -1).repeat(1, 16) * 0.8
    q, k, v = (torch.randn(1, 2, 512, 32, generator=generator) * 0.7 + path for _ in range(3))
    k[:, :, 96:112] *= 1.5
    weights = naive.block_weights(q, k, naive.lse(q, k), 16)

    def recall_of_search(every):
        state = adaspa.AdaSpaState(replace(CONFIG, query_stride=every).resolve())
        for step in (2, 4):
            state.begin_step(step)
            adaspa.attention(q, k, v, state)
        index = state.cache.index(state.key(0))
        return naive.recall(weights, index.to_mask(), [16] * 32), index

    (full, full_index), (sampled, sampled_index) = recall_of_search(1), recall_of_search(4)
    assert not torch.equal(full_index.to_mask(), sampled_index.to_mask()), "the case must not be trivial"
    assert (full < 0.9).all()
    assert (sampled <= full).all()
    assert (sampled > full - 0.005).all()


def test_without_a_dense_step_before_the_search_takes_its_own_lse():
    config = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, warmup=0, searches=(0,), head_adaptive=False)
    results = run(adaspa.AdaSpaState(config.resolve()), 2)
    q, k, _ = results[0, "", 0][1]
    out, (q1, k1, v1) = results[1, "", 0]
    tokens = naive.token_mask(wanted_mask(q, k, naive.lse(q, k)), 16, 150)
    torch.testing.assert_close(out.double(), naive.attend(q1, k1, v1, tokens)[0], rtol=1e-4, atol=1e-5)


def test_a_few_step_request_is_sparse_from_its_second_step_and_dense_in_its_tail():
    config = replace(CONFIG, steps=50, warmup=10, searches=(10,), dense_tail=10, few_steps=4)
    state = adaspa.AdaSpaState(config.resolve(4))
    results = run(state, 4)
    q, k, _ = results[0, "", 0][1]
    found = naive.token_mask(wanted_mask(q, k, naive.lse(q, k)), 16, 150)
    for step, mask in enumerate((None, found, found, None)):
        out, inputs = results[step, "", 0]
        torch.testing.assert_close(out.double(), naive.attend(*inputs, mask)[0], rtol=1e-4, atol=1e-5)
    report = state.record.report()
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (1, 1, 2)
    # A dense call and all rows scored, two blocks of queries probed, two sparse calls and a dense one.
    probed = sum(found[:, :, start : start + 16].double().mean().item() for start in (32, 96)) * 16 / 150
    assert report["attention_work"] == pytest.approx((1.5 + probed + 2 * found.double().mean().item() + 1) / 4)


def test_a_partly_sparse_warmup_keeps_its_own_mass():
    config = adaspa.AdaSpaConfig(
        sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4), head_adaptive=False, warmup_mass=0.9
    )
    results = run(adaspa.AdaSpaState(config.resolve()), 4)
    q, k, _ = results[0, "", 0][1]
    shares = naive.block_weights(q, k, naive.lse(q, k), 16)
    shares /= shares.sum(-1, keepdim=True)
    ordered, ids = shares.sort(dim=-1, descending=True)
    kept = torch.zeros_like(shares, dtype=torch.bool).scatter(-1, ids, ordered.cumsum(-1) - ordered < 0.9)
    out, (q1, k1, v1) = results[1, "", 0]
    wanted, _ = naive.attend(q1, k1, v1, naive.token_mask(kept, 16, 150))
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-5)
    # From the first search on it is the top 40 %, by the LSE of step 0.
    out, (q3, k3, v3) = results[3, "", 0]
    q2, k2, _ = results[2, "", 0][1]
    mask = wanted_mask(q2, k2, naive.lse(q, k))
    torch.testing.assert_close(
        out.double(), naive.attend(q3, k3, v3, naive.token_mask(mask, 16, 150))[0], rtol=1e-4, atol=1e-5
    )


def test_branches_and_layers_do_not_share():
    both = run(adaspa.AdaSpaState(CONFIG.resolve()), 6, ("cond", "uncond"), layers=2)
    for b, branch in enumerate(("cond", "uncond")):
        for layer in range(2):
            alone = adaspa.AdaSpaState(CONFIG.resolve())
            for step in range(6):
                alone.begin_step(step)
                inputs = tuple(x + 0.02 * step for x in naive.qkv(tokens=150, seed=100 * b + 10 * layer))
                out = adaspa.attention(*inputs, alone)
                assert torch.equal(out, both[step, branch, layer][0])


def test_branches_share_the_lists_of_the_first_one():
    """It alone searches; the other is dense in the first search, and sparse by its lists behind it."""
    state = adaspa.AdaSpaState(replace(CONFIG, share_lists=True).resolve())
    results = run(state, 6, branches=("cond", "uncond"))
    q, k, _ = results[2, "cond", 0][1]
    mask = naive.token_mask(wanted_mask(q, k, naive.lse(*results[1, "cond", 0][1][:2])), 16, 150)
    for step, kept in ((2, None), (3, mask)):
        out, inputs = results[step, "uncond", 0]
        torch.testing.assert_close(out.double(), naive.attend(*inputs, kept)[0], rtol=1e-4, atol=1e-5)
    assert [pattern.step for pattern in state.record.patterns] == [2, 4]
    report = state.record.report()
    assert report["fell_back"] == []
    assert report["shared_list_calls"] == 3, "steps 3, 4 and 5 of the second branch"
    alone = adaspa.AdaSpaState(replace(CONFIG, share_lists=True).resolve())
    run(alone, 6, branches=("cond",))
    assert alone.record.report()["shared_list_calls"] == 0


def test_branches_of_unlike_sequences_share_nothing():
    state = adaspa.AdaSpaState(replace(CONFIG, share_lists=True).resolve())
    for step in range(6):
        for branch, tokens in (("cond", 150), ("uncond", 140)):
            state.begin_step(step, branch)
            adaspa.attention(*naive.qkv(tokens=tokens), state)
    assert [pattern.step for pattern in state.record.patterns] == [2, 2, 4, 4]
    assert state.record.report()["shared_list_calls"] == 0
    assert state.record.report()["fell_back"] == ["guidance branches keep lists of their own: their sequences differ"]


def test_a_branch_that_starts_late_searches_first():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    state.begin_step(2, "cond")
    adaspa.attention(*naive.qkv(), state)
    assert state.begin_step(3, "cond") is adaspa.StepKind.SPARSE
    assert state.begin_step(3, "uncond") is adaspa.StepKind.SEARCH
    assert state.action(0) is Action.FIRST_SEARCH


def test_a_layer_searches_once_in_a_step():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    for step in (2, 3, 4):
        state.begin_step(step)
        adaspa.attention(*naive.qkv(), state)
        state.begin_step(step)
        assert state.action(0) is Action.SPARSE
    assert [pattern.step for pattern in state.record.patterns] == [2, 4]


def test_a_step_is_no_search_for_want_of_layers_that_search():
    state = adaspa.AdaSpaState(replace(CONFIG, dense_layers=(0,)).resolve())
    run(state, 6)
    report = state.record.report()
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (2, 2, 2)
    assert report["density"] == 1


def test_dense_layers_stay_dense():
    state = adaspa.AdaSpaState(adaspa.AdaSpaConfig(warmup=0, searches=(0,), dense_layers=(1,)).resolve())
    state.begin_step(0)
    assert [state.action(layer) for layer in range(3)] == [Action.FIRST_SEARCH, Action.DENSE, Action.FIRST_SEARCH]


def test_the_cache_is_accounted_and_dropped():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    lse, index = 2 * 150 * 4, 2 * 10 * (4 * 2 + 4)
    held = []
    for step in range(6):
        state.begin_step(step)
        adaspa.attention(*naive.qkv(tokens=150), state)
        held.append(state.cache.nbytes)
    # The last search needs no LSE after it.
    assert held == [0, lse, lse + index, lse + index, index, index]
    record = state.drop()
    assert state.cache.nbytes == 0
    assert record.report()["cache_bytes"] == lse + index


def test_an_lse_that_was_let_go_is_taken_anew_by_the_next_search():
    state = adaspa.AdaSpaState(
        replace(CONFIG, cache_budget=250, over_budget="dense").resolve()
    )  # room for the lists, 200 bytes
    results = run(state, 6)
    masks = {}
    for step in (2, 4):
        out, (q, k, v) = results[step, "", 0]
        torch.testing.assert_close(out.double(), naive.attend(q, k, v)[0], rtol=1e-4, atol=1e-5)
        masks[step] = wanted_mask(q, k, naive.lse(q, k))
    for step in (3, 5):
        out, (q, k, v) = results[step, "", 0]
        wanted, _ = naive.attend(q, k, v, naive.token_mask(masks[step - 1], 16, 150))
        torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-5)
    report = state.drop().report()
    assert (report["searches"], report["refused_layers"], report["cache_bytes"]) == (2, [], 200)
    assert [pattern.step for pattern in state.record.patterns] == [2, 4]


def test_a_later_search_whose_longer_lists_do_not_fit_is_dense():
    """Attention has become broader: the lists of the first search had room beside the LSE, these alone have none."""
    config = adaspa.AdaSpaConfig("retained_mass", mass=0.7, block_size=16, steps=4, warmup=1, searches=(1, 2))
    qkv = [naive.qkv(tokens=2000, heads=1, dim=16)] * 4
    qkv[:2] = [(9 * q, k, v) for q, k, v in qkv[:2]]

    def outputs(state):
        for step, inputs in enumerate(qkv):
            state.begin_step(step)
            yield adaspa.attention(*inputs, state)

    wide = adaspa.AdaSpaState(replace(config, cache_budget=2**30).resolve())
    first, later = [wide.cache.nbytes for _ in outputs(wide)][1:3]
    assert first < later
    state = adaspa.AdaSpaState(replace(config, cache_budget=first, over_budget="dense").resolve())
    for step, out in enumerate(outputs(state)):
        if step != 1:
            torch.testing.assert_close(out.double(), naive.attend(*qkv[step])[0], rtol=1e-4, atol=1e-5)
    assert state.cache.nbytes == 0
    report = state.drop().report()
    assert (report["refused_layers"], report["attention_calls"]) == (
        [0],
        {"dense": 2, "search": 2, "sparse": 0, "skipped": 0},
    )
    assert report["attention_work"] == pytest.approx((4 + 0.5) / 4, abs=0.01)


@pytest.mark.parametrize("over_budget", ["host", "dense"])
def test_all_lists_are_held_before_any_lse(over_budget):
    lists, lses = 4 * 200, 4 * 2 * 150 * 4
    wanted = run(adaspa.AdaSpaState(CONFIG.resolve()), 4, layers=4)
    state = adaspa.AdaSpaState(replace(CONFIG, cache_budget=2 * lists, over_budget=over_budget).resolve())
    results = run(state, 4, layers=4)
    assert state.cache.nbytes == lists
    assert state.cache.host_nbytes == (lses if over_budget == "host" else 0)
    report = state.drop().report()
    assert report["refused_layers"] == [] and report["cache_bytes"] <= 2 * lists
    assert [layer["layer"] for layer in report["layers"]] == [0, 1, 2, 3]
    if over_budget == "host":
        assert all(torch.equal(results[place][0], wanted[place][0]) for place in wanted)


def test_measured_recall_is_that_of_the_step_in_use():
    config = adaspa.AdaSpaConfig(
        sparsity=0.6, block_size=16, warmup=0, searches=(0,), head_adaptive=False, measure_recall=True
    )
    state = adaspa.AdaSpaState(config.resolve())
    state.begin_step(0)
    q, k, v = naive.qkv(tokens=150)
    adaspa.attention(q, k, v, state)
    mask = wanted_mask(q, k, naive.lse(q, k))
    state.begin_step(1)
    q, k, v = naive.qkv(tokens=150, seed=9)
    adaspa.attention(q, k, v, state)
    weights = naive.block_weights(q, k, naive.lse(q, k), 16)
    wanted = naive.recall(weights, mask, [16] * 9 + [6])
    report = state.record.report()
    assert report["recall"] == pytest.approx(float(wanted.mean()), abs=1e-5)
    assert report["layers"][0]["recall"] == pytest.approx(wanted[0].tolist(), abs=1e-5)


def test_text_is_kept_whole():
    config = adaspa.AdaSpaConfig(sparsity=0.8, block_size=16, warmup=0, searches=(0,))
    state = adaspa.AdaSpaState(config.resolve())
    state.begin_step(0)
    adaspa.attention(*naive.qkv(tokens=150), state, text=(130, 150))
    mask = state.cache.index(state.key(0)).to_mask()
    assert mask[..., 8:].all()
    assert mask[:, :, 8:].all()


@pytest.mark.parametrize("text", [None, (70, 90)], ids=["video", "text"])
@pytest.mark.parametrize("selection", ["top_k", "retained_mass"])
def test_a_query_that_is_not_a_number_harms_no_other(selection, text):
    nan_query_harms_no_other(selection, text, torch.float32)


def test_another_shape_in_the_same_request_is_refused():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    state.begin_step(2)
    adaspa.attention(*naive.qkv(tokens=150), state)
    state.begin_step(3)
    with pytest.raises(ValueError, match=r"^index must be for"):
        adaspa.attention(*naive.qkv(tokens=160), state)


@pytest.mark.parametrize("text", [(-1, 10), (10, 5), (100, 200)])
def test_a_bad_text_range_is_named(text):
    state = adaspa.AdaSpaState(CONFIG.resolve())
    state.begin_step(2)
    with pytest.raises(ValueError, match=r"^text must be "):
        adaspa.attention(*naive.qkv(tokens=150), state, text=text)


def test_cross_attention_is_refused():
    with pytest.raises(ValueError, match=r"^k must have the shape of q"):
        adaspa.attention(*naive.qkv(tokens=150, key_tokens=20), adaspa.AdaSpaState(CONFIG.resolve()))
