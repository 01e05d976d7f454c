"""Other methods' patterns: which blocks they keep, in the tiny Wan pipeline's grid of 5 x 3 x 5 tokens."""

from dataclasses import replace

import adaspa
import pytest
import torch
from adaspa.selection import Geometry, Search
from tiny_pipelines import SPARSE, generate, make_pipeline

from benchmarks.fidelity import other_patterns as other

ALL = [
    other.SlidingWindow,
    other.SpatialStripes,
    other.TemporalStripes,
    other.StripesByHead,
    other.MeanPooled,
    other.Antidiagonal,
]


def kept(policy, grid, block, sparsity, *, q=None, k=None, weights=None):
    """The block mask ``[H, nq, nk]`` of a search of the first sample."""
    tokens = grid[0] * grid[1] * grid[2]
    blocks = -(-tokens // block)
    q = torch.randn(1, 2, tokens, 8, generator=torch.Generator().manual_seed(0)) if q is None else q
    mass = torch.ones(1, 2, blocks, blocks) if weights is None else weights
    search = Search(q, q if k is None else k, mass, Geometry(tokens, block, block), grid)
    selected = policy(sparsity).select(search)
    return selected.index.to_mask()[0], selected.recall[0]


def test_a_window_keeps_the_nearest_blocks():
    mask, recall = kept(other.SlidingWindow, (8, 4, 4), 16, 1 - 3 / 8)
    wanted = (torch.arange(8).unsqueeze(1) - torch.arange(8)).abs() <= 1
    assert torch.equal(mask[0, 1:-1], wanted[1:-1])
    assert (mask.sum(-1) == 3).all()
    assert recall.tolist() == pytest.approx([3 / 8, 3 / 8])


def test_stripes_follow_the_frame_or_the_place():
    """Blocks are rows of 16 tokens: two in each of four frames."""
    spatial, _ = kept(other.SpatialStripes, (4, 2, 16), 16, 0.75)
    temporal, _ = kept(other.TemporalStripes, (4, 2, 16), 16, 0.5)
    frame, place = torch.arange(8) // 2, torch.arange(8) % 2
    assert torch.equal(spatial[0], frame.unsqueeze(1) == frame)
    assert torch.equal(temporal[0], place.unsqueeze(1) == place)


def test_each_head_gets_the_stripes_that_hold_more_of_its_mass():
    frame, place = torch.arange(8) // 2, torch.arange(8) % 2
    heavy = torch.stack([frame.unsqueeze(1) == frame, place.unsqueeze(1) == place]).float()
    mask, recall = kept(other.StripesByHead, (4, 2, 16), 16, 0.5, weights=heavy.unsqueeze(0) + 0.01)
    assert (mask[0] | (heavy[0] == 0)).all() and torch.equal(mask[1], heavy[1] > 0)
    assert (recall > 0.9).all()


@pytest.mark.parametrize("policy", [other.MeanPooled, other.Antidiagonal])
def test_estimates_find_blocks_that_are_alike(policy):
    """Every block of queries looks for one block of keys, two further on."""
    directions = torch.eye(8).repeat_interleave(16, dim=0).expand(1, 2, 128, 8) * 20
    mask, _ = kept(policy, (8, 4, 4), 16, 1 - 1 / 8, q=directions, k=directions.roll(32, dims=2))
    assert torch.equal(mask[0], torch.eye(8, dtype=torch.bool).roll(2, dims=1))


@pytest.mark.parametrize("policy", ALL)
def test_they_run_at_adaspas_schedule(policy):
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, SPARSE)
    own = generate(pipe)
    handle.configure(replace(SPARSE, selection=policy(0.6)))
    assert not torch.allclose(generate(pipe), own, atol=1e-4)
    report = handle.report()
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (2, 2, 4)
    assert report["density"] == pytest.approx(0.4)
    assert 0 < report["recall"] < 1


def test_without_reuse_every_search_is_a_whole_one():
    """Full density hides the patterns: only the searches' own LSE is to be seen."""
    pipe = make_pipeline("wan")
    plain = generate(pipe)
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, selection=other.FreshSearch(0.001, head_adaptive=False)))
    held = []
    hook = pipe.transformer.register_forward_hook(
        lambda *_: held.extend(handle.state.cache.has(key)[0] for key in handle.state.cache.held())
    )
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-4)
    hook.remove()
    assert not any(held)
    assert handle.report()["searches"] == 2
