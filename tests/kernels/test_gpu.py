"""The kernels on a real GPU, against their references in PyTorch."""

import gc
import json
from dataclasses import replace

import adaspa
import naive_attention as naive
import pytest
import torch
from adaspa import BlockIndex, ops
from adaspa.ops.reference import kernels as reference
from adaspa.ops.reference_eight import kernels as reference_eight
from adaspa.residual import FADING
from adaspa_command import adaspa as adaspa_command
from tiny_pipelines import SPARSE, cancel, generate, make_pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DTYPES = [torch.bfloat16, torch.float16]
DIMS = [32, 64, 96, 128, 256]


def inputs(dtype, dim, tokens=1000):
    """q, k, v as a projection leaves them: ``[B, S, H, D]`` seen as ``[B, H, S, D]``."""
    qkv = naive.qkv(batch=2, heads=3, tokens=tokens, dim=dim, dtype=dtype)
    return tuple(x.cuda().transpose(1, 2).contiguous().transpose(1, 2) for x in qkv)


def sparse_reference(q, k, v, index):
    return reference.block_sparse_attention(q, k, v, index, q.shape[-1] ** -0.5)


def close(got, wanted, tolerance=2e-2):
    torch.testing.assert_close(got.float(), wanted.float(), rtol=tolerance, atol=tolerance)


def dense_attention_is_right(q, k, v):
    out, lse = ops.dense_attention(q, k, v)
    wanted, wanted_lse = naive.attend(q, k, v)
    close(out, wanted)
    close(lse, wanted_lse, 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("tile", [(64, 64), (128, 64), (128, 128), (32, 16)])
def test_block_sparse_attention(dtype, dim, tile):
    for tokens in (1000, 1024):  # in one test, so that one process compiles the kernel
        q, k, v = inputs(dtype, dim, tokens)
        nq, nk = (-(-tokens // block) for block in tile)
        mask = torch.rand(2, 3, nq, nk, generator=torch.Generator().manual_seed(3)) < 0.4
        mask[0, 0, 0] = False
        mask[1, 2, -1] = True
        index = BlockIndex.from_mask(
            mask.cuda(), query_block=tile[0], key_block=tile[1], query_tokens=tokens, key_tokens=tokens
        )
        out, lse = ops.block_sparse_attention(q, k, v, index)
        wanted, wanted_lse = sparse_reference(q, k, v, index)
        close(out, wanted)
        close(lse, wanted_lse, 1e-3)


@pytest.mark.parametrize("tile", [(128, 64), (64, 64)])
def test_later_calls_of_a_kind_may_have_lists_at_any_address(tile):
    q, k, v = inputs(torch.bfloat16, 128)
    nq, nk = (-(-1000 // block) for block in tile)
    for seed, offset in ((3, 0), (4, 0), (5, 1), (6, 8)):
        mask = torch.rand(2, 3, nq, nk, generator=torch.Generator().manual_seed(seed)) < 0.4
        index = BlockIndex.from_mask(
            mask.cuda(), query_block=tile[0], key_block=tile[1], query_tokens=1000, key_tokens=1000
        )
        padded = torch.zeros(index.ids.numel() + offset, dtype=torch.int16, device="cuda")
        moved = padded[offset:].view_as(index.ids).copy_(index.ids)
        out, lse = ops.block_sparse_attention(q, k, v, replace(index, ids=moved))
        wanted, wanted_lse = sparse_reference(q, k, v, index)
        close(out, wanted)
        close(lse, wanted_lse, 1e-3)


@pytest.mark.parametrize("rows", [64, 128])
def test_a_sparse_step_gets_back_what_its_search_saw_it_lose(rows):
    settings = {"sparsity": 0.6, "head_adaptive": False, "query_block_size": rows, "query_stride": 4}
    config = adaspa.AdaSpaConfig(warmup=1, searches=(1,), compensation="residual", **settings)
    state = adaspa.AdaSpaState(config.resolve())
    q, k, v = inputs(torch.bfloat16, 64)
    for step in range(3):
        state.begin_step(step)
        out = adaspa.attention(q, k, v, state)
    index = state.cache.index(state.key(0))
    dense, sparse = naive.attend(q, k, v)[0], sparse_reference(q.float(), k.float(), v.float(), index)[0]
    lost = [part.mean(2) for part in (dense - sparse).split(64, dim=2)]
    close(out, sparse + FADING * torch.stack(lost, dim=2).repeat_interleave(64, dim=2)[:, :, :1000])
    assert (out - sparse).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("block", [16, 64, 128])
def test_a_residual_is_added_to_the_queries_of_its_block(dtype, dim, block):
    out = torch.randn(2, 1000, 3, dim, device="cuda").to(dtype).transpose(1, 2)
    residual = torch.randn(2, 3, -(-1000 // block), dim, device="cuda").to(dtype)
    wanted = out.double()
    reference.add_residual(wanted, residual.double(), block, 0.75)
    ops.add_residual(out, residual, block, 0.75)
    close(out, wanted, 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("blocks", [(64, 64), (128, 64), (128, 128)])
def test_scores(dtype, dim, blocks):
    q, k, v = inputs(dtype, dim)
    scale = dim**-0.5
    blocks = {"query_block": blocks[0], "key_block": blocks[1]}
    _, cached = ops.dense_attention(q * 0.95, k, v)
    got = ops.attention_with_block_mass(q, k, v, cached, **blocks)
    wanted = reference.attention_with_block_mass(q, k, v, cached, **blocks, scale=scale)
    for a, b, tolerance in zip(got, wanted, (2e-2, 1e-3, 1e-3), strict=True):
        close(a, b, tolerance)
    for every in (1, 4, 16):
        close(
            ops.block_mass(q, k, cached, **blocks, query_stride=every),
            reference.block_mass(q, k, cached, **blocks, query_stride=every, scale=scale),
            1e-3,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("tokens", [1000, 4096])
@pytest.mark.parametrize("rows", [64, 128])
def test_scores_may_rise_far_above_the_first_ones(dtype, dim, tokens, rows):
    q, k, v = inputs(dtype, dim, tokens)
    k[0, 1, :64] *= 100  # the list is walked from its end
    q[1, 2, 64:128] *= 100
    k[1, 0, -64:] *= -100
    mask = torch.rand(2, 3, -(-tokens // rows), -(-tokens // 64), generator=torch.Generator().manual_seed(3)) < 0.4
    mask[..., 0] = mask[..., -1] = True
    index = BlockIndex.from_mask(mask.cuda(), query_block=rows, key_block=64, query_tokens=tokens, key_tokens=tokens)
    out, lse = ops.block_sparse_attention(q, k, v, index)
    wanted, wanted_lse = sparse_reference(q, k, v, index)
    close(out, wanted)
    close(lse, wanted_lse, 1e-3)
    dense_attention_is_right(q, k, v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("rise", [40, 80, 160])
@pytest.mark.parametrize("rows", [64, 128])
def test_scores_may_be_sharply_local(dtype, dim, rise, rows):
    """Each row's scores are some nats higher at its own place than a few tiles from it, and all lists end elsewhere."""
    q, k, v = inputs(dtype, dim, 2048)
    angle = torch.arange(2048, device="cuda") / 2048 * 4 * torch.pi
    q[..., :2] = k[..., :2] = torch.stack([angle.cos(), angle.sin()], -1) * (rise * dim**0.5 / 2) ** 0.5
    mask = torch.rand(2, 3, 2048 // rows, 32, generator=torch.Generator().manual_seed(3)) < 0.4
    mask |= torch.arange(2048 // rows).unsqueeze(1) == torch.arange(32) // (rows // 64)
    index = BlockIndex.from_mask(mask.cuda(), query_block=rows, key_block=64, query_tokens=2048, key_tokens=2048)
    wanted, wanted_lse = naive.attend(q, k, v, naive.token_mask(mask, rows, 2048, 2048, 64).cuda())
    out, lse = ops.block_sparse_attention(q, k, v, index)
    close(out, wanted)
    close(lse, wanted_lse, 1e-3)
    dense_attention_is_right(q, k, v)


@pytest.mark.parametrize("rise", [120, 140, 160])
@pytest.mark.parametrize("rows", [64, 128])
def test_scores_may_rise_with_large_values(rise, rows):
    q, k, v = inputs(torch.bfloat16, 128)
    q[..., 0], k[:, :, :64, 0] = 10, rise / 10 * 128**0.5
    v[:, 1] *= 2.0**14
    mask = torch.ones(2, 3, -(-1000 // rows), 16, dtype=torch.bool, device="cuda")
    index = BlockIndex.from_mask(mask, query_block=rows, key_block=64, query_tokens=1000, key_tokens=1000)
    out, lse = ops.block_sparse_attention(q, k, v, index)
    wanted, wanted_lse = naive.attend(q, k, v)
    unit = torch.tensor([1.0, 2.0**14, 1.0], device="cuda").view(3, 1, 1)
    close(out / unit, wanted / unit)
    close(lse, wanted_lse, 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("rows", [64, 128])
def test_scores_may_rise_by_many_nats_again_and_again(dtype, dim, rows):
    q, k, v = inputs(dtype, dim, 4096)
    tile = torch.arange(4096, device="cuda") // 128  # lists are walked from their end
    q[..., 0], k[..., 0] = 10, 8 * dim**0.5 * ((tile < 29).long() + (tile < 22) + (tile < 14))
    mask = torch.rand(2, 3, 4096 // rows, 64, generator=torch.Generator().manual_seed(3)) < 0.9
    index = BlockIndex.from_mask(mask.cuda(), query_block=rows, key_block=64, query_tokens=4096, key_tokens=4096)
    out, lse = ops.block_sparse_attention(q, k, v, index)
    wanted, wanted_lse = sparse_reference(q, k, v, index)
    close(out, wanted)
    close(lse, wanted_lse, 1e-3)
    dense_attention_is_right(q, k, v)
    cached = naive.attend(q, k, v)[1].float()
    got = ops.attention_with_block_mass(q, k, v, cached, query_block=128)
    wanted = reference.attention_with_block_mass(q, k, v, cached, 128, 64, dim**-0.5)
    for a, b, tolerance in zip(got, wanted, (2e-2, 1e-2, 1e-3), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
def test_a_program_has_many_query_tiles_and_walks_some_once_more(dtype, dim):
    q, k, v = (x.to(dtype).cuda() for x in naive.qkv(batch=1, heads=140, tokens=1000, dim=dim, dtype=torch.float32))
    out, mass, lse = ops.attention_with_block_mass(q, k, v, query_block=128)
    wanted = reference.attention_with_block_mass(q, k, v, lse, 128, 64, dim**-0.5)
    for got, true, tolerance in zip((out, mass, lse), wanted, (2e-2, 1e-3, 1e-3), strict=True):
        close(got, true, tolerance)
    k[0, ::7, :64] *= 100  # lists are walked from their end
    q[0, 1::7, 900:] *= 100
    for rows, blocks in ((128, 8), (64, 16)):
        counts = torch.randint(0, 17, (1, 140, blocks, 1), generator=torch.Generator().manual_seed(3))
        mask = torch.rand(1, 140, blocks, 16, generator=torch.Generator().manual_seed(4)).argsort(-1) < counts
        index = BlockIndex.from_mask(mask.cuda(), query_block=rows, key_block=64, query_tokens=1000, key_tokens=1000)
        out, lse = ops.block_sparse_attention(q, k, v, index)
        wanted, wanted_lse = sparse_reference(q, k, v, index)
        close(out, wanted)
        close(lse, wanted_lse, 1e-3)
    dense_attention_is_right(q, k, v)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nats", [-100, -20, 20, 100])
def test_a_stale_lse_leaves_the_output_right(dtype, nats):
    q, k, v = inputs(dtype, 128)
    wanted, wanted_lse = naive.attend(q, k, v)
    out, _, lse = ops.attention_with_block_mass(q, k, v, wanted_lse.float() + nats, query_block=128)
    close(out, wanted)
    close(lse, wanted_lse, 1e-3)


@pytest.mark.parametrize("compensation", ["none", "residual"])
@pytest.mark.parametrize("selection", ["top_k", "retained_mass"])
def test_sparse_steps_wait_for_nothing_and_run_in_a_cuda_graph(selection, compensation):
    q, k, v = inputs(torch.bfloat16, 128)
    own = {"selection": selection, "compensation": compensation}
    config = adaspa.AdaSpaConfig(**own, query_block_size=128, steps=4, warmup=1, searches=(1, 2))

    def attend(step):
        state.begin_step(step)
        return adaspa.attention(q, k, v, state)

    state = adaspa.AdaSpaState(config.resolve(4))
    for step in range(4):
        attend(step)  # compiles
    state = adaspa.AdaSpaState(config.resolve(4))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            attend(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(3)
    q.copy_(q.flip(2))
    graph.replay()
    torch.testing.assert_close(captured, attend(3), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [64, 128])
def test_nan_stays_in_its_head(rows):
    q, k, v = inputs(torch.bfloat16, 128)
    index = BlockIndex.from_mask(
        torch.ones(2, 3, 1024 // rows, 16, dtype=torch.bool, device="cuda"),
        query_block=rows, key_block=64, query_tokens=1000, key_tokens=1000,
    )  # fmt: skip
    clean, _ = ops.block_sparse_attention(q, k, v, index)
    q[0, 1, 5], v[1, 2, 7] = torch.nan, torch.nan
    out, _ = ops.block_sparse_attention(q, k, v, index)
    assert out[0, 1, 5].isnan().all() and out[1, 2].isnan().any()
    torch.testing.assert_close(out[0, 0], clean[0, 0])
    torch.testing.assert_close(out[0, 1, 6:], clean[0, 1, 6:])
    torch.testing.assert_close(out[1, :2], clean[1, :2])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("dim", DIMS)
def test_dense_attention(dtype, dim):
    q, k, v = inputs(dtype, dim)
    dense_attention_is_right(q, k, v)


@pytest.mark.parametrize("tokens", [1000, 9000])
@pytest.mark.parametrize("dim", [96, 128, 512])
def test_a_plain_dense_step(dim, tokens):
    q, k, v = inputs(torch.bfloat16, dim, tokens)
    close(
        adaspa.attention(q, k, v, adaspa.AdaSpaState(adaspa.AdaSpaConfig.preset("exact").resolve())),
        naive.attend(q, k, v)[0],
    )


@pytest.mark.parametrize(
    ("activation", "before", "width"), [("gelu_tanh", 3072, 12288), ("swiglu", 0, 14336), ("none", 0, 5120)]
)
def test_round_rows(activation, before, width):
    """At the sizes of HunyuanVideo and MiniMax-H3, with rows of zeros, with infinity and without a number."""
    x = 2 * torch.randn(300, width * (2 if activation == "swiglu" else 1), device="cuda", dtype=torch.bfloat16)
    first = torch.randn(300, before, device="cuda", dtype=torch.bfloat16)
    x[1], x[2, 5], x[3, 7], first[1] = 0, torch.inf, torch.nan, 0
    got, scales = ops.round_rows(x, activation, first)
    wanted, wanted_scales = reference.round_rows(x, first, activation)
    assert not got[1].float().any() and not got[2:4].float().isfinite().all(dim=1).any()
    rest = [0, 1, *range(4, 300)]
    torch.testing.assert_close(scales[rest], wanted_scales[rest], rtol=1e-5, atol=0)
    values, of_reference = (rows[rest].float() for rows in (got, wanted))
    assert ((values - of_reference).abs() <= of_reference.abs() / 8 + 2**-9).all(), "one step of e4m3"
    assert (values != of_reference).float().mean() < 1e-3


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("dim", [24, *DIMS])
def test_rotary(dtype, dim):
    x = naive.qkv(batch=2, heads=3, tokens=1000, dim=dim, dtype=dtype)[0].cuda().transpose(1, 2)
    angles = torch.rand(1000, dim // 2, device="cuda").repeat_interleave(2, dim=1) * 6
    cos, sin = angles.cos()[:, ::2], angles.sin()[:, ::2]
    close(ops.rotary(x, cos, sin), reference.rotary(x.double(), cos, sin), 1e-2)
    apart = torch.rand(*x.shape[:3], dim // 2, device="cuda") * 6
    cos, sin = apart.cos(), apart.sin()
    close(ops.rotary(x, cos, sin), reference.rotary(x.double(), cos, sin), 1e-2)


hopper = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)


def paired_index(seed):
    mask = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) < 0.4
    return BlockIndex.from_mask(mask.cuda(), query_block=64, key_block=64, query_tokens=1000, key_tokens=1000)


@hopper
def test_lists_of_neighbours_are_ordered_once_for_all_steps_of_a_stream():
    q, k, v = inputs(torch.bfloat16, 128)
    first, second = paired_index(3), paired_index(4)
    wanted = [sparse_reference(q, k, v, index)[0] for index in (first, second)]
    ops.block_sparse_attention(q, k, v, paired_index(5))  # compiles
    streams = [torch.cuda.current_stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for stream in streams:
            with torch.cuda.stream(stream):
                for _ in range(3):
                    for index, right in zip((first, second), wanted, strict=True):
                        close(ops.block_sparse_attention(q, k, v, index)[0], right)
        torch.cuda.synchronize()
    launches = [event.name for event in profiled.events() if event.name == "pair_lists_kernel"]
    assert len(launches) == 4


@hopper
def test_a_cuda_graph_follows_an_index_of_which_the_lists_are_overwritten():
    q, k, v = inputs(torch.bfloat16, 128)
    index, other = paired_index(3), paired_index(4)
    width = max(index.ids.shape[3], other.ids.shape[3])
    index, other = (replace(x, ids=torch.nn.functional.pad(x.ids, (0, width - x.ids.shape[3]))) for x in (index, other))
    ops.block_sparse_attention(q, k, v, index)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = ops.block_sparse_attention(q, k, v, index)
    index.ids.copy_(other.ids)
    index.counts.copy_(other.counts)
    graph.replay()
    close(out, sparse_reference(q, k, v, other)[0])


@hopper
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("tile", [None, (64, 64), (128, 64), (128, 128)])
def test_eight_bits(dtype, dim, tile):
    """As the reference, but for the rounding of the exponentials."""
    q, k, v = inputs(dtype, dim)
    k[..., 5] += 12
    if tile is None:
        out, lse = ops.dense_attention(q, k, v, precision="int8_fp8")
        wanted, wanted_lse = reference_eight.dense_attention(q, k, v, dim**-0.5)
    else:
        nq, nk = (-(-1000 // block) for block in tile)
        mask = torch.rand(2, 3, nq, nk, generator=torch.Generator().manual_seed(3)) < 0.4
        mask[1, 1, 1::2] = mask[1, 1, ::2]  # of neighbours of 64 rows, the same list
        mask[0, 0, 0] = False
        mask[1, 2, -1] = True
        geometry = {"query_block": tile[0], "key_block": tile[1], "query_tokens": 1000, "key_tokens": 1000}
        index = BlockIndex.from_mask(mask.cuda(), **geometry)
        out, lse = ops.block_sparse_attention(q, k, v, index, precision="int8_fp8")
        wanted, wanted_lse = reference_eight.block_sparse_attention(q, k, v, index, dim**-0.5)
    assert (out - wanted).float().norm() < 0.04 * wanted.float().norm()
    # In lists of a few blocks, single exponentials count: each is off by up to 6 %.
    close(lse, wanted_lse, 2e-2)


@hopper
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(("tile", "stride"), [((64, 64), 1), ((128, 128), 1), ((128, 64), 4), ((64, 64), 64)])
def test_block_mass_in_eight_bits(dtype, dim, tile, stride):
    q, k, v = inputs(dtype, dim)
    k[..., 5] += 12
    lse = naive.attend(q, k, v)[1].float() - 2
    given = {"query_block": tile[0], "key_block": tile[1], "query_stride": stride}
    mass = ops.block_mass(q, k, lse, **given, precision="int8_fp8")
    wanted = reference_eight.block_mass(q, k, lse, *tile, dim**-0.5, stride)
    assert (mass - wanted).norm() < 0.02 * wanted.norm()


@hopper
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("tokens", [1000, 1088])
def test_pairs_with_the_same_list_give_the_same_bits_as_one_block_in_eight_bits(dtype, dim, tokens):
    q, k, v = inputs(dtype, dim, tokens)
    drawn = torch.rand(2, 3, -(-tokens // 128), -(-tokens // 64), generator=torch.Generator().manual_seed(3))
    mask = drawn.cuda() < 0.5
    mask[0, 0, 0], mask[1, 2, -1], mask[:, :, 1, -1] = False, True, True
    geometry = {"key_block": 64, "query_tokens": tokens, "key_tokens": tokens}
    one = BlockIndex.from_mask(mask, query_block=128, **geometry)
    halves = mask.repeat_interleave(2, 2)[:, :, : -(-tokens // 64)]
    pairs = BlockIndex.from_mask(halves, query_block=64, **geometry)
    wanted, wanted_lse = ops.block_sparse_attention(q, k, v, one, precision="int8_fp8")
    out, lse = ops.block_sparse_attention(q, k, v, pairs, precision="int8_fp8")
    assert torch.equal(out, wanted) and torch.equal(lse, wanted_lse)


@hopper
@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_no_number_stays_in_its_head_in_eight_bits(sparse):
    q, k, v = inputs(torch.bfloat16, 128)
    mask = torch.ones(2, 3, 16, 16, dtype=torch.bool, device="cuda")
    mask[:, :, ::3, ::2] = False
    index = BlockIndex.from_mask(mask, query_block=64, key_block=64, query_tokens=1000, key_tokens=1000)

    def attention():
        if sparse:
            return ops.block_sparse_attention(q, k, v, index, precision="int8_fp8")[0]
        return ops.attention(q, k, v, precision="int8_fp8")

    clean = attention()
    q[0, 0, 5, 3], k[0, 1, 71, 0], v[1, 2, 9] = torch.nan, torch.inf, 3e38
    out = attention()
    assert torch.equal(out[0, 2], clean[0, 2]) and torch.equal(out[1, :2], clean[1, :2])
    assert out[0, 0].isnan().any(-1).nonzero().tolist() == [[5]]
    assert out[0, 1].isnan().all() and out[1, 2].isfinite().all()


@hopper
def test_eight_bits_are_refused_where_there_is_no_kernel():
    q, k, v = inputs(torch.bfloat16, 96, 128)
    with pytest.raises(ValueError, match=r"^precision must be 'full' here.*head_dim 96 is not one of \(64, 128\)"):
        ops.attention(q, k, v, precision="int8_fp8")


def test_an_index_on_the_cpu_is_refused():
    q, k, v = inputs(torch.bfloat16, 64, 128)
    mask = torch.ones(2, 3, 2, 2, dtype=torch.bool)
    index = BlockIndex.from_mask(mask, query_block=64, key_block=64, query_tokens=128, key_tokens=128)
    with pytest.raises(ValueError, match=r"^index must be on the device of q"):
        ops.block_sparse_attention(q, k, v, index)


def test_the_bench_command_compares_and_times_the_kernels():
    ended = adaspa_command("bench", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found["deviations"]) == 16
    assert all(max(row["max_abs_difference"]) < 0.05 for row in found["deviations"])
    dense, sparse = found["rows"][1:]
    assert sparse["density"] == pytest.approx(0.2, abs=0.01) and 0 < sparse["ms"] < dense["ms"]


def test_memory_after_twenty_requests_is_that_after_one():
    """Through the kernels, with list padding left out as for a large model, and some requests given up."""
    pipe = make_pipeline("wan")
    pipe.to("cuda", torch.bfloat16)
    handle = adaspa.apply(pipe.transformer, SPARSE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaspa.cache.WORTH_PACKING", 0)
        for request in range(20):
            if request % 3 == 1:
                cancel(pipe, seed=request)
                handle.reset()
            else:
                generate(pipe, seed=request)
            gc.collect()
            torch.cuda.synchronize()
            held = torch.cuda.memory_allocated()
            if request == 0:
                after_one = held
    assert held <= after_one
    assert handle.state is None
