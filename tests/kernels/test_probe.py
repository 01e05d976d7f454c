"""The detail error of the report, against the whole output of the same pattern."""

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import ops
from adaspa.probe import probe, sampled
from adaspa.selection import Geometry, Search, TopK

CONFIG = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=6, warmup=2, searches=(2, 4))


def run(config, **where):
    """A request of one layer: its state, with the record."""
    state = adaspa.AdaSpaState(config.resolve())
    for step in range(6):
        state.begin_step(step)
        adaspa.attention(*naive.qkv(tokens=330), state, **where)
    return state.record


def test_it_is_that_of_the_blocks_that_are_looked_at():
    q, k, v = naive.qkv(tokens=330, batch=2)
    dense, lse = ops.dense_attention(q, k, v)
    geometry = Geometry(330, 32, 16)
    mass = ops.block_mass(q, k, lse, query_block=32, key_block=16)
    index = TopK(0.5).select(Search(q, k, mass, geometry)).index
    seen = probe((q, k, v), dense, index, geometry, None)
    whole, _ = ops.block_sparse_attention(q, k, v, index)
    rows = torch.cat([torch.arange(block * 32, block * 32 + 32) for block in (2, 6)])
    assert list(sampled(geometry)) == [2, 6]  # of ten whole blocks
    error = (whole - dense)[:, :, rows].unflatten(2, (2, 32))
    detail = (error - error.mean(3, keepdim=True)).square().sum((1, 2, 3, 4))
    torch.testing.assert_close(seen.detail_error(), (detail / dense[:, :, rows].square().sum((1, 2, 3))).sqrt())
    assert seen.pairs == 2 * 2 * 64 * 330


def test_what_all_neighbours_share_is_no_detail():
    q, k, v = naive.qkv(tokens=128)
    geometry = Geometry(128, 32, 32)
    _, lse = ops.dense_attention(q, k, v)
    index = TopK(0.5).select(Search(q, k, ops.block_mass(q, k, lse, key_block=32), geometry)).index
    out, _ = ops.block_sparse_attention(q, k, v, index)
    shift = torch.randn(1, 2, 4, 32).repeat_interleave(32, dim=2)
    assert probe((q, k, v), out + shift, index, geometry, None).detail_error().item() < 1e-6


@pytest.mark.parametrize("text", [None, (0, 40), (300, 330), (0, 330)])
def test_text_is_not_looked_at(text):
    geometry = Geometry(330, 16, 16, text)
    blocks = sampled(geometry)
    assert set(blocks).isdisjoint(geometry.query_text) and all(block < 20 for block in blocks)
    assert len(blocks) == (0 if text == (0, 330) else 5 if text is None else 4)
    assert len(sampled(Geometry(10_000, 16, 16))) == 8
    assert len(sampled(Geometry(16, 16, 16))) == 1 and len(sampled(Geometry(15, 16, 16))) == 0


def test_a_report_has_it_if_a_search_had_dense_output():
    few, many = (run(CONFIG.replace(sparsity=sparsity)).report()["detail_error"] for sparsity in (0.6, 0.3))
    assert 0 < many < few < 1
    assert run(CONFIG.replace(sparsity=0.001)).report()["detail_error"] < 1e-5
    assert run(CONFIG.replace(sparsity=0)).report()["detail_error"] is None
    assert run(CONFIG, text=(0, 330)).report()["detail_error"] is None
    at_once = run(CONFIG.replace(few_steps=6, query_stride=4)).report()["detail_error"]
    assert 0 < at_once < 1


def test_an_output_that_is_no_number_has_none():
    state = adaspa.AdaSpaState(CONFIG.resolve())
    q, k, v = naive.qkv(tokens=330)
    for step in range(6):
        state.begin_step(step)
        adaspa.attention(q, k, v * torch.nan, state)
    assert state.record.report()["detail_error"] is None
