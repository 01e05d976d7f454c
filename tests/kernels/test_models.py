"""AdaSpa in a tiny pipeline of every supported model family."""

from dataclasses import replace
from functools import cache

import adaspa
import pytest
import torch
from adaspa.patch import SUPPORTED
from diffusers.hooks import FirstBlockCacheConfig
from peft import LoraConfig
from tiny_pipelines import SPARSE, STEPS, TINY, generate, make_hunyuan_video, make_ltx2, make_pipeline
from tiny_transformers import FAMILIES, kandinsky6_sr

FULL = replace(SPARSE, sparsity=0.001, head_adaptive=False)
SHORT = {"steps": 4, "warmup": 1, "searches": (1, 3)}
"""A dense step, a search, a sparse step, and a search by an earlier LSE."""
JOINT = [family for family, tiny in TINY.items() if tiny.joint]


@pytest.fixture(params=TINY)
def family(request):
    return request.param


@pytest.fixture
def pipe(family):
    return make_pipeline(family)


@cache
def unpatched(family, prompts=1, steps=STEPS):
    """What the pipeline comes to without AdaSpa."""
    return generate(make_pipeline(family), family, prompts=prompts, steps=steps)


def kinds(handle):
    report = handle.report()
    return report["dense_steps"], report["search_steps"], report["sparse_steps"]


def is_restored(pipe, family):
    """Whether the pipeline does as without AdaSpa, which has no schedule then: two steps tell as much as eight."""
    return torch.equal(generate(pipe, family, steps=2), unpatched(family, steps=2))


def test_every_supported_model_is_tested():
    built = [tiny.transformer() for tiny in (*TINY.values(), *FAMILIES.values())] + [kandinsky6_sr()]
    assert {type(transformer).__name__ for transformer in built} == set(SUPPORTED)


@pytest.mark.parametrize(("prompts", "changes", "wanted"), [(1, {}, (2, 2, 4)), (2, SHORT, (1, 2, 1))])
def test_density_one_equals_the_unpatched_pipeline(pipe, family, prompts, changes, wanted):
    config = replace(FULL, **changes)
    handle = adaspa.apply(pipe.transformer, config)
    found = generate(pipe, family, prompts=prompts, steps=config.steps)
    torch.testing.assert_close(found, unpatched(family, prompts, config.steps), rtol=1e-4, atol=1e-4)
    report = handle.report()
    assert report["density"] == 1
    assert report["recall"] == pytest.approx(1)
    assert kinds(handle) == wanted


def test_bfloat16(pipe, family):
    """As models are run; compared after two steps, before the rounding errors have grown."""
    pipe.to(torch.bfloat16)
    plain = generate(pipe, family, steps=2).float()
    handle = adaspa.apply(pipe.transformer, replace(FULL, warmup=0, searches=(0,)))
    difference = generate(pipe, family, steps=2).float() - plain
    assert handle.report()["sparse_steps"] == 1
    assert difference.norm() < 0.08 * plain.norm()
    handle.configure(SPARSE)
    generate(pipe, family, steps=4)
    assert handle.report()["sparse_steps"] == 1


def test_sparse_runs_end_to_end_and_remove_restores(pipe, family):
    layers = [module for module in pipe.transformer.modules() if hasattr(module, "processor")]
    processors = [layer.processor for layer in layers]
    handle = adaspa.apply(pipe.transformer, SPARSE)
    first = generate(pipe, family)
    assert not torch.allclose(first, unpatched(family), atol=1e-3)
    report = handle.report()
    assert kinds(handle) == (2, 2, 4)
    assert 0.3 < report["density"] < 0.8
    assert 0 < report["recall"] < 1
    replaced = sum(layer.processor is not processor for layer, processor in zip(layers, processors, strict=True))
    assert replaced == len(report["layers"])
    assert handle.state is None
    assert torch.equal(generate(pipe, family), first)
    adaspa.remove(pipe.transformer)
    assert [layer.processor for layer in layers] == processors
    assert is_restored(pipe, family)


def test_tile_order_changes_the_blocks_and_not_the_attention(pipe, family):
    handle = adaspa.apply(pipe.transformer, replace(FULL, **SHORT, token_order="tile"))
    torch.testing.assert_close(generate(pipe, family, steps=4), unpatched(family, steps=4), rtol=1e-4, atol=1e-4)
    assert kinds(handle) == (1, 2, 1)
    handle.configure(replace(SPARSE, **SHORT))
    raster = generate(pipe, family, steps=4)
    handle.configure(replace(SPARSE, **SHORT, token_order="tile"))
    assert not torch.allclose(generate(pipe, family, steps=4), raster, atol=1e-3)
    adaspa.remove(pipe.transformer)
    assert is_restored(pipe, family)


def patterns(pipe, family, **kwargs):
    """The block masks ``[H, nq, nk]`` of each layer at the first sparse step, one for each CFG branch and sample."""
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, steps=4, searches=(2,)))
    found = {}

    def look(*_):
        if handle.step == 3:
            for key in handle.state.cache.held():
                masks = handle.state.cache.index(key).to_mask()
                for row in range(len(masks)):
                    found.setdefault(key.layer, {})[key.branch, key.sample or row] = masks[row]

    registration = pipe.transformer.register_forward_hook(look)
    generate(pipe, family, steps=4, **kwargs)
    registration.remove()
    return found


def test_guidance_branches_have_patterns_of_their_own(pipe, family):
    def differ(seed):
        masks = patterns(pipe, family, seed=seed)
        # The first layer sees the same video in both branches: only behind it the text has made a difference.
        one, other = list(masks[max(masks)].values())[:2]
        return one.shape != other.shape or not torch.equal(one, other)

    assert any(differ(seed) for seed in range(4))


@pytest.mark.parametrize("family", JOINT)
def test_text_is_a_sink(pipe, family):
    """75 video tokens: the text starts within the fifth block of 16 and ends in the sixth."""
    for masks in patterns(pipe, family).values():
        for mask in masks.values():
            assert mask[:, 4:].all() and mask[:, :, 4:].all()
            assert not mask[:, :4, :4].all()


@pytest.mark.parametrize("family", ["hunyuan-video", "mochi"])
def test_samples_of_a_batch_do_not_depend_on_each_other(pipe, family):
    """The texts of the two samples differ in length."""
    both = patterns(pipe, family, prompts=2)
    assert all(len(masks) == 4 for masks in both.values())
    assert len({mask.shape for masks in both.values() for mask in masks.values()}) > 1


def test_hunyuan_video_with_a_first_frame_in_place():
    """Image-to-video by token_replace: the first frame has a modulation of its own, so the tokens must stay."""
    transformer = make_hunyuan_video(image_condition_type="token_replace", guidance_embeds=False)
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_states": (4, 5, 6, 10), "encoder_hidden_states": (8, 16), "pooled_projections": (8,)}
    given = {name: torch.randn(1, *shape, generator=generator) for name, shape in shapes.items()}
    given |= {"timestep": torch.tensor([900.0]), "encoder_attention_mask": torch.ones(1, 8, dtype=torch.long)}
    with torch.no_grad():
        plain = transformer(**given).sample
        handle = adaspa.apply(transformer, replace(FULL, warmup=0, searches=(0,)))
        handle.begin(STEPS, branches=1)
        torch.testing.assert_close(transformer(**given).sample, plain, rtol=1e-4, atol=1e-5)
        handle.configure(replace(SPARSE, token_order="tile"))
        with pytest.raises(ValueError, match=r"^token_order must be 'raster'"):
            transformer(**given)
    assert handle.state is None


def test_ltx2_under_a_mask_between_video_tokens_stays_dense():
    """As with an IC-LoRA, whose reference tokens stand behind the video."""
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
    mask = (torch.rand(1, 75, 75, generator=generator) > 0.5).float()
    with torch.no_grad():
        plain = transformer(**given, video_self_attention_mask=mask).sample
        handle = adaspa.apply(transformer, replace(SPARSE, warmup=0, searches=(0,)))
        handle.begin(STEPS, branches=1)
        for timestep in (900.0, 800.0):
            given["timestep"] = torch.tensor([timestep])
            out = transformer(**given, video_self_attention_mask=mask).sample
            if timestep == 900.0:
                assert torch.equal(out, plain)
        assert handle.report()["density"] == 1


def test_frames_that_a_clip_of_ltx2_comes_to_are_dense_queries_and_kept_keys():
    """They stand behind its 75 tokens, as LTX-2's condition pipeline puts them."""
    transformer = make_ltx2()
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_states": (90, 4), "audio_hidden_states": (6, 128)}
    shapes |= dict.fromkeys(("encoder_hidden_states", "audio_encoder_hidden_states"), (8, 16))
    given = {name: torch.randn(1, *shape, generator=generator) for name, shape in shapes.items()}
    given |= {"video_coords": torch.rand(1, 3, 90, 2, generator=generator), "timestep": torch.tensor([900.0])}
    sizes = {"num_frames": 5, "height": 3, "width": 5, "audio_num_frames": 6}
    handle = adaspa.apply(transformer, replace(SPARSE, warmup=0, searches=(0,)))
    handle.begin(STEPS, branches=1)
    with torch.no_grad():
        transformer(**given, **sizes)
    cache = handle.state.cache
    for key in cache.held():
        mask = cache.index(key).to_mask()[0]
        assert mask[:, 4:].all() and mask[:, :, 4:].all()
        assert not mask[:, :4, :4].all()


def test_a_mask_with_holes_is_refused():
    pipe = make_pipeline("mochi")
    adaspa.apply(pipe.transformer, SPARSE)
    holes = torch.tensor([[1, 0, 1, 0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"^encoder_attention_mask must have the valid tokens"):
        generate(pipe, "mochi", prompt_attention_mask=holes)


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_lora_composes(pipe, family):
    handle = adaspa.apply(pipe.transformer, FULL)
    bare = generate(pipe, family)
    targets = ["to_q", "to_k", "to_v", "to_out.0"] if family == "wan" else ["to_q", "to_k", "to_v", "add_q_proj"]
    torch.manual_seed(3)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted = generate(pipe, family)
    assert not torch.allclose(adapted, bare, atol=1e-3)
    assert handle.report()["sparse_steps"] == 4
    adaspa.remove(pipe.transformer)
    torch.testing.assert_close(generate(pipe, family), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "threshold", "last"),
    [
        ("wan", 0.5, "blocks.1.ffn"),
        ("hunyuan-video", 1.0, "single_transformer_blocks.1.proj_mlp"),
        ("cogvideox", 1.0, "transformer_blocks.1.ff"),
    ],
)
def test_first_block_cache_composes(pipe, family, threshold, last):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    computed, called = [], []
    counters = [
        pipe.transformer.register_forward_hook(lambda *_: called.append(handle.step)),
        pipe.transformer.get_submodule(last).register_forward_hook(lambda *_: computed.append(handle.step)),
    ]
    first = generate(pipe, family)
    for counter in counters:
        counter.remove()
    assert 0 < len(computed) < len(called), "some blocks must have been skipped, some not"
    assert handle.report()["sparse_steps"] == 4
    assert torch.equal(generate(pipe, family), first)
    pipe.transformer.disable_cache()


def test_cogvideox_with_fused_projections():
    pipe = make_pipeline("cogvideox")
    plain = generate(pipe, "cogvideox")
    pipe.transformer.fuse_qkv_projections()
    handle = adaspa.apply(pipe.transformer, FULL)
    torch.testing.assert_close(generate(pipe, "cogvideox"), plain, rtol=1e-4, atol=1e-4)
    assert handle.report()["layers"]
    # Fusing after the fact replaces every processor: remove has none of its own left to take out.
    pipe.transformer.fuse_qkv_projections()
    adaspa.remove(pipe.transformer)
    torch.testing.assert_close(generate(pipe, "cogvideox"), plain, rtol=1e-4, atol=1e-4)


def test_an_unknown_model_is_refused_with_the_supported_ones():
    with pytest.raises(ValueError, match=r"^transformer must be one of WanTransformer3DModel, .*, got") as error:
        adaspa.apply(torch.nn.Linear(2, 2))
    assert all(name in str(error.value) for name in SUPPORTED)
