"""Attention with queries and keys in int8, softmax and values in e4m3."""

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import BlockIndex, ops
from adaspa.ops import backends
from adaspa.ops.call import Call

EIGHT = "int8_fp8"


def error(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm())


def e4m3_error(q, k, v):
    """The error of all three in e4m3 with one scale a head, as other libraries have it."""

    def in_e4m3(x):
        scale = x.abs().amax((2, 3), keepdim=True) / 448
        return (x / scale).to(torch.float8_e4m3fn).float() * scale

    return error(naive.attend(*(in_e4m3(x) for x in (q, k, v)))[0], naive.attend(q, k, v)[0])


def normal():
    return naive.qkv(tokens=600, dim=64, heads=2)


def sharply_local():
    q, k, v = normal()
    angle = torch.arange(600) * (torch.pi / 300)
    q[..., :2] = k[..., :2] = torch.stack([angle.cos(), angle.sin()], -1) * (80 * 8 / 2) ** 0.5
    return q, k, v


def with_outlier_channels():
    q, k, v = normal()
    k[..., 5] += 12
    k[..., 30] *= 8
    q[..., 9] *= 8
    v[..., 3] *= 20
    return q, k, v


@pytest.mark.parametrize(
    ("make", "most", "share"), [(normal, 0.035, 0.8), (sharply_local, 0.12, 0.3), (with_outlier_channels, 0.04, 0.4)]
)
def test_error_is_small_and_far_below_that_of_e4m3_alone(make, most, share):
    q, k, v = make()
    wanted, wanted_lse = naive.attend(q, k, v)
    out, lse = ops.dense_attention(q, k, v, precision=EIGHT)
    assert 1e-3 < error(out, wanted) < min(most, share * e4m3_error(q, k, v))
    assert (lse - wanted_lse).abs().max() < 0.5
    assert torch.equal(ops.attention(q, k, v, precision=EIGHT), out)


def test_block_sparse_attention_rounds_likewise():
    q, k, v = with_outlier_channels()
    mask = torch.rand(1, 2, 5, 10, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0, 0, 0] = False
    index = BlockIndex.from_mask(mask, query_block=128, key_block=64, query_tokens=600, key_tokens=600)
    out, lse = ops.block_sparse_attention(q, k, v, index, precision=EIGHT)
    wanted, wanted_lse = naive.attend(q, k, v, naive.token_mask(mask, 128, 600, 600, 64))
    assert 1e-3 < error(out, wanted) < 0.05
    assert out[0, 0, :128].eq(0).all() and lse[0, 0, :128].isneginf().all()
    assert (lse - wanted_lse)[wanted_lse.isfinite()].abs().max() < 0.2


@pytest.mark.parametrize(("blocks", "stride"), [((64, 64), 1), ((128, 64), 4)])
def test_block_mass_rounds_likewise(blocks, stride):
    q, k, v = with_outlier_channels()
    lse = naive.attend(q, k, v)[1].float() - 2  # an LSE may be stale
    given = {"query_block": blocks[0], "key_block": blocks[1], "query_stride": stride}
    wanted = ops.block_mass(q, k, lse, **given)
    mass = ops.block_mass(q, k, lse, **given, precision=EIGHT)
    assert mass.shape == wanted.shape and 1e-4 < error(mass, wanted) < 0.03


def test_what_is_no_number_stays_in_its_head_and_large_values_stay_finite():
    q, k, v = (torch.cat([x, x], 1) for x in normal())
    clean = ops.attention(q, k, v, precision=EIGHT)
    q[0, 0, 5, 3], k[0, 1, 7, 0] = torch.nan, torch.inf
    v[0, 2, 9] = 3e38
    out = ops.attention(q, k, v, precision=EIGHT)
    assert torch.equal(out[:, 3], clean[:, 3])
    assert out[:, 2].isfinite().all()
    assert out[0, 0, 5].isnan().all() and out[:, 1].isnan().all()


@pytest.mark.parametrize("sparse", ["full", EIGHT])
def test_the_report_says_what_ran_in_eight_bits(sparse):
    config = adaspa.AdaSpaConfig(
        dense_precision=EIGHT, sparse_precision=sparse, sparsity=0.6, block_size=16, steps=5, warmup=2, searches=(2, 4)
    )
    state = adaspa.AdaSpaState(config.resolve())
    q, k, v = naive.qkv(tokens=150)
    for step in range(5):
        state.begin_step(step)
        out = adaspa.attention(q, k, v, state)
        assert error(out, naive.attend(q, k, v)[0]) > 1e-3
    kinds = state.record.report()["kinds"]
    ran = {kind: {row["op"]: (row["backend"], row["dtype"]) for row in kinds[kind]["kernels"]} for kind in kinds}
    eight, full = ("reference_eight", EIGHT), ("reference", "float32")
    assert ran["dense"] == {"attention": eight}
    in_sparse = full if sparse == "full" else eight
    assert ran["search"] == {
        "dense_attention": eight, "block_mass": eight, "keep_blocks": full, "block_sparse_attention": in_sparse
    }  # fmt: skip
    assert ran["sparse"] == {"block_sparse_attention": in_sparse}


def searched(q, k, v, **settings):
    """A request that searches twice: what ran in its searches, and the blocks after each."""
    config = adaspa.AdaSpaConfig(sparsity=0.7, block_size=16, steps=5, warmup=2, searches=(2, 4), **settings)
    state, masks = adaspa.AdaSpaState(config.resolve()), []
    for step in range(5):
        state.begin_step(step)
        adaspa.attention(q, k, v, state)
        if step in (2, 4):
            masks.append(state.cache.index(state.key(0)).to_mask())
    ran = state.record.report()["kinds"]["search"]["kernels"]
    return {row["op"]: row["dtype"] for row in ran if row["op"] != "keep_blocks"}, masks


def test_searches_in_eight_bits_choose_nearly_the_same_blocks():
    q, k, v = with_outlier_channels()
    (_, full), (_, eight) = searched(q, k, v), searched(q, k, v, dense_precision=EIGHT)
    for one, other in zip(full, eight, strict=True):
        assert float((one & other).sum() / one.sum()) > 0.97
        assert one.sum() == other.sum()


def test_a_compensated_search_in_eight_bits_is_dense_in_eight_bits_too():
    ran, _ = searched(*normal(), dense_precision=EIGHT, compensation="residual")
    full = {"block_sparse_attention": "float32"}  # whose residual the search keeps
    assert ran == {"dense_attention": EIGHT, "block_mass": EIGHT} | full


@pytest.mark.parametrize("intent", ["quality", "balanced", "fast"])
def test_presets_have_a_kernel(monkeypatch, intent):
    config = adaspa.AdaSpaConfig.preset(intent, sparse_precision=EIGHT)
    q = torch.empty(1, 2, 256, 128, dtype=torch.bfloat16, device="meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr("adaspa.ops.hopper_eight.capability", lambda _: (9, 0))
    call = Call("block_sparse_attention", (q, q, q), config.query_block, config.block_size, precision=EIGHT)
    assert backends.pick(call).name == "hopper_eight"


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [((8, 0), torch.float16, "it needs a Hopper GPU"), ((9, 0), torch.float32, "torch.float32 is not float16")],
)
def test_refused_with_the_reason_where_there_is_no_kernel(monkeypatch, capability, dtype, reason):
    q = torch.empty(1, 2, 256, 128, dtype=dtype, device="meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr("adaspa.ops.hopper_eight.capability", lambda _: capability)
    with pytest.raises(ValueError, match=f"^precision must be 'full' here, got 'int8_fp8': hopper_eight: {reason}"):
        ops.attention(q, q, q, precision=EIGHT)
