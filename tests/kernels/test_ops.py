import naive_attention as naive
import pytest
import torch
from adaspa import BlockIndex, ops

SHAPES = [
    {"tokens": 128, "dim": 32},
    {"batch": 2, "heads": 3, "tokens": 150, "dim": 64},
    {"tokens": 70, "dim": 96, "key_tokens": 200},
    {"tokens": 5, "dim": 128},
]
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 1e-2, "atol": 5e-3},
    torch.bfloat16: {"rtol": 5e-2, "atol": 3e-2},
}


def close(got, wanted, dtype=torch.float32):
    torch.testing.assert_close(got.double(), wanted.double(), **TOLERANCE[dtype])


def random_index(q, k, query_block=64, key_block=64):
    """Random blocks, with a different number in every row, one empty row and one full one."""
    nq, nk = -(-q.shape[2] // query_block), -(-k.shape[2] // key_block)
    mask = torch.rand(*q.shape[:2], nq, nk, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0, 0, 0] = False
    mask[-1, -1, -1] = True
    geometry = {"query_block": query_block, "key_block": key_block, "query_tokens": q.shape[2]}
    return mask, BlockIndex.from_mask(mask, **geometry, key_tokens=k.shape[2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dense_attention(shape, dtype):
    q, k, v = naive.qkv(**shape, dtype=dtype)
    out, lse = ops.dense_attention(q, k, v)
    wanted, wanted_lse = naive.attend(q, k, v)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    close(out, wanted, dtype)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("block", [16, 64])
def test_attention_with_block_mass(shape, dtype, block):
    q, k, v = naive.qkv(**shape, dtype=dtype)
    out, weights, lse = ops.attention_with_block_mass(q, k, v, key_block=block)
    wanted, wanted_lse = naive.attend(q, k, v)
    assert out.dtype == dtype
    close(out, wanted, dtype)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-4, atol=1e-4)
    close(weights, naive.block_weights(q, k, wanted_lse, block))


def test_a_row_of_weights_sums_to_its_query_rows():
    q, k, v = naive.qkv(tokens=150)
    _, weights, _ = ops.attention_with_block_mass(q, k, v, key_block=64)
    close(weights.sum(-1), torch.tensor([64.0, 64.0, 22.0]).expand(1, 2, 3))


def test_weights_from_a_cached_lse_leave_the_output_exact():
    q, k, v = naive.qkv(tokens=150)
    earlier = naive.lse(*naive.qkv(tokens=150, seed=1)[:2]).float()
    out, weights, lse = ops.attention_with_block_mass(q, k, v, earlier, key_block=32)
    wanted, wanted_lse = naive.attend(q, k, v)
    close(out, wanted)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-4, atol=1e-4)
    close(weights, naive.block_weights(q, k, earlier, 32))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("every", [1, 4])
def test_block_mass(shape, block, every):
    q, k, _ = naive.qkv(**shape)
    earlier = naive.lse(q * 0.9, k).float()
    weights = ops.block_mass(q, k, earlier, key_block=block, query_stride=every)
    close(weights, naive.block_weights(q, k, earlier, block, every=every))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("blocks", [(64, 64), (32, 64), (64, 16)])
def test_block_sparse_attention(shape, dtype, blocks):
    q, k, v = naive.qkv(**shape, dtype=dtype)
    mask, index = random_index(q, k, query_block=blocks[0], key_block=blocks[1])
    out, lse = ops.block_sparse_attention(q, k, v, index)
    tokens = naive.token_mask(mask, blocks[0], q.shape[2], k.shape[2], blocks[1])
    wanted, wanted_lse = naive.attend(q, k, v, tokens)
    assert out.dtype == dtype
    close(out, wanted, dtype)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-4, atol=1e-4)


def test_full_rows_beside_narrow_lists():
    q, k, v = naive.qkv(tokens=256)
    ids = torch.tensor([[1], [0], [3], [2]], dtype=torch.int16).expand(1, 2, 4, 1)
    counts = torch.tensor([[[4, 1, 1, 4], [1, 4, 1, 0]]], dtype=torch.int32)
    index = BlockIndex(ids, counts, 64, 64, 256, 256)
    out, _ = ops.block_sparse_attention(q, k, v, index)
    close(out, naive.attend(q, k, v, naive.token_mask(index.to_mask(), 64, 256))[0])


def test_a_query_block_without_keys_gives_zeros():
    q, k, v = naive.qkv(tokens=130)
    index = BlockIndex.from_mask(
        torch.zeros(1, 2, 3, 3, dtype=torch.bool), query_block=64, key_block=64, query_tokens=130, key_tokens=130
    )
    out, lse = ops.block_sparse_attention(q, k, v, index)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(lse, torch.full_like(lse, -torch.inf))


def test_the_work_is_done_in_groups_of_rows(monkeypatch):
    q, k, v = naive.qkv(heads=3, tokens=600)
    mask, index = random_index(q, k, query_block=64, key_block=64)
    module = __import__("sys").modules["adaspa.ops.reference.block_sparse_attention"]
    monkeypatch.setattr(module, "GATHERED_TOKENS", {"cpu": 256})
    out, _ = ops.block_sparse_attention(q, k, v, index)
    close(out, naive.attend(q, k, v, naive.token_mask(mask, 64, 600))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strided_inputs_and_a_scale(dtype):
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in naive.qkv(heads=3, tokens=150, dtype=dtype))
    assert not q.is_contiguous()
    mask, index = random_index(q, k)
    tokens = naive.token_mask(mask, 64, 150)
    close(ops.block_sparse_attention(q, k, v, index, scale=0.3)[0], naive.attend(q, k, v, tokens, 0.3)[0], dtype)
    lse = naive.lse(q, k, 0.3).float()
    close(ops.attention_with_block_mass(q, k, v, scale=0.3)[0], naive.attend(q, k, v, scale=0.3)[0], dtype)
    close(ops.block_mass(q, k, lse, scale=0.3), naive.block_weights(q, k, lse, 64, 0.3))


def test_gradients_are_refused_rather_than_left_out():
    q, k, v = naive.qkv(tokens=64)
    out, _ = ops.dense_attention(q.requires_grad_(), k, v)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        out.sum().backward()


def test_nan_in_one_block_stays_out_of_the_rows_that_skip_it():
    q, k, v = naive.qkv(heads=1, tokens=256)
    mask = torch.eye(4, dtype=torch.bool)[None, None]
    index = BlockIndex.from_mask(mask, query_block=64, key_block=64, query_tokens=256, key_tokens=256)
    clean, _ = ops.block_sparse_attention(q, k, v, index)
    k, v = k.clone(), v.clone()
    k[:, :, 64:128] = torch.nan
    v[:, :, 64:128] = torch.nan
    out, _ = ops.block_sparse_attention(q, k, v, index)
    assert torch.equal(out[:, :, :64], clean[:, :, :64])
    assert torch.equal(out[:, :, 128:], clean[:, :, 128:])
    assert out[:, :, 64:128].isnan().all()


Q, K, V = naive.qkv(tokens=128)
LSE = torch.zeros(Q.shape[:3])
TABLE = torch.zeros(128, Q.shape[3] // 2)
ROWS = torch.randn(6, 8)
INDEX = random_index(Q, K)[1]
MASS = torch.ones(1, Q.shape[1], 2, 2)


def kept(mass=MASS, limits=MASS[:, :, 0, 0], rule="count"):
    return ops.keep_blocks(mass, limits, rule=rule, text=range(0), text_rows=range(0), width=1)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("q", lambda: ops.dense_attention(Q[0], K, V)),
        ("q", lambda: ops.dense_attention(Q.int(), K.int(), V.int())),
        ("k", lambda: ops.dense_attention(Q, K[:, :1], V)),
        ("k", lambda: ops.attention_with_block_mass(Q, K.half(), V)),
        ("v", lambda: ops.block_sparse_attention(Q, K, V[:, :, :64], INDEX)),
        ("lse", lambda: ops.attention_with_block_mass(Q, K, V, LSE[..., :64])),
        ("lse", lambda: ops.block_mass(Q, K, LSE.int())),
        ("key_block", lambda: ops.block_mass(Q, K, LSE, key_block=48)),
        ("key_block", lambda: ops.attention_with_block_mass(Q, K, V, key_block=64.0)),
        ("query_block", lambda: ops.block_mass(Q, K, LSE, query_block=128.0)),
        ("query_block", lambda: ops.block_mass(Q, K, LSE, query_block=32)),
        ("query_stride", lambda: ops.block_mass(Q, K, LSE, query_stride=3)),
        ("query_stride", lambda: ops.block_mass(Q, K, LSE, query_stride=0)),
        ("scale", lambda: ops.block_mass(Q, K, LSE, scale=-1.0)),
        ("scale", lambda: ops.dense_attention(Q, K, V, scale=float("nan"))),
        ("scale", lambda: ops.dense_attention(Q, K, V, scale=float("inf"))),
        ("rule", lambda: kept(rule="most")),
        ("block_mass", lambda: kept(MASS[0])),
        ("limits", lambda: kept(limits=torch.ones(1, 3))),
        ("limits", lambda: kept(limits=torch.ones(1, MASS.shape[1], device="meta"))),
        ("x", lambda: ops.rotary(Q[..., :3], TABLE, TABLE)),
        ("cos", lambda: ops.rotary(Q.transpose(1, 2), TABLE[:5], TABLE)),
        ("sin", lambda: ops.rotary(Q.transpose(1, 2), TABLE, TABLE[:, :3])),
        ("residual", lambda: ops.add_residual(Q.clone(), Q[:, :, :4], 64, 1.0)),
        ("residual", lambda: ops.add_residual(Q.clone(), Q[:, :, :2].half(), 64, 1.0)),
        ("block", lambda: ops.add_residual(Q.clone(), Q[:, :, :3], 48, 1.0)),
        ("activation", lambda: ops.round_rows(ROWS, "relu")),
        ("x", lambda: ops.round_rows(ROWS[:, :7], "swiglu")),
        ("x", lambda: ops.round_rows(ROWS[0], "gelu_tanh")),
        ("before", lambda: ops.round_rows(ROWS, "gelu_tanh", ROWS[:5])),
        ("before", lambda: ops.round_rows(ROWS, "gelu_tanh", ROWS.half())),
        ("index", lambda: ops.block_sparse_attention(Q[:, :, :64], K, V, INDEX)),
        ("index", lambda: ops.block_sparse_attention(Q[:, :1], K[:, :1], V[:, :1], INDEX)),
    ],
)
def test_a_bad_argument_is_named(argument, call):
    with pytest.raises(ValueError, match=f"^{argument} must "):
        call()


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 3, 4)])
def test_a_rotary_embedding_is_computed_in_fp32_whatever_its_tables_are(shape):
    x, (cos, sin) = torch.randn(1, 6, 3, 8, dtype=torch.bfloat16), torch.randn(2, *shape, dtype=torch.bfloat16)
    assert torch.equal(ops.rotary(x, cos, sin), ops.rotary(x.float(), cos.float(), sin.float()).bfloat16())
