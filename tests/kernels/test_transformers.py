"""AdaSpa in a tiny transformer of every model family that has no tiny pipeline."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import adaspa
import pytest
import torch
from adaspa.models.minimax_h3 import MiniMaxH3
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimatePipeline,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2VPipeline,
    MiniMaxH3Scheduler,
    SkyReelsV2Transformer3DModel,
)
from diffusers.models.transformers import transformer_kandinsky, transformer_kandinsky6_sr
from diffusers.modular_pipelines import MiniMaxH3ModularPipeline, SequentialPipelineBlocks
from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3SetTimestepsStep
from diffusers.modular_pipelines.minimax_h3.denoise import MiniMaxH3DenoiseStep
from tiny_pipelines import SPARSE, STEPS, TEXT, prepare
from tiny_transformers import (
    CONDITIONS,
    FAMILIES,
    GRID,
    SMALLER,
    WAN,
    Inputs,
    allegro,
    by_text,
    channels_last,
    denoise,
    kandinsky5,
    kandinsky6_sr,
    packed,
    packed_latents,
    placed,
)
from torch.utils._python_dispatch import TorchDispatchMode

FULL = replace(SPARSE, sparsity=0.001, head_adaptive=False)
WAITING = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten._unique2}
PACKED = [name for name, tiny in FAMILIES.items() if sum(tiny.others)]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def transformer(family):
    return FAMILIES[family].transformer()


def close(got, wanted, family):
    # Kandinsky 5 rounds queries and keys to bfloat16, where the last bit may fall either way.
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3 if family == "kandinsky-5" else 1e-4)


def kinds(handle):
    report = handle.report()
    assert report["fell_back"] == []
    return report["dense_steps"], report["search_steps"], report["sparse_steps"]


@cache
def unpatched(family, steps=STEPS):
    """What the transformer comes to without AdaSpa."""
    return denoise(FAMILIES[family].transformer(), family, steps=steps)


def test_density_one_equals_the_unpatched_transformer_and_remove_restores_it(transformer, family):
    """Without a schedule two steps tell as much as eight."""
    plain = denoise(transformer, family, steps=2)
    processors = [module.processor for module in transformer.modules() if hasattr(module, "processor")]
    handle = adaspa.apply(transformer, FULL)
    close(denoise(transformer, family), unpatched(family), family)
    report = handle.report()
    assert (report["density"], report["recall"]) == (1, pytest.approx(1))
    assert kinds(handle) == (2, 2, 4)
    adaspa.remove(transformer)
    assert [module.processor for module in transformer.modules() if hasattr(module, "processor")] == processors
    assert torch.equal(denoise(transformer, family, steps=2), plain)


def test_sparse_requests_of_other_sizes_follow_each_other(transformer, family):
    handle = adaspa.apply(transformer, SPARSE)
    first = denoise(transformer, family)
    assert not torch.allclose(first, unpatched(family), atol=1e-3)
    assert kinds(handle) == (2, 2, 4)
    assert 0.3 < handle.report()["density"] < 0.9
    denoise(transformer, family, SMALLER)
    assert kinds(handle) == (2, 2, 4)
    assert torch.equal(denoise(transformer, family), first)


def test_tile_order_changes_the_blocks_and_not_the_attention(transformer, family):
    """In a dense step, two that search and a sparse one."""
    handle = adaspa.apply(transformer, replace(FULL, token_order="tile"))
    if not FAMILIES[family].tiles:
        with pytest.raises(ValueError, match=r"^token_order must be 'raster'"):
            denoise(transformer, family, steps=1)
        return
    close(denoise(transformer, family, steps=4), unpatched(family, steps=4), family)
    assert kinds(handle) == (1, 2, 1)
    handle.configure(SPARSE)
    raster = denoise(transformer, family, steps=4)
    handle.configure(replace(SPARSE, token_order="tile"))
    assert not torch.allclose(denoise(transformer, family, steps=4), raster, atol=1e-3)


def patterns(transformer, family, seed=0):
    """The block masks ``[H, nq, nk]`` of each layer at the first sparse step, by guidance branch."""
    handle, found = adaspa.apply(transformer, SPARSE.replace(steps=4, searches=(2,))), {}

    def look():
        if handle.step == 3:
            cache = handle.state.cache
            found.update({(key.layer, key.branch): cache.index(key).to_mask()[0] for key in cache.held()})

    denoise(transformer, family, seed=seed, steps=4, look=look)
    return found


def test_guidance_branches_have_patterns_of_their_own(transformer, family):
    differ = []
    for seed in range(4):
        found = patterns(transformer, family, seed)
        # The first layer sees the same video in both branches: only behind it the text has made a difference.
        last = max(layer for layer, _ in found)
        differ.append(not torch.equal(found[last, "0"], found[last, "1"]))
    assert any(differ)


@pytest.mark.parametrize("family", PACKED)
def test_rows_that_are_not_video_are_dense_queries_and_kept_keys(transformer, family):
    """The blocks start where the video starts, whatever stands before it: 4 of 16 rows hold nothing but video."""
    for mask in patterns(transformer, family).values():
        assert mask.shape[-1] == -(-(75 + sum(FAMILIES[family].others)) // 16)
        assert mask[:, 4:].all() and mask[:, :, 4:].all()
        assert not mask[:, :4, :4].all()


@pytest.mark.parametrize("family", ["minimax-h3", "framepack"])
def test_plain_dense_steps_copy_no_rows_to_bring_the_video_first(transformer, family):
    def joined():
        with patch.object(torch, "cat", wraps=torch.cat) as cat:
            denoise(transformer, family)
        return sum(call.args[0][0].ndim >= 3 for call in cat.call_args_list)  # those of channels

    plain = joined()
    handle = adaspa.apply(transformer, adaspa.AdaSpaConfig.preset("exact"))
    dense = joined()
    assert dense <= plain
    handle.configure(SPARSE)
    # MiniMax-H3's arguments say where each row of the sequence is: it has the video first from the beginning.
    assert (joined() == dense) == (family == "minimax-h3")


@pytest.mark.parametrize("family", ["framepack"])
def test_only_two_stream_blocks_copy_queries_keys_and_values_to_join_video_and_text(transformer, family):
    adaspa.apply(transformer, adaspa.AdaSpaConfig.preset("exact"))
    with patch.object(torch, "cat", wraps=torch.cat) as cat:
        denoise(transformer, family)
    of_heads = sum(call.args[0][0].ndim == 4 for call in cat.call_args_list)
    assert of_heads == 3 * len(transformer.transformer_blocks) * 2 * STEPS


@pytest.mark.parametrize("family", ["minimax-h3"])
def test_a_sequence_with_the_video_first_gives_the_same_as_one_whose_rows_move_in_every_layer(transformer, family):
    handle = adaspa.apply(transformer, SPARSE)
    found = denoise(transformer, family)
    assert handle.report()["attention_calls"]["sparse"] > 0
    with patch.object(MiniMaxH3, "video_first", return_value=None):
        moved = denoise(transformer, family)
    torch.testing.assert_close(found, moved)


@pytest.mark.parametrize("family", ["minimax-h3", "framepack"])
def test_a_sparse_video_never_changes_what_other_rows_attend_to(transformer, family):
    """Whatever the layer gets, in a sparse step, the rows before and behind the video come out as if it were dense."""
    adaspa.apply(transformer, SPARSE)
    before, behind = FAMILIES[family].others
    if family == "minimax-h3":
        before, behind = 0, before + behind
    qkv = torch.randn(3, 1, before + 75 + behind, 2, 24, generator=torch.Generator().manual_seed(1)) * 2
    dense = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2)
    handle, seen = transformer.adaspa, []
    layers = [module.processor for module in transformer.modules() if hasattr(module, "processor")]
    processor = next(processor for processor in layers if hasattr(processor, "handle") and processor.layer == 1)

    def within(*_):
        if handle.step == 3:
            seen.append(processor.attend(list(qkv), []))

    registration = transformer.proj_out.register_forward_hook(within)
    denoise(transformer, family)
    registration.remove()
    assert len(seen) == 2
    for out in seen:
        others = [slice(0, before), slice(before + 75, None)]
        for rows in others:
            torch.testing.assert_close(out[:, rows], dense[:, rows])
        assert not torch.allclose(out[:, before : before + 75], dense[:, before : before + 75], atol=1e-3)


def a_request(transformer, *forwards):
    """The outputs of forwards, each a step of its own, of a request that searches in its first step."""
    handle = adaspa.apply(transformer, replace(SPARSE, warmup=0, searches=(0,)))
    handle.begin(STEPS, branches=1)
    with torch.no_grad():
        return handle, [transformer(**given, return_dict=False)[0] for given in forwards]


MASKED = {
    "skyreels-v2": lambda: (prepare(SkyReelsV2Transformer3DModel(**WAN, num_frame_per_block=2)), {}),
    "allegro": lambda: (allegro(), {"attention_mask": torch.ones(1, 4, 6, 8)}),
}


@pytest.mark.parametrize("family", MASKED)
def test_a_mask_between_video_tokens_stays_the_models_own(family):
    transformer, mask = MASKED[family]()
    inputs = Inputs((4, 3, 4))
    given = {"hidden_states": inputs.latents(), "timestep": torch.tensor([900.0]), **mask}
    given |= FAMILIES[family].branches(inputs)[0]
    with torch.no_grad():
        plain = transformer(**given, return_dict=False)[0]
    handle, outputs = a_request(transformer, given, given)
    assert all(torch.equal(output, plain) for output in outputs)
    assert handle.report()["fell_back"] == ["layers 0-1 used the model's own mask between video tokens (4 calls)"]


def nabla_5():
    transformer = kandinsky5(attention_type="nabla", attention_P=0.6, attention_wT=1, attention_wH=1, attention_wW=1)
    pipe = Kandinsky5T2VPipeline(transformer, *[None] * 5, scheduler=FlowMatchEulerDiscreteScheduler())
    inputs = Inputs((2, 16, 16))
    latents = channels_last(inputs)
    given = {**placed(inputs)[0], "sparse_params": pipe.get_sparse_params(latents, latents.device)}
    return transformer, {"hidden_states": latents, **given}


def nabla_6():
    return kandinsky6_sr(), {"hidden_states": Inputs((2, 16, 16)).latents(9).movedim(1, -1)}


@pytest.mark.parametrize(
    ("made", "module", "mask"),
    [(nabla_5, transformer_kandinsky, "nablaT_v2"), (nabla_6, transformer_kandinsky6_sr, "nabla_block_mask")],
)
def test_nabla_of_kandinsky_runs_on_our_kernel(made, module, mask, monkeypatch):
    """Its pattern in every step, against diffusers' own mask, token by token: 2 x 16 x 16 tokens in blocks of 8 x 8.

    Flex attention, which diffusers gives the mask to, goes by tokens unless it is compiled.
    """
    by_block = getattr(module, mask)

    def by_token(*args, **kwargs):
        blocks = by_block(*args, **kwargs).to_dense().bool()
        return blocks.repeat_interleave(64, -1).repeat_interleave(64, -2)

    monkeypatch.setattr(module, mask, by_token)
    transformer, given = made()
    given["timestep"] = torch.tensor([900.0])
    with torch.no_grad():
        plain = transformer(**given, return_dict=False)[0]
    handle, outputs = a_request(transformer, given, given)
    for output in outputs:
        close(output, plain, "kandinsky-5")
    report = handle.report()
    assert report["kernels"] == {"block_sparse_attention": {"reference": 4}}
    assert report["attention_calls"] == {"dense": 0, "search": 0, "sparse": 4, "skipped": 0}
    assert report["attention_work"] == pytest.approx(report["density"], abs=1e-6)
    assert 0.2 < report["density"] < 0.95 and report["recall_is_estimate"]
    reason = "layers 0-1 used the model's own mask between video tokens (4 calls)"
    assert report["fell_back"] == [reason]


def test_frames_that_leave_during_a_request_have_patterns_of_their_own():
    """As in ChronoEdit, which reasons in all frames at first, and then goes on with the first and the last."""
    transformer = FAMILIES["chronoedit"].transformer()
    inputs = Inputs(GRID)
    given = {"hidden_states": inputs.latents(), "timestep": torch.tensor([900.0]), **by_text(inputs)[0]}
    shorter = given | {"hidden_states": given["hidden_states"][:, :, [0, -1]]}
    handle, _ = a_request(transformer, given, given, shorter, shorter)
    assert handle.report()["attention_calls"] == {"dense": 0, "search": 4, "sparse": 4, "skipped": 0}


class Pipe(SimpleNamespace):
    """As much of a pipeline as is asked for."""


@pytest.mark.parametrize("called_with", [lambda sigma: sigma, lambda sigma: sigma / (sigma + 1)])
def test_a_model_that_is_called_with_noise_levels_follows_its_scheduler(called_with):
    """As in Cosmos 2.5 and 2, in two calls without names for their branches."""
    transformer, scheduler = FAMILIES["cosmos"].transformer(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = Pipe(components={"transformer": transformer}, scheduler=scheduler)
    (handle,) = adaspa.apply(pipe, SPARSE)
    inputs = Inputs(GRID)
    latents, branches = inputs.latents(), by_text(inputs)
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for step, timestep in enumerate(scheduler.timesteps):
            sigma = called_with(scheduler.sigmas[step]).expand(1)
            first, second = (transformer(latents, sigma, **branch, return_dict=False)[0] for branch in branches)
            latents = scheduler.step(first + second, timestep, latents, return_dict=False)[0]
    assert kinds(handle) == (2, 2, 4)


def test_a_pipeline_ends_the_request_of_a_transformer_that_diffusers_does_not_reset():
    """EasyAnimate's has no cache of diffusers; behind two calls each has its report, and no cache is left."""
    vae = AutoencoderKLMagvit(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    transformer = FAMILIES["easyanimate"].transformer()
    pipe = EasyAnimatePipeline(
        vae=vae, text_encoder=None, tokenizer=None, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    (handle,) = adaspa.apply(pipe, SPARSE)
    texts, mask = Inputs(GRID).texts(), torch.ones(1, TEXT, dtype=torch.long)
    for _ in range(2):
        pipe(
            **dict(zip(("prompt_embeds", "negative_prompt_embeds"), texts, strict=True)),
            **dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), mask),
            **{"height": 48, "width": 80, "num_frames": 17, "num_inference_steps": STEPS, "output_type": "latent"},
        )
        assert handle.state is None
        assert kinds(handle) == (2, 2, 4)
    adaspa.remove(pipe)
    assert not hasattr(transformer, "_reset_stateful_cache")


@pytest.mark.parametrize("family", ["minimax-h3"])
def test_the_rows_of_a_forward_are_read_once(transformer, family):
    """On a GPU each reading waits for the step before, and so would a tensor whose size depends on values."""

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            assert call.overloadpacket not in WAITING, call
            return call(*args, **(kwargs or {}))

    whole, read = torch.Tensor.tolist, []
    given, _ = packed(Inputs(GRID))
    with Waits(), patch.object(torch.Tensor, "tolist", lambda rows: read.append(rows) or whole(rows)):
        layout = MiniMaxH3().layout(transformer, given)
    assert len(read) == 1
    assert (layout.grid, layout.before, layout.behind) == (GRID, FAMILIES[family].others[0], 0)


def test_minimax_h3_follows_the_video_schedule_of_its_pipeline():
    """Its own denoising loop: one forward a step for video and sound, each with a schedule."""
    steps = {"set_timesteps": MiniMaxH3SetTimestepsStep(), "denoise": MiniMaxH3DenoiseStep()}
    pipe = MiniMaxH3ModularPipeline(blocks=SequentialPipelineBlocks.from_blocks_dict(steps))
    schedulers = {"scheduler": MiniMaxH3Scheduler(shift=12.0), "audio_scheduler": MiniMaxH3Scheduler(shift=3.0)}
    pipe.update_components(transformer=FAMILIES["minimax-h3"].transformer(), **schedulers)
    pipe.set_progress_bar_config(disable=True)
    (handle,) = adaspa.apply(pipe, SPARSE)
    inputs = Inputs(GRID)
    latents, layout = packed_latents(inputs), packed(inputs)[0]
    given = {"prompt_embeds": layout.pop("encoder_hidden_states"), "num_condition_video_rows": CONDITIONS}
    sound, _ = layout.pop("audio_hidden_states"), layout.pop("timestep_indices")
    given |= {name: layout[name] for name in ("video_indices", "audio_indices", "text_indices")}
    # Nothing is evaluated at the last of the noise levels.
    for levels, wanted in ((STEPS + 1, (2, 2, 4)), (2 * STEPS + 1, (4, 2, 10))):
        rows = {"latents": latents[0].clone(), "audio_latents": sound[0].clone()}
        pipe(num_inference_steps=levels, **rows, **given, denoiser_input_fields=layout)
        assert kinds(handle) == wanted
