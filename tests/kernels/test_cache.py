"""The caches of a request: within their budget, and gone at its end."""

import gc
from dataclasses import replace
from weakref import WeakKeyDictionary

import adaspa
import pytest
import torch
from adaspa.cache import CacheEntry, CacheKey, RequestCache
from adaspa.packed_index import PackedIndex
from tiny_pipelines import SPARSE, cancel, generate, make_pipeline


@pytest.fixture
def pipe():
    return make_pipeline("wan")


def held(pipe, **kwargs):
    """The most bytes that the cache held on the device during a generation, and what came out."""
    handle, most = pipe.transformer.adaspa, []
    hook = pipe.transformer.register_forward_hook(lambda *_: most.append(handle.state.cache.nbytes))
    latents = generate(pipe, **kwargs)
    hook.remove()
    return max(most), latents


def test_over_budget_the_caches_go_to_the_host_and_nothing_else_changes(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    everything, wanted = held(pipe)
    assert handle.report()["host_bytes"] == 0
    for budget in (0, everything // 3, everything):
        handle.configure(replace(SPARSE, cache_budget=budget))
        most, latents = held(pipe)
        report = handle.report()
        assert most <= budget and report["cache_bytes"] <= budget
        assert (report["host_bytes"] > 0) == (budget < everything)
        assert torch.equal(latents, wanted)


def test_over_budget_layers_stay_dense_where_that_is_wanted(pipe):
    plain = generate(pipe)
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, cache_budget=0, over_budget="dense"))
    most, latents = held(pipe)
    torch.testing.assert_close(latents, plain, rtol=1e-4, atol=1e-5)
    report = handle.report()
    assert most == report["cache_bytes"] == report["host_bytes"] == 0
    assert report["refused_layers"] == [0, 1]
    assert report["density"] == 1
    # Room for the lists of the first layer, but not for those of the second or for an LSE.
    handle.configure(replace(SPARSE, cache_budget=100, over_budget="dense"))
    most, latents = held(pipe, guidance=1.0)
    report = handle.report()
    assert 0 < most <= 100
    assert report["refused_layers"] == [1]
    assert [layer["layer"] for layer in report["layers"]] == [0]
    assert report["density"] < 0.5


@pytest.mark.parametrize("spill", [True, False])
def test_an_index_takes_the_place_of_the_newest_lses(spill):
    mask = torch.eye(16, dtype=torch.bool).expand(1, 1, 16, 16)
    index = adaspa.BlockIndex.from_mask(mask, query_block=16, key_block=16, query_tokens=256, key_tokens=256)
    lse = torch.arange(5.0).reshape(1, 1, 5)  # 20 bytes; the index has 64 without padding
    cache = RequestCache(100, spill=spill)
    for layer in range(5):
        cache.put(CacheKey("", layer), CacheEntry(lse=lse + layer))
    cache.put(CacheKey("", 0), CacheEntry(lse=lse, index=index))
    assert torch.equal(cache.index(CacheKey("", 0)).to_mask(), mask)
    # Of the others the oldest stays, and there is no room for its own.
    assert [cache.has(CacheKey("", layer))[0] for layer in range(5)] == (
        [True] * 5 if spill else [False, True] + 3 * [False]
    )
    assert (cache.nbytes, cache.host_nbytes) == (64 + 20, 4 * 20 if spill else 0)
    if spill:
        assert all(torch.equal(cache.lse(CacheKey("", layer)), lse + layer) for layer in range(5))
    # An index that does not fit anyway displaces nothing.
    cache.put(CacheKey("", 1), CacheEntry(index=index))
    cache.put(CacheKey("", 2), CacheEntry(lse=lse))
    before = cache.nbytes
    cache.put(CacheKey("", 3), CacheEntry(index=index))
    assert cache.nbytes == before
    assert cache.refused == (set() if spill else {CacheKey("", 1), CacheKey("", 3)})


def test_a_packed_index_is_the_index_without_its_padding():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 3, 7, 9, generator=generator) < torch.tensor([0.1, 0.4, 0.8]).view(3, 1, 1)
    mask[0, 0, 2] = True
    mask[1, 1, 3] = False
    index = adaspa.BlockIndex.from_mask(mask, query_block=16, key_block=16, query_tokens=110, key_tokens=140)
    packed = PackedIndex.pack(index)
    listed = mask.sum() - 9 * mask.all(-1).sum()
    assert packed.nbytes == 2 * int(listed) + 2 * mask[..., 0].numel()
    assert torch.equal(packed.unpack(torch.device("cpu")).to_mask(), mask)


@pytest.mark.parametrize("budget", [0, 10**9])
def test_under_a_budget_an_index_and_what_is_kept_with_it_go_with_the_call(budget):
    """Hopper's kernels keep a second copy of small lists as long as their index is there."""
    mask, key = torch.eye(4, dtype=torch.bool).expand(1, 2, 4, 4), CacheKey(0, 0)
    index = adaspa.BlockIndex.from_mask(mask, query_block=16, key_block=16, query_tokens=64, key_tokens=64)
    cache, kept = RequestCache(budget), WeakKeyDictionary()
    cache.put(key, CacheEntry(index=index))
    del index
    kept[cache.index(key)] = "its lists, ordered"
    gc.collect()
    assert not kept


def test_padding_is_left_out_where_it_takes_much_memory(monkeypatch):
    """Head-adaptive selection makes the lists of most heads narrower than those of a few."""
    mask = torch.zeros(1, 8, 12, 12, dtype=torch.bool)
    mask[:, :, :, :3] = True
    mask[:, 0, :, :9] = True
    index = adaspa.BlockIndex.from_mask(mask, query_block=16, key_block=16, query_tokens=192, key_tokens=192)
    kept = []
    for smallest in (2**22, 0):
        monkeypatch.setattr("adaspa.cache.WORTH_PACKING", smallest)
        cache = RequestCache()
        cache.put(CacheKey("", 0), CacheEntry(index=index))
        assert torch.equal(cache.index(CacheKey("", 0)).to_mask(), mask)
        kept.append(cache.nbytes)
    assert kept[0] == index.nbytes
    assert kept[1] == 2 * int(mask.sum()) + 2 * 8 * 12
    # Lists of one length have no padding to leave out.
    even = adaspa.BlockIndex(index.ids[..., :3].contiguous(), index.counts.clamp(max=3), 16, 16, 192, 192)
    cache = RequestCache()
    cache.put(CacheKey("", 0), CacheEntry(index=even))
    assert cache.index(CacheKey("", 0)) is even


def tensor_bytes():
    gc.collect()
    return sum(thing.nbytes for thing in gc.get_objects() if type(thing) is torch.Tensor)


def test_memory_after_twenty_requests_is_that_after_one(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)

    generate(pipe, steps=4)
    handle.reset()
    after_one = tensor_bytes()
    for request in range(1, 20):
        if request % 3:
            generate(pipe, seed=request, steps=4)
        else:
            cancel(pipe, seed=request)
            handle.reset()
    generate(pipe, steps=4)
    assert tensor_bytes() == after_one
