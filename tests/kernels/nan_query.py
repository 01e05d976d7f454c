"""What a query token that is not a number must leave alone, for the references and for the kernels."""

import adaspa
import naive_attention as naive
import torch


def nan_query_harms_no_other(selection, text, dtype, **settings):
    """A NaN in one query token of the second head, in the search and in a sparse step after it."""
    chosen = {"mass": 0.6} if selection == "retained_mass" else {"sparsity": 0.6, "head_adaptive": False}
    config = adaspa.AdaSpaConfig(block_size=16, warmup=0, searches=(0,), selection=selection, **chosen, **settings)
    q, k, v = naive.qkv(tokens=90, dtype=dtype)
    nan = q.clone()
    nan[0, 1, 40] = torch.nan
    clean, got = adaspa.AdaSpaState(config.resolve()), adaspa.AdaSpaState(config.resolve())
    for step in range(2):
        clean.begin_step(step)
        got.begin_step(step)
        wanted = adaspa.attention(q, k, v, clean, text=text)
        out = adaspa.attention(nan, k, v, got, text=text)
        assert torch.equal(out[:, 0], wanted[:, 0])
        assert torch.equal(out[:, 1, :32], wanted[:, 1, :32])
        assert torch.equal(out[:, 1, 48:], wanted[:, 1, 48:])
        assert out[:, 1, 40].isnan().all()
    index = got.cache.index(got.key(0))
    listed = index.counts <= index.ids.shape[-1]
    assert (listed | (index.counts == index.num_key_blocks)).all()
    # The rest of its block attends to everything, for lack of weights.
    dense, _ = naive.attend(q, k, v)
    rest = [token for token in range(32, 48) if token != 40]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(out[:, 1, rest].double(), dense[:, 1, rest], rtol=tolerance, atol=tolerance)
