import pytest
import torch
from adaspa import BlockIndex

GEOMETRY = {"query_block": 16, "key_block": 32, "query_tokens": 40, "key_tokens": 100}


def random_mask(batch=2, heads=3, nq=3, nk=4, seed=0):
    return torch.rand(batch, heads, nq, nk, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_mask_round_trip():
    mask = random_mask()
    mask[0, 0, 0] = False
    mask[1, 2, 1] = True
    index = BlockIndex.from_mask(mask, **GEOMETRY)
    assert torch.equal(index.to_mask(), mask)
    assert index.density() == pytest.approx(mask.float().mean().item())
    assert torch.allclose(index.head_density(), mask.float().mean((-1, -2)))
    pairs = mask.repeat_interleave(index.query_block, 2).repeat_interleave(index.key_block, 3)
    kept = pairs[:, :, : index.query_tokens, : index.key_tokens].float().mean((-1, -2))
    torch.testing.assert_close(index.head_share(), kept)
    assert index.nbytes == index.ids.numel() * 2 + index.counts.numel() * 4


def test_full_rows_need_no_list():
    index = BlockIndex(
        torch.tensor([[[[1], [0], [3]]]], dtype=torch.int16), torch.tensor([[[4, 0, 1]]], dtype=torch.int32), **GEOMETRY
    )
    assert index.to_mask().tolist() == [[[[True] * 4, [False] * 4, [False, False, False, True]]]]


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("ids", {"ids": torch.zeros(1, 1, 3, 2, dtype=torch.int32)}),
        ("ids", {"ids": torch.zeros(1, 1, 5, 2, dtype=torch.int16), "counts": torch.zeros(1, 1, 5, dtype=torch.int32)}),
        ("ids", {"ids": torch.zeros(1, 1, 3, 5, dtype=torch.int16)}),
        ("counts", {"counts": torch.zeros(1, 1, 3)}),
        ("counts", {"counts": torch.zeros(1, 2, 3, dtype=torch.int32)}),
        ("key_tokens", {"key_tokens": 2**21}),
        ("query_block", {"query_block": 0}),
        ("query_block", {"query_block": 16.0}),
        ("query_block", {"query_block": 48}),
        ("key_block", {"key_block": -32}),
        ("key_block", {"key_block": 256}),
    ],
)
def test_a_bad_index_is_named(argument, change):
    good = {"ids": torch.zeros(1, 1, 3, 2, dtype=torch.int16), "counts": torch.ones(1, 1, 3, dtype=torch.int32)}
    BlockIndex(**good, **GEOMETRY)
    with pytest.raises(ValueError, match=f"^{argument} must "):
        BlockIndex(**{**good, **GEOMETRY, **change})


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 5, dtype=torch.bool)])
def test_a_bad_mask_is_named(mask):
    with pytest.raises(ValueError, match=r"^mask must "):
        BlockIndex.from_mask(mask, **GEOMETRY)


@pytest.mark.parametrize("argument", ["query_block", "key_block"])
def test_a_bad_block_is_named_before_it_is_divided_by(argument):
    with pytest.raises(ValueError, match=rf"^{argument} must be one of \(16, 32, 64, 128\), got 0$"):
        BlockIndex.from_mask(torch.ones(1, 1, 3, 4, dtype=torch.bool), **{**GEOMETRY, argument: 0})
