"""The attention work of the report, against a count of the query-key pairs of every operation that ran."""

from dataclasses import replace

import adaspa
import naive_attention as naive
import pytest
from adaspa import ops
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
        return int(index.to_mask().sum()) * index.query_block * index.key_block

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
    # Half of the work is the dense layer's; of the other's four calls the first is dense and scores all rows.
    assert report["attention_work"] == pytest.approx((1 + (1.5 + 3 * 0.4) / 4) / 2)
    assert report["attention_calls"] == {"dense": 8, "search": 2, "sparse": 6, "skipped": 0}
    assert report["kernels"]["block_sparse_attention"] == {"reference": 6}


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


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_attention_work_in_a_pipeline(family):
    """Texts that differ in length, where there is a joint sequence: it counts each sample's own."""
    pipe = make_pipeline(family)
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, sparsity=0.001, head_adaptive=False))
    handle.begin(STEPS)
    generate(pipe, family, prompts=2)
    report = handle.report()
    # All blocks are kept: but for the second search's scores the work is that of dense attention.
    assert report["attention_work"] == pytest.approx(1 + 0.5 / STEPS)
    assert report["fell_back"] == []
