"""The attention work of the report, against a count of the query-key pairs of every operation that ran."""

from dataclasses import replace

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import ops
from adaspa.ops import backends, hopper
from adaspa.ops.call import Call
from diffusers import FirstBlockCacheConfig
from tiny_pipelines import SPARSE, STEPS, generate, make_pipeline

CONFIG = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4), head_adaptive=False)


@pytest.fixture
def done(monkeypatch):
    """Pairs of every product of queries and keys, half a point each, and of every product of weights and values."""
    points = []

    def counting(owner, name, cost):
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            points.append(cost(*args, **kwargs))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def dense(q, *_, **__):
        return q.shape[0] * q.shape[1] * q.shape[2] ** 2

    def listed(q, k, v, index, **_):
        listed = index.to_mask().repeat_interleave(index.query_block, 2).repeat_interleave(index.key_block, 3)
        return int(listed[:, :, : q.shape[2], : k.shape[2]].sum())

    counting(ops, "attention", dense)
    counting(ops, "dense_attention", dense)
    counting(ops, "attention_with_block_mass", dense)
    counting(ops, "block_sparse_attention", listed)
    counting(ops, "block_mass", lambda q, *_, query_stride=1, **__: dense(q) / query_stride / 2)
    return points


def run(config, *, steps=6, layers=2, branches=("cond", "uncond"), text=None, sample=None):
    state = adaspa.AdaSpaState(config.resolve())
    for step in range(steps):
        for branch in branches:
            state.begin_step(step, branch)
            for layer in range(layers):
                adaspa.attention(*naive.qkv(tokens=160, seed=layer), state, layer=layer, text=text, sample=sample)
    return state.drop().report()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, {}),
        ({"dense_layers": (0,)}, {}),
        ({"query_stride": 4}, {}),
        ({"warmup": 0, "searches": (0,)}, {}),
        ({"few_steps": 6, "query_stride": 4, "dense_tail": 1}, {}),
        ({"warmup_mass": 0.9}, {}),
        ({"selection": "retained_mass", "mass": 0.7}, {}),
        ({"head_adaptive": True}, {"text": (130, 160)}),
        ({"cache_budget": 300, "over_budget": "dense"}, {}),
        ({"sparsity": 0}, {}),
        ({}, {"sample": 0}),
    ],
)
def test_attention_work_is_what_ran_at_the_attention(done, changes, where):
    report = run(replace(CONFIG, **changes), **where)
    heads = naive.qkv()[0].shape[1]
    assert report["attention_work"] == pytest.approx(sum(done) / (6 * 2 * 2 * heads * 160**2))
    assert sum(report["attention_calls"].values()) == 6 * 2 * 2


def test_dense_layers_count_in_the_work_and_not_in_the_density():
    report = run(replace(CONFIG, warmup=0, searches=(0,), dense_layers=(0,)), steps=4)
    assert report["density"] == pytest.approx(0.4)
    # Half of the work is the dense layer's; of the other's four calls the first is dense, scores all rows, and probes
    # two of ten blocks.
    assert report["attention_work"] == pytest.approx((1 + (1.5 + 0.2 * 0.4 + 3 * 0.4) / 4) / 2)
    assert report["attention_calls"] == {"dense": 8, "search": 2, "sparse": 6, "skipped": 0}
    assert report["kernels"]["block_sparse_attention"] == {"reference": 6 + 2}
    dense, search, sparse = (report["kinds"][kind] for kind in ("dense", "search", "sparse"))
    assert dense["kernels"] == [
        {"op": "attention", "backend": "pytorch", "dtype": "float32", "passed_over": "", "calls": 8}
    ]
    searching = ["block_mass", "block_sparse_attention", "dense_attention", "keep_blocks"]
    assert [row["op"] for row in search["kernels"]] == searching
    # Each guidance branch has its list, read three times.
    assert (sparse["patterns"], sparse["reuse"], sparse["density"]) == (2, 3, pytest.approx(0.4))
    assert dense["density"] is dense["reuse"] is search["density"] is None
    assert sum(report["kinds"][kind]["work"] for kind in report["kinds"]) == pytest.approx(report["attention_work"])


def test_a_recall_from_some_of_the_rows_is_marked_as_an_estimate():
    assert run(CONFIG)["recall_is_estimate"] is False
    # A fused search scores all rows; what the second scored counts only where it is used.
    assert run(replace(CONFIG, query_stride=4), steps=4)["recall_is_estimate"] is False
    assert run(replace(CONFIG, query_stride=4))["recall_is_estimate"] is True
    assert run(replace(CONFIG, query_stride=4, few_steps=6), steps=4)["recall_is_estimate"] is True
    assert run(replace(CONFIG, query_stride=4, measure_recall=True))["recall_is_estimate"] is False


def test_measuring_the_recall_is_not_part_of_the_work():
    measured = run(replace(CONFIG, measure_recall=True))
    assert measured["attention_work"] == pytest.approx(run(CONFIG)["attention_work"])


def test_no_attention_is_no_work():
    assert adaspa.RequestRecord().report()["attention_work"] is None


def test_the_work_of_a_pipeline_with_guidance_and_a_step_cache_is_what_ran(done):
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe, SPARSE)[0]
    generate(pipe)
    everything = handle.report()["kinds"]
    calls = sum(kind["calls"] for kind in everything.values())
    assert handle.report()["attention_work"] == pytest.approx(sum(done) / (calls * 2 * 75**2), rel=0.01)
    done.clear()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    generate(pipe)
    report = handle.report()
    assert 0 < report["attention_calls"]["skipped"] < calls == sum(report["attention_calls"].values())
    assert report["attention_work"] == pytest.approx(sum(done) / (calls * 2 * 75**2), rel=0.01)


def test_a_sequence_too_short_to_gain_stays_dense_and_says_so(monkeypatch):
    pipe = make_pipeline("wan")
    plain = generate(pipe)
    slow = replace(backends.BACKENDS[-1], pays_from=2 * 24 * 100.0**2)  # as if measured: 100 tokens of 2 heads of 24
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS[:-1], slow))
    handle = adaspa.apply(pipe, replace(SPARSE, few_steps=STEPS, skip_short=True))[0]
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-4)
    report = handle.report()
    told = "stayed dense: 75 tokens are too few for sparse attention to be faster; on this GPU it needs 100"
    assert report["fell_back"] == [told]
    assert report["dense_steps"] == STEPS and report["search_seconds"] == 0 and report["attention_work"] == 1
    handle.configure(SPARSE)  # which does as it says
    generate(pipe)
    assert handle.report()["fell_back"] == [] and handle.report()["sparse_steps"] > 0


def test_the_report_says_why_a_faster_kernel_was_passed_over(monkeypatch):
    monkeypatch.setattr(hopper, "capability", lambda _: (9, 0))  # as on an H100
    report = run(replace(CONFIG, block_size=32))
    (sparse,) = report["kinds"]["sparse"]["kernels"]
    assert (sparse["backend"], sparse["dtype"]) == ("reference", "float32")
    assert sparse["passed_over"] == "hopper: torch.float32 is not float16 or bfloat16"
    q = torch.zeros(1, 2, 128, 96, dtype=torch.float16)
    head, blocks = (hopper.why_not(Call("block_sparse_attention", (x, x, x), 64, 64)) for x in (q, q[..., :64]))
    assert head == "head_dim 96 is not one of (64, 128)"
    assert blocks == "no kernel for torch.float16 in blocks of 64 x 64 tokens"
    q = q[..., :64].bfloat16()
    assert "64 x 64" not in (hopper.why_not(Call("block_sparse_attention", (q, q, q), 64, 64)) or "")


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_attention_work_in_a_pipeline(family):
    """Texts that differ in length, where there is a joint sequence: it counts each sample's own."""
    pipe = make_pipeline(family)
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, sparsity=0.001, head_adaptive=False))
    handle.begin(STEPS)
    generate(pipe, family, prompts=2)
    report = handle.report()
    # All blocks are kept: but for the second search's scores and the blocks that the first probes, a quarter at most,
    # the work is that of dense attention.
    assert 0 < report["attention_work"] - (1 + 0.5 / STEPS) < 0.25 / STEPS
    assert report["fell_back"] == []
