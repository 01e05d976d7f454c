import naive_attention as naive
import pytest
import torch
from adaspa.selection import Geometry, Search, index_recall, policy
from adaspa.selection.top_k import blocks_kept, blocks_moved, head_shift
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

TOKENS, BLOCK = 600, 32
ROWS = [32] * 18 + [24]


@pytest.fixture(scope="module")
def weights():
    # Heads from sharp to flat, so that their recalls differ.
    sharpness = torch.tensor([4.0, 3.0, 1.5, 0.3, 0.05], dtype=torch.float64).view(5, 1, 1)
    logits = torch.randn(2, 5, 19, 19, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sharpness
    return logits.softmax(-1) * torch.tensor(ROWS).view(19, 1)


def select(weights, text=None, selection="top_k", **settings):
    if selection == "top_k":
        settings.setdefault("head_adaptive", False)
    nothing = torch.empty(0)
    return policy(selection, **settings).select(Search(nothing, nothing, weights, Geometry(TOKENS, BLOCK, BLOCK, text)))


@pytest.mark.parametrize(("sparsity", "kept"), [(0.8, 4), (0.5, 10), (0.99, 1), (0.01, 19)])
def test_row_uniform_top_k(weights, sparsity, kept):
    selected = select(weights, sparsity=sparsity)
    wanted = naive.top_k_mask(weights, [[kept] * 5] * 2)
    assert torch.equal(selected.index.to_mask(), wanted)
    assert (selected.index.counts == kept).all()
    torch.testing.assert_close(selected.recall.double(), naive.recall(weights, wanted, ROWS), rtol=1e-5, atol=1e-6)


def test_ids_ascend(weights):
    ids = select(weights, sparsity=0.7).index.ids
    assert (ids[..., 1:] > ids[..., :-1]).all()


@pytest.mark.parametrize(
    ("sparsity", "fewest", "base", "most"),
    # The last two are below a third: no head can receive more blocks than it lacks.
    [(0.8, 2, 4, 6), (0.5, 5, 10, 15), (0.25, 9, 14, 19), (0.1, 15, 17, 19)],
)
def test_head_adaptive_sparsity_moves_blocks_between_heads_and_keeps_the_mean(weights, sparsity, fewest, base, most):
    recall = naive.recall(weights, naive.top_k_mask(weights, [[base] * 5] * 2), ROWS)
    counts = [[base] * 5 for _ in range(2)]
    for b in range(2):
        moved = min(sum(float(r) > 0.8 for r in recall[b]), 2)
        ranked = sorted(range(5), key=lambda h, row=recall[b]: -float(row[h]))
        for h in ranked[:moved]:
            counts[b][h] = fewest
        for h in ranked[5 - moved :]:
            counts[b][h] = most
    selected = select(weights, sparsity=sparsity, head_adaptive=True)
    assert torch.equal(selected.index.to_mask(), naive.top_k_mask(weights, counts))
    assert len({count for row in counts for count in row}) > 1, "the case must have heads that differ"
    assert selected.index.density() == pytest.approx(base / 19)


@pytest.mark.parametrize("blocks", [1, 2, 5, 19, 36])
def test_head_adaptive_sparsity_leaves_each_head_a_block_and_gives_none_more_than_there_are(blocks):
    for sparsity in (0.0, 0.05, 0.2, 0.33, 0.34, 0.6, 0.8, 0.95):
        kept, moved = blocks_kept(sparsity, blocks), blocks_moved(sparsity, blocks)
        assert moved >= 0
        assert kept - moved >= 1 and kept + moved <= blocks


def test_head_shift_is_capped_at_half_of_the_heads():
    assert head_shift(torch.tensor([[0.95, 0.9, 0.99, 0.85, 0.81]])).tolist() == [[1, 0, 1, -1, -1]]
    assert head_shift(torch.tensor([[0.5, 0.7, 0.81, 0.6]])).tolist() == [[-1, 0, 1, 0]]
    assert head_shift(torch.tensor([[0.8, 0.1]])).tolist() == [[0, 0]]


@pytest.mark.parametrize("mass", [0.5, 0.9, 0.99])
def test_retained_mass_keeps_the_fewest_blocks(weights, mass):
    selected = select(weights, selection="retained_mass", mass=mass)
    shares = weights / weights.sum(-1, keepdim=True)
    mask = selected.index.to_mask()
    kept = (shares * mask).sum(-1)
    smallest = torch.where(mask, shares, torch.inf).amin(-1)
    assert (kept >= mass - 1e-6).all()
    assert (kept - smallest < mass + 1e-6).all(), "one block less must fall short"
    assert torch.where(mask, 0, shares).amax(-1).le(smallest).all(), "no dropped block outweighs a kept one"
    assert len(selected.index.counts.unique()) > 1


@pytest.mark.parametrize("price", [0.3, 1.0, 3.0])
def test_marginal_mass_makes_the_most_of_its_blocks(weights, price):
    """No other choice of as many blocks has a larger sum of the logarithms of what the rows keep."""
    mask = select(weights, selection="marginal_mass", price=price).index.to_mask()
    shares = weights / weights.sum(-1, keepdim=True)
    kept, lightest = (shares * mask).sum(-1), torch.where(mask, shares, torch.inf).amin(-1)
    heaviest = torch.where(mask, 0, shares).amax(-1)
    assert (heaviest < price / 19 * kept).all(), "what is left is not worth its price"
    more = mask.sum(-1) > 1
    assert (lightest >= price / 19 * (kept - lightest) - 1e-9)[more].all(), "what is kept is"
    assert (heaviest <= lightest).all() and len(mask.sum(-1).unique()) > 3
    even = torch.full_like(weights, 1 / 19)
    assert select(even, selection="marginal_mass", price=2.1).index.counts.eq(10).all(), "1 / price of an even row"


@pytest.mark.parametrize("selection", ["top_k", "retained_mass", "marginal_mass"])
def test_the_host_needs_no_value_of_the_device(selection):
    """Fake tensors have none to wait for."""
    with FakeTensorMode():
        selected = policy(selection).select(
            Search(torch.empty(0), torch.empty(0), torch.empty(2, 5, 19, 19), Geometry(TOKENS, BLOCK, BLOCK, (0, 40)))
        )
    assert selected.index.counts.shape == (2, 5, 19) and selected.recall.shape == (2, 5)


@pytest.mark.parametrize("text", [(0, 40), (560, 600)], ids=["first", "last"])
@pytest.mark.parametrize(
    ("selection", "settings"),
    [
        ("top_k", {"sparsity": 0.8}),
        ("top_k", {"sparsity": 0.8, "head_adaptive": True}),
        ("retained_mass", {"mass": 0.6}),
        ("marginal_mass", {"price": 2.0}),
    ],
)
def test_text_sink(weights, text, selection, settings):
    selected = select(weights, text, selection, **settings)
    mask = selected.index.to_mask()
    blocks = slice(text[0] // BLOCK, -(-text[1] // BLOCK))
    video = [b for b in range(19) if b not in range(19)[blocks]]
    assert mask[..., blocks].all()
    assert mask[:, :, blocks].all()
    among_video = mask[:, :, video][..., video]
    assert among_video.float().mean() < 0.6
    if settings == {"sparsity": 0.8}:
        assert (among_video.sum(-1) == blocks_kept(0.8, len(video))).all()
    if selection == "top_k":
        # Full text rows do not widen the lists of the video rows.
        assert selected.index.ids.shape[-1] < 19
    torch.testing.assert_close(selected.recall.double(), naive.recall(weights, mask, ROWS), rtol=1e-5, atol=1e-6)


def test_recall_is_normalised_by_the_measured_sums(weights):
    selected = select(weights, sparsity=0.8)
    stale = weights * torch.linspace(0.5, 2, 19, dtype=weights.dtype).view(19, 1)
    torch.testing.assert_close(index_recall(stale, selected.index), selected.recall)


def test_index_recall_of_a_full_index_is_one(weights):
    full = select(weights, sparsity=0.01).index
    assert full.density() == 1
    torch.testing.assert_close(index_recall(weights, full), torch.ones(2, 5))


def test_weights_of_another_geometry_are_refused(weights):
    with pytest.raises(ValueError, match=r"^block_mass must be \[B, H, 19, 19\]"):
        select(weights[..., :18])


@pytest.mark.parametrize("tokens", [590, 600, 608])
def test_sub_blocks_are_scored_by_the_log_sum_exp_of_their_mean_products(tokens):
    q, k, _ = (x.float() * 3 for x in naive.qkv(heads=2, tokens=tokens, dim=16))
    search = Search(q, k, torch.ones(*q.shape[:2], 19, 19), Geometry(tokens, BLOCK, BLOCK))
    kept = policy("sub_block", sparsity=0.8).select(search).index.to_mask()
    starts = range(0, tokens, 16)
    means = [[x[0, 1, start : start + 16].mean(0) for start in starts] for x in (q, k)]
    for p in range(19):
        sums = [
            sum(
                float(torch.exp(means[0][i] @ means[1][j] / 4))
                for i in (2 * p, 2 * p + 1)
                for j in (2 * c, 2 * c + 1)
                if max(i, j) < len(starts)
            )
            for c in range(19)
        ]
        assert set(kept[0, 1, p].nonzero().flatten().tolist()) == set(sorted(range(19), key=lambda c: -sums[c])[:4])


class CountedOperations(TorchDispatchMode):
    """Counts the operations of PyTorch, each of which is a launch on a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += 1
        return function(*arguments, **(named or {}))


def test_scoring_sub_blocks_takes_no_more_launches_for_more_tokens():
    counts = []
    for tokens in (608, 6080):
        q, k, _ = (x.float() for x in naive.qkv(heads=2, tokens=tokens, dim=16))
        blocks = tokens // BLOCK
        search = Search(q, k, torch.ones(*q.shape[:2], blocks, blocks), Geometry(tokens, BLOCK, BLOCK))
        with CountedOperations() as counted:
            policy("sub_block").scores(search)
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_sub_blocks_must_divide_the_blocks():
    search = Search(torch.ones(1, 1, 64, 8), torch.ones(1, 1, 64, 8), torch.ones(1, 1, 2, 2), Geometry(64, 32, 32))
    with pytest.raises(ValueError, match=r"^tokens must be a divisor of the blocks of 32 and 32 tokens, got 24$"):
        policy("sub_block", tokens=24).select(search)
