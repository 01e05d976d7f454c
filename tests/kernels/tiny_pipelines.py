"""A tiny pipeline of random weights for each model family; every one denoises 75 video tokens in 8 steps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import adaspa
import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2 import LTX2TextConnectors

STEPS = 8
TEXT = 8  # text tokens, of 16 channels
HEADS = {"num_attention_heads": 2, "attention_head_dim": 24}
CHANNELS = {"in_channels": 4, "out_channels": 4}
SPARSE = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16, steps=STEPS, warmup=2, searches=(2, 5))
BARE = {"tokenizer": None, "text_encoder": None, "vae": None}
TWO_TEXTS = {"tokenizer_2": None, "text_encoder_2": None}
PIXELS = {"height": 48, "width": 80, "num_frames": 17}


class Tiny(NamedTuple):
    """How to build a family's pipeline, and how to call it with random text embeddings.

    ``masked`` if its text has a padding mask, ``joint`` if its text is in the self-attention sequence.
    """

    pipeline: Callable[[], Any]
    transformer: Callable[[], Any]
    call: dict[str, Any]
    inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({"prompt_embeds": (TEXT, 16)})
    masks: Mapping[str, str] = MappingProxyType({})
    joint: bool = False


def prepare(model, seed=0):
    """Random weights with larger queries, so that attention is not flat and skipping blocks shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm_q" in name or "norm_added_q" in name:
            parameter.data.fill_(4.0)
        elif parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1:].numel() ** 0.5)
        elif name.endswith("bias"):
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def flow(**settings):
    return FlowMatchEulerDiscreteScheduler(shift=3.0, **settings)


def make_wan(seed=0):
    return prepare(
        WanTransformer3DModel(
            **HEADS, **CHANNELS, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32
        ),
        seed,
    )


def make_wan_pipeline(**experts):
    experts = {"transformer": make_wan(), **experts}
    return WanPipeline(**BARE, scheduler=flow(), **experts)


def make_hunyuan_video(**settings):
    settings = {**HEADS, **CHANNELS, **settings}
    return prepare(
        HunyuanVideoTransformer3DModel(
            num_layers=1,
            num_single_layers=2,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(8, 8, 8),
            **settings,
        )
    )


def make_hunyuan_video_pipeline():
    return HunyuanVideoPipeline(
        **BARE,
        **TWO_TEXTS,
        scheduler=flow(),
        transformer=make_hunyuan_video(),
    )


def make_hunyuan_video15(**settings):
    settings = {"image_embed_dim": 8, **settings}
    return prepare(
        HunyuanVideo15Transformer3DModel(
            **HEADS,
            in_channels=9,
            out_channels=4,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=16,
            rope_axes_dim=(8, 8, 8),
            **settings,
        )
    )


def make_hunyuan_video15_pipeline():
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    pipe = HunyuanVideo15Pipeline(
        **{**BARE, "vae": vae},
        **TWO_TEXTS,
        scheduler=flow(),
        transformer=make_hunyuan_video15(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )
    pipe.vision_num_semantic_tokens = 4
    return pipe


def make_cogvideox(**settings):
    settings = {**CHANNELS, "max_text_seq_length": TEXT, **settings}
    return prepare(
        CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            time_embed_dim=16,
            text_embed_dim=16,
            num_layers=2,
            sample_width=10,
            sample_height=6,
            sample_frames=17,
            **settings,
        )
    )


def cogvideox_pipeline(transformer):
    return lambda: CogVideoXPipeline(**BARE, scheduler=CogVideoXDDIMScheduler(), transformer=transformer())


def make_cogvideox_rotary():
    return make_cogvideox(use_rotary_positional_embeddings=True)


def make_cogvideox15():
    return make_cogvideox(use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False)


def make_ltx():
    return prepare(
        LTXVideoTransformer3DModel(**HEADS, **CHANNELS, cross_attention_dim=48, num_layers=2, caption_channels=16)
    )


def make_ltx_pipeline():
    return LTXPipeline(**BARE, scheduler=flow(), transformer=make_ltx())


def make_ltx2(**settings):
    return prepare(
        LTX2VideoTransformer3DModel(
            **HEADS,
            **CHANNELS,
            cross_attention_dim=48,
            audio_num_attention_heads=2,
            audio_attention_head_dim=12,
            audio_cross_attention_dim=24,
            num_layers=2,
            caption_channels=16,
            **settings,
        )
    )


def make_ltx2_gated():
    return make_ltx2(rope_type="split", gated_attn=True, perturbed_attn=True)


def ltx2_pipeline(transformer):
    def make():
        heads = {
            f"{kind}_connector_{name}": value
            for kind in ("video", "audio")
            for name, value in {
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 1,
                "num_learnable_registers": None,
            }.items()
        }
        connectors = prepare(LTX2TextConnectors(caption_channels=16, text_proj_in_factor=1, **heads))
        return LTX2Pipeline(
            scheduler=flow(),
            vae=AutoencoderKLLTX2Video(
                latent_channels=4,
                block_out_channels=(8,),
                decoder_block_out_channels=(8,),
                layers_per_block=(1, 1),
                decoder_layers_per_block=(1, 1),
                spatio_temporal_scaling=(True,),
                decoder_spatio_temporal_scaling=(True,),
                decoder_inject_noise=(False, False),
                downsample_type=("spatial",),
                upsample_residual=(False,),
                upsample_factor=(1,),
                patch_size=1,
                spatial_compression_ratio=32,
                temporal_compression_ratio=8,
            ),
            audio_vae=AutoencoderKLLTX2Audio(ch_mult=(1,), num_res_blocks=1),
            text_encoder=None,
            tokenizer=None,
            connectors=connectors,
            transformer=transformer(),
            vocoder=None,
        )

    return make


def make_mochi():
    return prepare(
        MochiTransformer3DModel(
            **HEADS,
            **CHANNELS,
            num_layers=2,
            pooled_projection_dim=16,
            text_embed_dim=16,
            time_embed_dim=8,
            max_sequence_length=TEXT,
        )
    )


def make_mochi_pipeline():
    return MochiPipeline(**BARE, scheduler=flow(invert_sigmas=True), transformer=make_mochi())


MASK = {"prompt_embeds": "prompt_attention_mask"}
LTX_CALL = {"height": 96, "width": 160, "num_frames": 33}
TINY = {
    "wan": Tiny(make_wan_pipeline, make_wan, PIXELS),
    "hunyuan-video": Tiny(
        make_hunyuan_video_pipeline,
        make_hunyuan_video,
        PIXELS,
        {"prompt_embeds": (TEXT, 16), "pooled_prompt_embeds": (8,)},
        MASK,
        joint=True,
    ),
    "hunyuan-video-1.5": Tiny(
        make_hunyuan_video15_pipeline,
        make_hunyuan_video15,
        PIXELS,
        {"prompt_embeds": (TEXT, 16), "prompt_embeds_2": (4, 16)},
        {"prompt_embeds": "prompt_embeds_mask", "prompt_embeds_2": "prompt_embeds_mask_2"},
        joint=True,
    ),
    "cogvideox-2b": Tiny(cogvideox_pipeline(make_cogvideox), make_cogvideox, PIXELS, joint=True),
    "cogvideox": Tiny(cogvideox_pipeline(make_cogvideox_rotary), make_cogvideox_rotary, PIXELS, joint=True),
    "cogvideox-1.5": Tiny(
        cogvideox_pipeline(make_cogvideox15), make_cogvideox15, {**PIXELS, "num_frames": 33}, joint=True
    ),
    "ltx": Tiny(make_ltx_pipeline, make_ltx, LTX_CALL, masks=MASK),
    "ltx-2": Tiny(ltx2_pipeline(make_ltx2), make_ltx2, LTX_CALL, masks=MASK),
    "ltx-2.3": Tiny(
        ltx2_pipeline(make_ltx2_gated),
        make_ltx2_gated,
        # Spatio-temporal guidance: a further branch, in which one layer passes its values on.
        {**LTX_CALL, "stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1]},
        masks=MASK,
    ),
    "mochi": Tiny(make_mochi_pipeline, make_mochi, {**PIXELS, "num_frames": 25}, masks=MASK, joint=True),
}


def make_pipeline(family):
    pipe = TINY[family].pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, family="wan", *, guidance=3.0, prompts=1, seed=1, steps=STEPS, **kwargs):
    """Latents for random prompts, whose texts differ in length where the family masks the padding."""
    tiny, device = TINY[family], pipe.transformer.device
    generator = torch.Generator().manual_seed(seed)
    arguments = {**tiny.call}
    for sign, first_length in (("", TEXT - 1), ("negative_", 3)):
        for name, shape in tiny.inputs.items():
            embeddings = torch.randn(prompts, *shape, generator=generator)
            arguments[sign + name] = embeddings.to(device, pipe.transformer.dtype)
            if name in tiny.masks:
                lengths = first_length - torch.arange(prompts).unsqueeze(1)
                arguments[sign + tiny.masks[name]] = (torch.arange(shape[0]) < lengths).long().to(device)
    if family == "hunyuan-video":
        arguments["true_cfg_scale"] = guidance
    elif family != "hunyuan-video-1.5":
        arguments["guidance_scale"] = guidance
    frames = pipe(
        num_inference_steps=steps, generator=generator, output_type="latent", **{**arguments, **kwargs}
    ).frames
    assert frames.isfinite().all()
    return frames


def cancel(pipe, seed=5):
    """Give a generation up at step 4, by an exception out of the pipeline's callback."""

    class Cancelled(Exception):
        pass

    def raise_at_four(pipe, step, timestep, tensors):
        if step == 4:
            raise Cancelled
        return tensors

    with pytest.raises(Cancelled):
        generate(pipe, seed=seed, callback_on_step_end=raise_at_four)
