"""The unevenness of the report, against the shares that all queries keep of their mass."""

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import ops
from adaspa.probe import probe, sampled
from adaspa.selection import Geometry, Search, TopK

CONFIG = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4))


def run(config, qkv=None, **where):
    """The report of a request of one layer."""
    state = adaspa.AdaSpaState(config.resolve())
    for step in range(6):
        state.begin_step(step)
        adaspa.attention(*(qkv or naive.qkv(tokens=330)), state, **where)
    return state.record.report()


def pattern(q, k, geometry, sparsity=0.5):
    """The LSE and a pattern."""
    _, lse = ops.dense_attention(q, k, k)
    mass = ops.block_mass(q, k, lse, query_block=geometry.query_block, key_block=geometry.key_block)
    return lse, TopK(sparsity).select(Search(q, k, mass, geometry)).index


def test_it_is_that_of_the_blocks_that_are_looked_at():
    q, k, v = naive.qkv(tokens=330, batch=2)
    geometry = Geometry(330, 32, 16)
    lse, index = pattern(q, k, geometry)
    seen = probe((q, k, v), lse, index, geometry, None)
    wide = naive.token_mask(index.to_mask(), 32, 330, key_block=16)
    rows = torch.cat([torch.arange(block * 32, block * 32 + 32) for block in (2, 6)])
    assert list(sampled(geometry)) == [2, 6]  # of ten whole blocks
    kept = (naive.scores(q, k).softmax(-1) * wide).sum(-1)[:, :, rows]
    torch.testing.assert_close(seen.unevenness.double(), kept.mean(2).log() - kept.log().mean(2), rtol=1e-3, atol=1e-5)
    assert seen.pairs == 2 * 2 * 64 * 330
    torch.testing.assert_close(seen.share.double(), wide[:, :, rows].double().mean((2, 3)), rtol=1e-4, atol=0)


def test_a_query_that_loses_its_one_key_shows_and_an_equal_loss_does_not():
    geometry, eye = Geometry(128, 32, 32), torch.eye(32)
    q = torch.zeros(1, 1, 128, 32)
    k = torch.zeros(1, 1, 128, 32)
    lse, index = pattern(q, k, geometry, 0.75)  # all keys are alike: each query loses three quarters
    assert probe((q, k, k), lse, index, geometry, None).unevenness.abs().item() < 1e-5
    q[0, 0, 70], k[0, 0, 5] = 30 * eye[0], 30 * eye[0]  # one query of the block that is looked at
    _, lse = ops.dense_attention(q, k, k)
    away = adaspa.BlockIndex.from_mask(
        torch.eye(4, dtype=torch.bool).view(1, 1, 4, 4), query_block=32, key_block=32, query_tokens=128, key_tokens=128
    )
    assert probe((q, k, k), lse, away, geometry, None).unevenness.item() > 0.3


@pytest.mark.parametrize("text", [None, (0, 40), (300, 330), (0, 330)])
def test_text_is_not_looked_at(text):
    geometry = Geometry(330, 16, 16, text)
    blocks = sampled(geometry)
    assert set(blocks).isdisjoint(geometry.query_text) and all(block < 20 for block in blocks)
    assert len(blocks) == (0 if text == (0, 330) else 5 if text is None else 4)
    assert len(sampled(Geometry(10_000, 16, 16))) == 8
    assert len(sampled(Geometry(16, 16, 16))) == 1 and len(sampled(Geometry(15, 16, 16))) == 0


def test_a_report_has_it_if_a_search_had_dense_output():
    few, many = (run(CONFIG.replace(sparsity=sparsity))["unevenness"] for sparsity in (0.8, 0.3))
    assert 0 < many < few
    assert run(CONFIG.replace(sparsity=0.001))["unevenness"] < 1e-5
    assert run(CONFIG.replace(sparsity=0))["unevenness"] is None
    assert run(CONFIG, text=(0, 330))["unevenness"] is None
    assert run(CONFIG.replace(few_steps=6, query_stride=4))["unevenness"] > 0


def test_queries_that_are_no_number_have_none():
    q, k, v = naive.qkv(tokens=330)
    assert run(CONFIG, (q * torch.nan, k, v))["unevenness"] is None
