"""The Triton kernels in Triton's interpreter, on the CPU. Run by test_kernels.py in a process of its own, because
TRITON_INTERPRET counts when the kernels are imported."""

import sys

import naive_attention as naive
import pytest
import torch
from adaspa import BlockIndex
from adaspa.ops.keep_blocks import reference as keep_blocks_reference
from adaspa.ops.kernels import launch
from adaspa.ops.kernels.attention_with_scores import attention_with_scores
from adaspa.ops.kernels.block_scores import block_scores
from adaspa.ops.kernels.block_sparse_attention import block_sparse_attention
from adaspa.ops.kernels.keep_blocks import keep_blocks
from adaspa.ops.kernels.rotary import rotary
from adaspa.ops.rotary import reference as rotary_reference
from nan_query import nan_query_harms_no_other

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
def described(request, monkeypatch):
    """Load tiles by descriptor, as on sm90 and later, or by pointers, as on all others."""
    monkeypatch.setattr(launch, "_has_tma", lambda device: request.param)


cases = pytest.mark.parametrize(("shape", "blocks", "dtype", "described"), CASES, indirect=["described"])


def inputs(shape, dtype):
    """q, k, v as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in naive.qkv(**shape, dtype=dtype))


def close(got, wanted, dtype):
    torch.testing.assert_close(got.double(), wanted.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@cases
def test_block_sparse_attention(shape, blocks, dtype, described):
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
    out, lse = block_sparse_attention(q, k, v, index.ids, index.counts, *blocks, 0.2)
    tokens = naive.token_mask(mask, blocks[0], q.shape[2], k.shape[2], blocks[1])
    wanted, wanted_lse = naive.attend(q, k, v, tokens, 0.2)
    assert out.dtype == dtype and out.stride() == q.stride()
    close(out, wanted, dtype)
    close(lse, wanted_lse, torch.float32)


@cases
def test_attention_with_scores(shape, blocks, dtype, described):
    q, k, v = inputs(shape, dtype)
    cached = naive.lse(q * 0.9, k, 0.2).float()
    out, weights, lse = attention_with_scores(q, k, v, cached, blocks[1], blocks[1], 0.2)
    wanted, wanted_lse = naive.attend(q, k, v, scale=0.2)
    close(out, wanted, dtype)
    close(lse, wanted_lse, torch.float32)
    torch.testing.assert_close(
        weights.double(), naive.block_weights(q, k, cached, blocks[1], 0.2), rtol=1e-4, atol=1e-5
    )


@cases
@pytest.mark.parametrize("every", [1, 4])
def test_block_scores(shape, blocks, dtype, described, every):
    q, k, _ = inputs(shape, dtype)
    cached = naive.lse(q * 0.9, k, 0.2).float()
    weights = block_scores(q, k, cached, blocks[1], blocks[1], 0.2, every)
    wanted = naive.block_weights(q, k, cached, blocks[1], 0.2, every=every)
    torch.testing.assert_close(weights.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [range(0), range(2), range(19, 21)])
@pytest.mark.parametrize("limits", [[3.0, 5.0], [21.0, 4.0], [0.3, 0.9], [0.99, 0.01]])
def test_keep_blocks(limits, text):
    weights = (torch.randn(1, 2, 21, 21, generator=torch.Generator().manual_seed(1)) * 2).exp()
    weights[0, 0, 3] = 1.0  # equal weights: the first ones are kept
    weights[0, 0, 4, 5:] = 0.0
    by_mass = limits[1] < 1
    arguments = {"by_mass": by_mass, "text": text, "text_rows": range(3, 5), "width": 12}
    got = keep_blocks(weights, torch.tensor([limits]), by_mass, [text.start, text.stop, 3, 5], 12)
    wanted = keep_blocks_reference(weights, torch.tensor([limits]), **arguments)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [range(0), range(19, 21)])
@pytest.mark.parametrize("limits", [[3.0, 5.0], [0.3, 0.9]])
def test_rows_that_tell_nothing_are_kept_whole(limits, text):
    weights = torch.rand(1, 2, 21, 21, generator=torch.Generator().manual_seed(1))
    weights[0, 0, 3] = torch.nan
    weights[0, 1, 4, 5] = torch.nan
    weights[0, 0, 5] = torch.inf
    weights[0, 1, 6, 20] = torch.inf
    weights[0, 0, 7] = 1e38  # their sum overflows
    weights[0, 1, 8] = 0.0
    weights[0, 0, 9] = 1e-40
    by_mass = limits[1] < 1
    arguments = {"by_mass": by_mass, "text": text, "text_rows": range(0), "width": 21}
    ids, counts, shares = keep_blocks(weights, torch.tensor([limits]), by_mass, [text.start, text.stop, 0, 0], 21)
    wanted = keep_blocks_reference(weights, torch.tensor([limits]), **arguments)
    torch.testing.assert_close((ids, counts, shares), wanted, rtol=1e-5, atol=1e-6)
    whole = torch.zeros_like(counts, dtype=torch.bool)
    whole[0, 0, [3, 5, 7, 9]] = whole[0, 1, [4, 6, 8]] = True
    assert torch.equal(counts == 21, whole)
    assert shares[whole].eq(1).all() and shares[~whole].lt(1).all()


@pytest.fixture
def on_triton(monkeypatch):
    """The operations of `adaspa.attention` by their kernels, in half precision as on a GPU."""
    for name in ("attention_with_scores", "block_sparse_attention", "keep_blocks"):
        module = sys.modules[f"adaspa.ops.{name}"]
        choice = "triton_runs_on" if name == "keep_blocks" else "uses_triton"
        monkeypatch.setattr(module, choice, lambda x: True)


@pytest.mark.usefixtures("on_triton")
@pytest.mark.parametrize("text", [None, (130, 150)], ids=["video", "text"])
@pytest.mark.parametrize("selection", ["top_k", "retained_mass"])
def test_a_query_that_is_not_a_number_harms_no_other(selection, text):
    nan_query_harms_no_other(selection, text, torch.float16)


@pytest.mark.parametrize("op", ["keep", "sparse", "with_scores", "scores"])
def test_fakes_match(op):
    q, k, v = inputs({"tokens": 70, "dim": 32, "heads": 1}, torch.float32)
    cached = naive.lse(q, k).float()
    index = BlockIndex.from_mask(
        torch.ones(1, 1, 2, 2, dtype=torch.bool), query_block=64, key_block=64, query_tokens=70, key_tokens=70
    )
    operation, arguments = {
        "keep": (keep_blocks, (torch.rand(1, 1, 2, 3), torch.ones(1, 1), False, [0, 1, 0, 1], 2)),
        "sparse": (block_sparse_attention, (q, k, v, index.ids, index.counts, 64, 64, 0.2)),
        "with_scores": (attention_with_scores, (q, k, v, cached, 64, 64, 0.2)),
        "scores": (block_scores, (q, k, cached, 128, 64, 0.2, 4)),
    }[op]
    torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))


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
    close(got, rotary_reference(x.double(), cos.unsqueeze(1), sin.unsqueeze(1)), dtype)
    assert torch.equal(rotary(x, cos, sin.contiguous()), got)
