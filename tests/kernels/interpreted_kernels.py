"""The Triton kernels in Triton's interpreter, on the CPU. Run by test_kernels.py in a process of its own, because
TRITON_INTERPRET counts when the kernels are imported."""

import math

import naive_attention as naive
import pytest
import torch
import triton.language as tl
from adaspa import BlockIndex
from adaspa.ops import backends, device
from adaspa.ops.hopper_eight.prepare import prepared
from adaspa.ops.reference import kernels as reference
from adaspa.ops.reference_eight.rounding import rounded, rounded_values
from adaspa.ops.triton.add_residual import add_residual
from adaspa.ops.triton.attention_with_block_mass import attention_with_block_mass
from adaspa.ops.triton.block_mass import block_mass
from adaspa.ops.triton.block_sparse_attention import block_sparse_attention
from adaspa.ops.triton.keep_blocks import keep_blocks
from adaspa.ops.triton.rotary import rotary
from adaspa.ops.triton.round_rows import round_rows
from emulated_gluon import emulated
from nan_query import nan_query_harms_no_other
from triton.runtime import interpreter

TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3}
CASES = [
    pytest.param({"tokens": 130, "dim": 32}, (64, 64), torch.float32, False, id="partial-block"),
    pytest.param({"tokens": 256, "dim": 64, "batch": 2}, (64, 64), torch.float16, True, id="whole-blocks-described"),
    pytest.param({"tokens": 200, "dim": 96}, (128, 64), torch.float16, False, id="dim-96"),
    pytest.param({"tokens": 200, "dim": 96}, (128, 64), torch.float16, True, id="dim-96-described"),
    pytest.param({"tokens": 300, "dim": 128, "heads": 1}, (64, 128), torch.float32, True, id="wide-keys-described"),
    pytest.param({"tokens": 150, "dim": 256, "heads": 1}, (128, 128), torch.float16, False, id="dim-256"),
    pytest.param({"tokens": 90, "dim": 24, "key_tokens": 140}, (32, 16), torch.float32, False, id="small-blocks"),
]


@pytest.fixture
def use_tma(request, monkeypatch):
    """Load tiles by descriptor, as on sm90 and later, or by pointers, as on all others."""
    monkeypatch.setattr(device, "capability", lambda _: (9, 0) if request.param else (8, 0))


cases = pytest.mark.parametrize(("shape", "blocks", "dtype", "use_tma"), CASES, indirect=["use_tma"])


def inputs(shape, dtype):
    """q, k, v as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in naive.qkv(**shape, dtype=dtype))


def close(got, wanted, dtype):
    torch.testing.assert_close(got.double(), wanted.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@cases
def test_block_sparse_attention(shape, blocks, dtype, use_tma):
    q, k, v = inputs(shape, dtype)
    nq, nk = -(-q.shape[2] // blocks[0]), -(-k.shape[2] // blocks[1])
    mask = torch.rand(*q.shape[:2], nq, nk, generator=torch.Generator().manual_seed(5)) < 0.5
    mask[0, 0, 0] = False
    mask[-1, -1, -1] = True
    index = BlockIndex.from_mask(
        mask, query_block=blocks[0], key_block=blocks[1], query_tokens=q.shape[2], key_tokens=k.shape[2]
    )
    # A full row is read without its list.
    index.ids[-1, -1, -1] = 0
    out, lse = block_sparse_attention(q, k, v, index, 0.2)
    tokens = naive.token_mask(mask, blocks[0], q.shape[2], k.shape[2], blocks[1])
    wanted, wanted_lse = naive.attend(q, k, v, tokens, 0.2)
    assert out.dtype == dtype and out.stride() == q.stride()
    close(out, wanted, dtype)
    close(lse, wanted_lse, torch.float32)


@cases
def test_attention_with_block_mass(shape, blocks, dtype, use_tma):
    q, k, v = inputs(shape, dtype)
    cached = naive.lse(q * 0.9, k, 0.2).float()
    out, mass, lse = attention_with_block_mass(q, k, v, cached, blocks[1], blocks[1], 0.2)
    wanted, wanted_lse = naive.attend(q, k, v, scale=0.2)
    close(out, wanted, dtype)
    close(lse, wanted_lse, torch.float32)
    torch.testing.assert_close(mass.double(), naive.block_weights(q, k, cached, blocks[1], 0.2), rtol=1e-4, atol=1e-5)


@cases
@pytest.mark.parametrize("every", [1, 4])
def test_block_mass(shape, blocks, dtype, use_tma, every):
    q, k, _ = inputs(shape, dtype)
    cached = naive.lse(q * 0.9, k, 0.2).float()
    mass = block_mass(q, k, cached, blocks[1], blocks[1], 0.2, every)
    wanted = naive.block_weights(q, k, cached, blocks[1], 0.2, every=every)
    torch.testing.assert_close(mass.double(), wanted, rtol=1e-4, atol=1e-5)


# Each head has a limit of its own; counting and adding up meet each place of the text.
@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ([3.0, 5.0], range(2)),
        ([21.0, 4.0], range(0)),
        ([21.0, 4.0], range(19, 21)),
        ([0.3, 0.9], range(2)),
        ([0.99, 0.01], range(0)),
        ([0.99, 0.01], range(19, 21)),
        ([-0.23, -0.013], range(2)),
        ([-0.053, -5.0], range(0)),
        ([-0.11, -0.021], range(19, 21)),
    ],
)
def test_keep_blocks(limits, text):
    """Limits below 0 stand for gains."""
    mass = (torch.randn(1, 2, 6, 21, generator=torch.Generator().manual_seed(1)) * 2).exp()
    mass[0, 0, 1] = 1.0  # equal mass: the first ones are kept
    mass[0, 0, 2, 5:] = 0.0
    rule = "gain" if limits[1] < 0 else "mass" if limits[1] < 1 else "count"
    bounds, width = [text.start, text.stop, 3, 5], 12
    got = keep_blocks(mass, torch.tensor([limits]).abs(), rule, bounds, width)
    wanted = reference.keep_blocks(mass, torch.tensor([limits]).abs(), rule, bounds, width)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("limits", "text"), [([3.0, 5.0], range(19, 21)), ([0.3, 0.9], range(0))])
def test_rows_that_tell_nothing_are_kept_whole(limits, text):
    mass = torch.rand(1, 2, 5, 21, generator=torch.Generator().manual_seed(1))
    mass[0, 0, 0] = torch.nan
    mass[0, 1, 0, 5] = torch.nan
    mass[0, 0, 1] = torch.inf
    mass[0, 1, 1, 20] = torch.inf
    mass[0, 0, 2] = 1e38  # their sum overflows
    mass[0, 1, 2] = 0.0
    mass[0, 0, 3] = 1e-40
    rule = "mass" if limits[1] < 1 else "count"
    bounds, width = [text.start, text.stop, 0, 0], 21
    ids, counts, shares = keep_blocks(mass, torch.tensor([limits]), rule, bounds, width)
    wanted = reference.keep_blocks(mass, torch.tensor([limits]), rule, bounds, width)
    torch.testing.assert_close((ids, counts, shares), wanted, rtol=1e-5, atol=1e-6)
    whole = torch.zeros_like(counts, dtype=torch.bool)
    whole[0, 0, :4] = whole[0, 1, :3] = True
    assert torch.equal(counts == 21, whole)
    assert shares[whole].eq(1).all() and shares[~whole].lt(1).all()


@pytest.fixture
def on_triton(monkeypatch):
    """The operations of `adaspa.attention` by their kernels, in half precision as on a GPU."""
    taken = ("attention_with_block_mass", "block_mass", "block_sparse_attention", "keep_blocks")
    ours = backends.Backend("triton", lambda call: call.op in taken)
    monkeypatch.setattr(backends, "BACKENDS", (ours, *backends.BACKENDS))


@pytest.mark.usefixtures("on_triton")
# The other pairs add nothing here: test_rows_that_tell_nothing_are_kept_whole has them for the kernel that selects.
@pytest.mark.parametrize(("selection", "text"), [("top_k", None), ("retained_mass", (70, 90))])
def test_a_query_that_is_not_a_number_harms_no_other(selection, text):
    nan_query_harms_no_other(selection, text, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("dim", "block"), [(24, 16), (64, 64), (128, 128)])
def test_add_residual(dtype, dim, block):
    """Output of any strides, with a partial last block; each block's queries get what is their block's."""
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(2, 150, 3, dim, generator=generator).to(dtype).transpose(1, 2)
    residual = torch.randn(2, 3, -(-150 // block), dim, generator=generator).to(dtype)
    wanted = out.double()
    reference.add_residual(wanted, residual.double(), block, 0.75)
    beside = out.transpose(1, 2)[:, :, 0].clone()
    add_residual(out[:, 1:], residual[:, 1:], block, 0.75)
    close(out[:, 1:], wanted[:, 1:], dtype)
    assert torch.equal(out.transpose(1, 2)[:, :, 0], beside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dim", [24, 64, 128])
def test_rotary(dtype, dim):
    """Heads that are a slice of a wider projection, and tables that hold each angle twice."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 37, 3, 2 * dim, generator=generator).to(dtype)[..., :dim]
    angles = torch.rand(37, dim // 2, generator=generator).repeat_interleave(2, dim=1) * 6
    cos, sin = angles.cos()[:, ::2], angles.sin()[:, ::2]
    got = rotary(x, cos, sin)
    assert got.dtype == dtype and got.is_contiguous()
    close(got, reference.rotary(x.double(), cos, sin), dtype)
    assert torch.equal(rotary(x, cos, sin.contiguous()), got)
    apart = torch.rand(2, 37, 3, dim, generator=generator) * 6
    cos, sin = apart.cos()[..., ::2], apart.sin()[..., ::2]
    close(rotary(x, cos, sin), reference.rotary(x.double(), cos, sin), dtype)


@pytest.fixture
def rounds_to_nearest(monkeypatch):
    """The interpreter's own rounding to e4m3 loses the carry: 127 becomes 64."""
    convert = interpreter._convert_float

    def rounded(values, dtype, wanted, mode):
        if wanted != tl.float8e4nv:
            return convert(values, dtype, wanted, mode)
        return torch.tensor(values).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.mark.usefixtures("rounds_to_nearest")
@pytest.mark.parametrize("activation", ["none", "gelu_tanh", "swiglu"])
@pytest.mark.parametrize("before", [0, 48])
def test_round_rows(activation, before):
    """Columns of a wider tensor, in a number that is no power of two; rows of zeros and without a number."""
    generator = torch.Generator().manual_seed(0)
    x = (4 * torch.randn(9, 256, generator=generator)).bfloat16()[:, 16:208]
    first = torch.randn(9, before, generator=generator).bfloat16()
    x[1], x[2, 5], first[1] = 0, math.nan, 0
    got, scales = round_rows(x, first, activation)
    wanted, wanted_scales = reference.round_rows(x, first, activation)
    assert got.dtype == torch.float8_e4m3fn and not got[1].float().any() and got[2].float().isnan().any()
    rest = [0, 1, *range(3, 9)]
    torch.testing.assert_close(scales[rest], wanted_scales[rest], rtol=1e-6, atol=0)
    values, of_reference = (rows[rest].float() for rows in (got, wanted))
    assert ((values - of_reference).abs() <= of_reference.abs() / 8 + 2**-9).all(), "one step of e4m3"
    assert (values != of_reference).float().mean() < 0.002


def test_eight_bits():
    """The kernel that writes them and its reference, with keys of other blocks, channels and sizes than the queries."""
    q, _, _ = inputs({"tokens": 70, "dim": 64}, torch.float16)
    _, k, v = inputs({"tokens": 140, "dim": 64}, torch.float16)
    k[..., 3] += 9
    k[:, :, :64, 7] *= 5
    v = v.sign() * (torch.arange(64) % 8 + 8)  # what e4m3 holds: the interpreter does not round to the nearest
    v[:, :, 139] = 448
    q[0, 1, 5, 5] = torch.nan
    got, wanted = prepared(q, k, v, 0.2), rounded(q, k)
    keys = got.k.float() * got.k_scales.repeat_interleave(64, 2)[:, :, :140, None]
    torch.testing.assert_close(keys[:, :1], wanted.k[:, :1], rtol=1e-5, atol=1e-5)
    queries = got.q.float() * got.q_scales[..., None] / (0.2 * math.log2(math.e))
    torch.testing.assert_close(queries[:, :1], wanted.q[:, :1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.offsets[:, :1], wanted.offsets[:, :1] * 0.2, rtol=1e-5, atol=1e-5)
    assert got.q_scales[0, 1].isnan().nonzero().tolist() == [[5]]
    # The order of a block's keys is the tensor cores': 0 1 8 9, 2 3 10 11, ... of each 16.
    values = got.v.float().unflatten(-1, (4, 4, 2, 2)).permute(0, 1, 2, 3, 5, 4, 6).flatten(3).transpose(2, 3)
    values = values.flatten(1, 2)[:, :140].view_as(v) * got.v_scales.view(1, 2, 1, 64)
    assert torch.equal(values, rounded_values(v)) and torch.equal(values, v.float())


def hopper_inputs(dtype, tokens, rise):
    """q, k, v for the Hopper kernels; a rise makes the scores of some keys so many times as large."""
    q, k, v = inputs({"tokens": tokens, "dim": 128, "heads": 2}, dtype)
    k[:, 1, :64] *= rise  # lists are walked from their end
    return q, k, v


def hopper_close(got, wanted):
    torch.testing.assert_close(got[0].double(), wanted[0], rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(got[1].double(), wanted[1], rtol=1e-3, atol=1e-3)


def likened(tokens, blocks, likeness):
    """A mask in which so much of a row is as the row before. Empty and full rows and partial blocks are among them."""
    generator = torch.Generator().manual_seed(tokens)
    nq, nk = (-(-tokens // block) for block in blocks)
    drawn = torch.rand(1, 2, nq, nk, generator=generator)
    as_before = torch.rand(1, 2, nq - 1, nk, generator=generator) < likeness
    drawn[:, :, 1:] = torch.where(as_before, drawn[:, :, :-1], drawn[:, :, 1:])
    mask = drawn < 0.5
    mask[0, 0, 0], mask[0, 1, -1], mask[0, 0, nq // 2 : nq // 2 + 2] = False, True, True
    mask[0, 1, : nq // 2, -1] = True
    return mask


@pytest.mark.parametrize(
    ("blocks", "dtype", "tokens", "data"),
    [
        ((64, 64), torch.bfloat16, 700, {"likeness": 0.8, "rise": 1, "counted_from": 1}),
        ((64, 64), torch.bfloat16, 384, {"likeness": 0.0, "rise": 60}),
        ((64, 64), torch.bfloat16, 500, {"likeness": 1.0, "rise": 60, "counted_from": 1}),
        ((64, 64), torch.bfloat16, 130, {"likeness": 0.5, "rise": 1}),
        ((128, 64), torch.bfloat16, 500, {"likeness": 0.5, "rise": 60}),
        ((128, 128), torch.bfloat16, 300, {"likeness": 0.5, "rise": 1}),
        ((128, 64), torch.float16, 500, {"likeness": 0.5, "rise": 60}),
    ],
)
def test_block_sparse_attention_of_hopper(monkeypatch, blocks, dtype, tokens, data):
    q, k, v = hopper_inputs(dtype, tokens, data["rise"])
    mask = likened(tokens, blocks, data["likeness"])
    geometry = {"query_block": blocks[0], "key_block": blocks[1], "query_tokens": tokens, "key_tokens": tokens}
    index = BlockIndex.from_mask(mask, **geometry)
    index.ids[index.counts == mask.shape[-1]] = 0  # a full row is read without its list
    hopper = emulated(monkeypatch, seed=tokens)
    monkeypatch.setattr(hopper.turns, "COUNTED_FROM", data.get("counted_from", hopper.turns.COUNTED_FROM))
    kernel = hopper.paired if blocks[0] == 64 else hopper.tiled
    got = kernel.block_sparse_attention(q, k, v, index, 0.2)
    hopper_close(got, naive.attend(q, k, v, naive.token_mask(mask, blocks[0], tokens, tokens, blocks[1]), 0.2))


@pytest.mark.parametrize(("dtype", "rise"), [(torch.bfloat16, 1), (torch.bfloat16, 60), (torch.float16, 60)])
def test_dense_attention_of_hopper(monkeypatch, dtype, rise):
    q, k, v = hopper_inputs(dtype, 500, rise)
    hopper = emulated(monkeypatch)
    wanted = naive.attend(q, k, v, scale=0.2)
    hopper_close(hopper.tiled.dense_attention(q, k, v, 0.2), wanted)
    cached = wanted[1].float() - 60 * (rise == 1)  # an LSE may be stale
    out, mass, lse = hopper.tiled.attention_with_block_mass(q, k, v, cached, 64, 64, 0.2)
    hopper_close((out, lse), wanted)
    weights = naive.block_weights(q, k, cached, 64, 0.2)
    for got in (mass, hopper.scoring.block_mass(q, k, cached, 64, 64, 0.2, 1)):
        torch.testing.assert_close(got.double(), weights, rtol=1e-2, atol=1e-3)


def test_a_rise_by_a_hundred_and_twenty_nats_takes_no_second_walk(monkeypatch):
    q, k, v = hopper_inputs(torch.bfloat16, 300, 1)
    q[..., 0], k[..., 0] = 10, torch.where(torch.arange(300) < 64, 62, 0)  # lists are walked from their end
    tiled = emulated(monkeypatch).tiled
    monkeypatch.delattr(tiled, "_attend_again")
    hopper_close(tiled.dense_attention(q, k, v, 0.2), naive.attend(q, k, v, scale=0.2))


@pytest.mark.parametrize("is_sparse", [False, True])
def test_rises_by_seventy_nats_one_after_the_other_take_no_second_walk_in_fp16(monkeypatch, is_sparse):
    q, k, v = hopper_inputs(torch.float16, 2300, 1)
    q, tile = q[:, :, :128].clone(), 17 - torch.arange(2300) // 128  # lists are walked from their end
    q[..., 0], k[..., 0] = 10, 35 * ((tile > 1).long() + (tile > 8) + (tile > 16))
    tiled = emulated(monkeypatch).tiled
    wanted = naive.attend(q, k, v, scale=0.2)
    monkeypatch.delattr(tiled, "_attend_again")
    if not is_sparse:
        cached = wanted[1].float()
        out, mass, lse = tiled.attention_with_block_mass(q, k, v, cached, 64, 64, 0.2)
        torch.testing.assert_close(mass.double(), naive.block_weights(q, k, cached, 64, 0.2), rtol=1e-2, atol=1e-3)
    else:
        geometry = {"query_block": 128, "key_block": 64, "query_tokens": 128, "key_tokens": 2300}
        index = BlockIndex.from_mask(torch.ones(1, 2, 1, 36, dtype=torch.bool), **geometry)
        out, lse = tiled.block_sparse_attention(q, k, v, index, 0.2)
    hopper_close((out, lse), wanted)


@pytest.mark.parametrize("blocks", [None, (128, 64), (128, 128)])
def test_attention_of_hopper_in_eight_bits(monkeypatch, blocks):
    q, k, v = hopper_inputs(torch.bfloat16, 500, 1)
    eight = emulated(monkeypatch).eight
    if blocks is None:
        got, wanted = eight.dense_attention(q, k, v, 0.2), naive.attend(q, k, v, scale=0.2)
    else:
        mask = likened(500, blocks, 0.5)
        geometry = {"query_block": blocks[0], "key_block": blocks[1], "query_tokens": 500, "key_tokens": 500}
        got = eight.block_sparse_attention(q, k, v, BlockIndex.from_mask(mask, **geometry), 0.2)
        wanted = naive.attend(q, k, v, naive.token_mask(mask, blocks[0], 500, 500, blocks[1]), 0.2)
    assert (got[0].double() - wanted[0]).norm() < 0.08 * wanted[0].norm()  # the interpreter rounds e4m3 down
    torch.testing.assert_close(got[1].double(), wanted[1], rtol=0, atol=0.2)


@pytest.mark.parametrize(("tokens", "likeness"), [(700, 0.8), (384, 0.0), (130, 0.5)])
def test_attention_of_hopper_in_eight_bits_by_pairs(monkeypatch, tokens, likeness):
    q, k, v = hopper_inputs(torch.bfloat16, tokens, 1)
    mask = likened(tokens, (64, 64), likeness)
    geometry = {"query_block": 64, "key_block": 64, "query_tokens": tokens, "key_tokens": tokens}
    index = BlockIndex.from_mask(mask, **geometry)
    index.ids[index.counts == mask.shape[-1]] = 0  # a full row is read without its list
    got = emulated(monkeypatch, seed=tokens).eight_paired.block_sparse_attention(q, k, v, index, 0.2)
    wanted = naive.attend(q, k, v, naive.token_mask(mask, 64, tokens, tokens, 64), 0.2)
    assert (got[0].double() - wanted[0]).norm() < 0.08 * wanted[0].norm()  # the interpreter rounds e4m3 down
    torch.testing.assert_close(got[1].double(), wanted[1], rtol=0, atol=0.2)


def test_pairs_with_the_same_list_give_the_same_bits_as_one_block(monkeypatch):
    q, k, v = hopper_inputs(torch.bfloat16, 1000, 1)
    mask = likened(1000, (128, 64), 0.5)
    geometry = {"key_block": 64, "query_tokens": 1000, "key_tokens": 1000}
    one = BlockIndex.from_mask(mask, query_block=128, **geometry)
    pairs = BlockIndex.from_mask(mask.repeat_interleave(2, 2), query_block=64, **geometry)
    hopper = emulated(monkeypatch)
    wanted = hopper.eight.block_sparse_attention(q, k, v, one, 0.2)
    got = hopper.eight_paired.block_sparse_attention(q, k, v, pairs, 0.2)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


@pytest.mark.parametrize(("blocks", "stride"), [((64, 64), 1), ((128, 128), 4)])
def test_block_mass_of_hopper_in_eight_bits(monkeypatch, blocks, stride):
    q, k, v = hopper_inputs(torch.bfloat16, 500, 1)
    k[..., 5] += 12
    cached = naive.attend(q, k, v, scale=0.2)[1].float() - 3  # an LSE may be stale
    mass = emulated(monkeypatch).eight_scoring.block_mass(q, k, cached, *blocks, 0.2, stride)
    wanted = naive.block_weights(q, k, cached, blocks[1], 0.2, every=stride)
    assert (mass - wanted).norm() < 0.03 * wanted.norm()
