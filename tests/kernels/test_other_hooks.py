"""What others do to a transformer beside AdaSpa: step caches, guidance that skips layers, processors, copies."""

import copy
import io
import pickle
from dataclasses import replace

import adaspa
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from adaspa.state import AdaSpaState
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    HookRegistry,
    LayerSkipConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
    apply_layer_skip,
)
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tiny_pipelines import SPARSE, STEPS, generate, make_ltx2, make_pipeline

FULL = replace(SPARSE, sparsity=0.001, head_adaptive=False)
ALWAYS = (-1, 2000)


def faster_cache(tensor_format):
    return FasterCacheConfig(
        spatial_attention_timestep_skip_range=ALWAYS,
        unconditional_batch_timestep_skip_range=ALWAYS,
        current_timestep_callback=lambda: 500,
        attention_weight_callback=lambda _: 0.3,
        tensor_format=tensor_format,
    )


CACHES = {
    "sea": lambda: SeaCacheConfig(threshold=10.0),
    "mag": lambda: MagCacheConfig(threshold=1.0, mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS),
    "taylor": lambda: TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r".*blocks\.\d+\.attn1?"],
    ),
    "broadcast": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=ALWAYS,
        current_timestep_callback=lambda: 500,
    ),
    "faster": lambda: faster_cache("BFCHW"),
    "text": TextKVCacheConfig,
}


def run(pipe, family, **kwargs):
    pipe.transformer.adaspa.begin(STEPS)
    return generate(pipe, family, **kwargs)


@pytest.mark.parametrize(
    ("family", "cache", "first", "skips"),
    [
        ("wan", "sea", "apply", True),
        ("wan", "sea", "cache", True),
        ("wan", "mag", "apply", True),
        ("wan", "broadcast", "cache", True),
        ("hunyuan-video", "taylor", "apply", True),
        # These have a hook around the whole transformer, and no more for this model.
        ("hunyuan-video", "sea", "cache", False),
        ("mochi", "text", "cache", False),
        # It leaves out half of the batch in some steps, whose rest has patterns of its own.
        ("cogvideox", "faster", "cache", True),
        ("cogvideox", "faster", "apply", True),
    ],
)
def test_a_step_cache_composes_and_takes_nothing_along(family, cache, first, skips):
    pipe = make_pipeline(family)
    plain = generate(pipe, family)
    pipe.transformer.enable_cache(CACHES[cache]())
    cached = generate(pipe, family)
    if first == "apply":
        pipe.transformer.disable_cache()
    handle = adaspa.apply(pipe.transformer, FULL)
    if first == "apply":
        pipe.transformer.enable_cache(CACHES[cache]())
    torch.testing.assert_close(run(pipe, family), cached, rtol=1e-3, atol=1e-3)
    report = handle.report()
    assert (report["attention_calls"]["skipped"] > 0) == skips
    assert report["fell_back"] == []
    assert report["sparse_steps"] == 4
    everything = sum(report["attention_calls"].values())
    pipe.transformer.disable_cache()
    torch.testing.assert_close(run(pipe, family), plain, rtol=1e-4, atol=1e-4)
    report = handle.report()
    assert report["attention_calls"]["sparse"] == sum(report["attention_calls"].values()) / 2
    assert report["attention_calls"]["skipped"] == 0 and report["fell_back"] == []
    assert (sum(report["attention_calls"].values()) == everything) or cache == "faster"
    adaspa.remove(pipe.transformer)
    assert torch.equal(generate(pipe, family), plain)


def test_what_a_step_cache_skips_is_no_work():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, FULL)
    pipe.transformer.enable_cache(CACHES["broadcast"]())
    generate(pipe)
    calls = handle.report()["attention_calls"]
    assert calls["skipped"] == sum(calls.values()) / 2
    # Every second step was reused, the later search among the others: all blocks are kept, so a call is a dense one.
    assert handle.report()["attention_work"] == pytest.approx(0.5, abs=0.05)


def test_a_search_that_a_step_cache_skipped_is_made_up_for_in_the_next_step_that_runs():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, steps=STEPS, searches=(2, 4)))
    every_second = MagCacheConfig(1.0, 1, 0.5, STEPS, mag_ratios=[1.0] * STEPS)  # from the middle on, the first skipped
    pipe.transformer.enable_cache(every_second)
    run(pipe, "wan")
    report = handle.report()
    assert report["reused_forwards"] == 4 and report["fell_back"] == []
    layers = len(pipe.transformer.blocks)
    assert [pattern.step for pattern in handle.record.patterns] == 2 * layers * [2] + 2 * layers * [5]


def test_a_search_that_a_step_cache_skipped_in_one_branch_is_made_up_for_by_another_that_uses_its_lists(monkeypatch):
    searched, add = [], AdaSpaState.add_pattern

    def watched(state, key, pattern):
        searched.append((state.branch, key.branch))
        add(state, key, pattern)

    monkeypatch.setattr(AdaSpaState, "add_pattern", watched)
    pipe = make_pipeline("wan")
    adaspa.apply(pipe.transformer, replace(SPARSE, steps=STEPS, searches=(2, 3, 4, 5, 6), share_lists=True))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.73))
    run(pipe, "wan")
    assert ("uncond", "cond") in searched
    assert pipe.transformer.adaspa.report()["fell_back"] == []


@pytest.mark.parametrize("first", ["apply", "cache"])
def test_remove_leaves_a_cache_in_place(first):
    pipe = make_pipeline("cogvideox")
    pipe.transformer.enable_cache(CACHES["faster"]())
    cached = generate(pipe, "cogvideox")
    if first == "apply":
        pipe.transformer.disable_cache()
    adaspa.apply(pipe.transformer, FULL)
    if first == "apply":
        pipe.transformer.enable_cache(CACHES["faster"]())
    adaspa.remove(pipe.transformer)
    assert torch.equal(generate(pipe, "cogvideox"), cached)


def test_guidance_that_skips_layers_is_no_fallback():
    pipe = make_pipeline("wan")
    apply_layer_skip(pipe.transformer, LayerSkipConfig(indices=[1], fqn="blocks"))
    plain = generate(pipe)
    handle = adaspa.apply(pipe.transformer, FULL)
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)
    report = handle.report()
    assert report["attention_calls"]["skipped"] == 2 * STEPS
    assert report["fell_back"] == []


def test_spatio_temporal_guidance_is_no_fallback():
    pipe = make_pipeline("ltx-2.3")
    handle = adaspa.apply(pipe.transformer, SPARSE)
    run(pipe, "ltx-2.3")
    report = handle.report()
    assert report["attention_calls"]["skipped"] == STEPS  # one of the two layers, in the further branch
    assert report["fell_back"] == []


def test_layers_under_a_mask_are_told():
    transformer = make_ltx2()
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "hidden_states": (75, 4),
        "audio_hidden_states": (6, 128),
        "encoder_hidden_states": (8, 16),
        "audio_encoder_hidden_states": (8, 16),
    }
    given = {name: torch.randn(1, *shape, generator=generator) for name, shape in shapes.items()}
    given |= {"timestep": torch.tensor([900.0]), "num_frames": 5, "height": 3, "width": 5, "audio_num_frames": 6}
    handle = adaspa.apply(transformer, replace(SPARSE, warmup=0, searches=(0,)))
    handle.begin(steps=STEPS, branches=1)
    with torch.no_grad(), transformer.cache_context("cond", step_index=0, num_inference_steps=STEPS):
        transformer(**given, video_self_attention_mask=torch.ones(1, 75, 75))
    report = handle.report()
    assert report["attention_work"] == 1
    assert report["attention_calls"] == {"dense": 2, "search": 0, "sparse": 0, "skipped": 0}
    assert report["fell_back"] == ["layers 0-1 used the model's own mask between video tokens (2 calls)"]


def test_attention_that_ran_elsewhere_is_told():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, SPARSE)
    attn = pipe.transformer.blocks[1].attn1
    attn.forward = lambda hidden_states, *_, **__: hidden_states
    generate(pipe)
    report = handle.report()
    assert report["fell_back"] == [f"layer 1 did not run through AdaSpa ({2 * STEPS} calls)"]
    assert report["attention_calls"]["skipped"] == 0


def test_layers_that_the_budget_leaves_dense_are_told():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, cache_budget=150, over_budget="dense"))
    generate(pipe)
    report = handle.report()
    (reason,) = report["fell_back"]
    assert "stayed dense: block lists or residuals do not fit into cache_budget" in reason
    assert report["refused_layers"]
    calls = report["attention_calls"]
    assert calls["dense"] > 8 and calls["dense"] + calls["search"] + calls["sparse"] == 2 * 2 * STEPS


class Own(WanAttnProcessor):
    """Somebody's own processor."""


def test_an_attention_processor_of_somebody_else_is_not_replaced():
    pipe = make_pipeline("wan")
    mine = Own()
    pipe.transformer.blocks[1].attn1.set_processor(mine)
    wanted = generate(pipe)
    with pytest.raises(ValueError, match=r"^blocks.1.attn1 must have WanAttnProcessor .* replaces; got Own$"):
        adaspa.apply(pipe.transformer, SPARSE)
    assert pipe.transformer.blocks[1].attn1.processor is mine
    assert type(pipe.transformer.blocks[0].attn1.processor) is WanAttnProcessor
    assert not hasattr(pipe.transformer, "adaspa")
    assert torch.equal(generate(pipe), wanted)


def test_an_attention_processor_set_over_ours_is_noticed():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, FULL)
    plain = generate(pipe)
    pipe.transformer.blocks[1].attn1.set_processor(WanAttnProcessor())
    with pytest.raises(RuntimeError, match=r"^blocks.1.attn1 has another .* WanAttnProcessor: call adaspa.apply again"):
        generate(pipe)
    assert adaspa.apply(pipe.transformer, FULL) is handle
    assert torch.equal(generate(pipe), plain)
    pipe.transformer.blocks[1].attn1.set_processor(Own())
    with pytest.raises(ValueError, match=r"^blocks.1.attn1 must have "):
        adaspa.apply(pipe.transformer, FULL)
    adaspa.remove(pipe.transformer)
    assert type(pipe.transformer.blocks[1].attn1.processor) is Own


def test_fusing_the_projections_of_cogvideox_is_noticed():
    pipe = make_pipeline("cogvideox")
    plain = generate(pipe, "cogvideox")
    handle = adaspa.apply(pipe.transformer, FULL)
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(RuntimeError, match=r"FusedCogVideoXAttnProcessor2_0: call adaspa.apply again"):
        run(pipe, "cogvideox")
    adaspa.apply(pipe.transformer, FULL)
    torch.testing.assert_close(run(pipe, "cogvideox"), plain, rtol=1e-4, atol=1e-4)
    assert handle.report()["attention_calls"]["sparse"] == 2 * 4
    # Unfusing brings back what there was: with AdaSpa its processors, after it diffusers' own.
    pipe.transformer.unfuse_qkv_projections()
    torch.testing.assert_close(run(pipe, "cogvideox"), plain, rtol=1e-4, atol=1e-4)
    pipe.transformer.fuse_qkv_projections()
    adaspa.remove(pipe.transformer)
    pipe.transformer.unfuse_qkv_projections()
    assert type(pipe.transformer.transformer_blocks[0].attn1.processor) is CogVideoXAttnProcessor2_0
    torch.testing.assert_close(generate(pipe, "cogvideox"), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_a_forward_past_the_hook_is_refused(family):
    """As some step caches do it, which put a forward of their own over the transformer's."""
    pipe = make_pipeline(family)
    adaspa.apply(pipe.transformer, FULL)
    pipe.transformer.forward = type(pipe.transformer).forward.__get__(pipe.transformer)
    with pytest.raises(RuntimeError, match=r"^the transformer was called past AdaSpa's hook"):
        generate(pipe, family)
    adaspa.remove(pipe.transformer)
    generate(pipe, family)


def test_a_hook_that_was_taken_away_by_name_is_noticed_and_removed_cleanly():
    pipe = make_pipeline("wan")
    plain = generate(pipe)
    adaspa.apply(pipe.transformer, FULL)
    HookRegistry.check_if_exists_or_initialize(pipe.transformer).remove_hook("adaspa")
    with pytest.raises(RuntimeError, match=r"^the transformer was called past AdaSpa's hook"):
        generate(pipe)
    adaspa.remove(pipe.transformer)
    assert torch.equal(generate(pipe), plain)


def test_a_copy_needs_an_apply_of_its_own():
    pipe = make_pipeline("wan")
    plain = generate(pipe)
    adaspa.apply(pipe.transformer, FULL)
    for attempt in (copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
        with pytest.raises(TypeError, match=r"can be neither copied nor pickled: adaspa.remove\(transformer\) first"):
            attempt(pipe.transformer)
    torch.save(pipe.transformer.state_dict(), io.BytesIO())
    adaspa.remove(pipe.transformer)
    original, pipe.transformer = pipe.transformer, copy.deepcopy(pipe.transformer)
    pickle.dumps(pipe.transformer)
    for model in (original, pipe.transformer):
        adaspa.apply(model, FULL)
    for parameter in original.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)
    assert original.adaspa.report()["sparse_steps"] == 0


@pytest.mark.parametrize("order", ["cache, offload", "offload, cache"])
def test_cpu_offload_around_or_within_a_cache_leaves_it_in_place(order):
    """What enable_model_cpu_offload does, and does again behind every pipeline call, without a device to move to."""
    family = "hunyuan-video"
    pipe = make_pipeline(family)
    plain = generate(pipe, family)
    for what in order.split(", "):
        if what == "cache":
            pipe.transformer.enable_cache(CACHES["sea"]())
        else:
            add_hook_to_module(pipe.transformer, ModelHook())
    handle = adaspa.apply(pipe.transformer, FULL)
    for _ in range(2):
        torch.testing.assert_close(run(pipe, family), plain, rtol=1e-4, atol=1e-4)
        assert handle.report()["sparse_steps"] == 4
        remove_hook_from_module(pipe.transformer, recurse=True)
        add_hook_to_module(pipe.transformer, ModelHook())
    pipe.transformer.disable_cache()
    torch.testing.assert_close(run(pipe, family), plain, rtol=1e-4, atol=1e-4)
    assert handle.report()["sparse_steps"] == 4
    remove_hook_from_module(pipe.transformer, recurse=True)
    adaspa.remove(pipe.transformer)
    assert torch.equal(generate(pipe, family), plain)


def test_group_offloading_and_layerwise_casting_compose():
    pipe = make_pipeline("wan")
    plain = generate(pipe)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float32, compute_dtype=torch.float32)
    handle = adaspa.apply(pipe.transformer, FULL)
    pipe.transformer.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)
    report = handle.report()
    assert report["sparse_steps"] == 4 and report["fell_back"] == []
