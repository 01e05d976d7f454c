"""Tiny pipelines beside text-to-video: from a picture or a video, with two experts, in windows, modular."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tiny_families as whole
import tiny_pipelines as tiny
import tiny_transformers as others
import torch
from diffusers import (
    AllegroPipeline,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXVideoToVideoPipeline,
    EulerAncestralDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky6TI2VAPipeline,
    LTX2ConditionPipeline,
    LTX2HDRPipeline,
    LTX2InContextPipeline,
    LTXConditionPipeline,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
    LTXImageToVideoPipeline,
    LucyEditPipeline,
    MotifVideoPipeline,
    SkyReelsV2Pipeline,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines import WanBlocks
from PIL import Image

PICTURE = Image.new("RGB", (80, 48), (200, 30, 30))
LARGER = Image.new("RGB", (160, 96), (200, 30, 30))
SIZE = {"height": 48, "width": 80}
FRAMES = {**SIZE, "num_frames": 17}
TEXT = {"max_sequence_length": tiny.TEXT}
PROMPTS = {"prompt": "a red circle", "negative_prompt": "a blue square"}


class Variant(NamedTuple):
    """How to build a pipeline, and what to call it with; ``first`` is its first step where that is not 0."""

    pipeline: Callable[[], Any]
    call: dict[str, Any]
    first: int = 0


def built(cls: type, base: Callable[[], Any], *without: str, **parts: Any) -> Any:
    """A pipeline of the parts of another."""
    components = {name: part for name, part in base().components.items() if name not in without}
    return cls(**{**components, **parts})


def wan(in_channels: int, seed: int = 0) -> Any:
    """A transformer that takes a picture or a video beside the latents."""
    config = {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32}
    channels = {"in_channels": in_channels, "out_channels": 4}
    return tiny.prepare(WanTransformer3DModel(**tiny.HEADS, **channels, **config), seed)


def wan_experts() -> Any:
    return built(
        WanImageToVideoPipeline, whole.wan, transformer=wan(12), transformer_2=wan(12, seed=1), boundary_ratio=0.8
    )


def modular_wan() -> Any:
    pipe, base = WanBlocks().init_pipeline(), whole.wan()
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
    pipe.update_components(**{name: base.components[name] for name in names})
    return pipe


def hunyuan(cls: type, in_channels: int, **settings: Any) -> Callable[[], Any]:
    config = {"num_layers": 1, "num_single_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 16}
    config |= {"pooled_projection_dim": 8, "rope_axes_dim": (8, 8, 8), "in_channels": in_channels, "out_channels": 4}
    own = {"image_processor": None} if cls is HunyuanVideoImageToVideoPipeline else {}
    return lambda: built(
        cls,
        whole.hunyuan_video,
        transformer=tiny.prepare(HunyuanVideoTransformer3DModel(**tiny.HEADS, **config, **settings)),
        **own,
    )


def hunyuan_call() -> dict[str, Any]:
    call: dict[str, Any] = {"image": PICTURE, **FRAMES, "true_cfg_scale": 3.0}
    generator = torch.Generator().manual_seed(0)
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = torch.randn(1, tiny.TEXT, 16, generator=generator)
        call[f"{sign}pooled_prompt_embeds"] = torch.randn(1, 8, generator=generator)
        call[f"{sign}prompt_attention_mask"] = torch.ones(1, tiny.TEXT, dtype=torch.long)
    return call


def cogvideox(cls: type, in_channels: int) -> Callable[[], Any]:
    make = tiny.make_cogvideox
    return lambda: built(
        cls,
        whole.FAMILIES["cogvideox"].pipeline,
        transformer=make(use_rotary_positional_embeddings=True, in_channels=in_channels),
    )


def long_ltx() -> Any:
    return built(LTXI2VLongMultiPromptPipeline, whole.ltx, scheduler=LTXEulerAncestralRFScheduler())


def ltx2(cls: type) -> Callable[[], Any]:
    return lambda: built(cls, lambda: tiny.make_pipeline("ltx-2"), "processor", "prompt_enhancer", "duration_head")


def ltx2_call(**more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    call: dict[str, Any] = {**tiny.LTX_CALL, "stg_scale": 0.0, "modality_scale": 1.0, **more}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = torch.randn(1, tiny.TEXT, 16, generator=generator)
        call[f"{sign}prompt_attention_mask"] = torch.ones(1, tiny.TEXT, dtype=torch.long)
    return call


def by_embeddings(cls: type, transformer: Callable[[], Any], *without: str, vae: Any = None, **parts: Any) -> Any:
    """A pipeline that gets its texts as embeddings; ``without`` are its further components."""
    missing = dict.fromkeys(("text_encoder", "tokenizer", *without))
    return lambda: cls(**missing, vae=vae and vae(), transformer=transformer(), **{"scheduler": tiny.flow(), **parts})


def embeddings(**shapes: tuple[int, ...]) -> dict[str, Any]:
    """Random ones of both branches."""
    generator = torch.Generator().manual_seed(0)
    return {
        sign + name: torch.randn(1, *shape, generator=generator)
        for sign in ("", "negative_")
        for name, shape in shapes.items()
    }


def masks() -> dict[str, Any]:
    return {f"{sign}prompt_attention_mask": torch.ones(1, tiny.TEXT, dtype=torch.long) for sign in ("", "negative_")}


def wan_vae() -> Any:
    return whole.wan().vae


def vace() -> Any:
    return tiny.prepare(WanVACETransformer3DModel(**others.WAN, vace_layers=[0], vace_in_channels=72))


def motif() -> Any:
    return others.motif(in_channels=9)


WAN = PROMPTS | TEXT
EMBEDS = embeddings(prompt_embeds=(tiny.TEXT, 16))
QWEN = embeddings(prompt_embeds_qwen=(tiny.TEXT, 16), prompt_embeds_clip=(8,))
QWEN |= {f"{sign}prompt_cu_seqlens": torch.tensor([0, tiny.TEXT]) for sign in ("", "negative_")}
SQUARE = {"height": 128, "width": 128, "num_frames": 17}
LTX = {**PROMPTS, **TEXT, "height": 96, "width": 160}
VARIANTS = {
    "wan-image": Variant(
        lambda: built(WanImageToVideoPipeline, whole.wan, transformer=wan(12)), {"image": PICTURE, **FRAMES, **WAN}
    ),
    "wan-per-token": Variant(lambda: built(WanPipeline, whole.wan, expand_timesteps=True), {**FRAMES, **WAN}),
    "wan-video": Variant(
        lambda: built(WanVideoToVideoPipeline, whole.wan, "transformer_2"),
        {"video": [PICTURE] * 17, "strength": 0.5, **SIZE, **WAN},
        first=4,
    ),
    "wan-edit": Variant(
        lambda: built(LucyEditPipeline, whole.wan, transformer=wan(8)), {"video": [PICTURE] * 17, **FRAMES, **WAN}
    ),
    "wan-modular": Variant(modular_wan, {**FRAMES, **PROMPTS, "output_type": "pt"}),
    "hunyuan-video-image": Variant(
        hunyuan(HunyuanVideoImageToVideoPipeline, 9, image_condition_type="latent_concat"), hunyuan_call()
    ),
    "skyreels-image": Variant(hunyuan(HunyuanSkyreelsImageToVideoPipeline, 8), hunyuan_call()),
    "cogvideox-image": Variant(
        cogvideox(CogVideoXImageToVideoPipeline, 8), {"image": PICTURE, **FRAMES, **PROMPTS, **TEXT}
    ),
    "cogvideox-video": Variant(
        cogvideox(CogVideoXVideoToVideoPipeline, 4),
        {"video": [PICTURE] * 17, "strength": 0.5, **SIZE, **PROMPTS, **TEXT},
        first=4,
    ),
    "cogvideox-control": Variant(
        cogvideox(CogVideoXFunControlPipeline, 8), {"control_video": [PICTURE] * 17, **SIZE, **PROMPTS, **TEXT}
    ),
    "ltx-image": Variant(lambda: built(LTXImageToVideoPipeline, whole.ltx), {"image": LARGER, "num_frames": 33, **LTX}),
    "ltx-condition": Variant(
        lambda: built(LTXConditionPipeline, whole.ltx),
        {"image": LARGER, "num_frames": 33, "denoise_strength": 0.5, "latents": torch.zeros(1, 4, 5, 3, 5), **LTX},
        first=4,
    ),
    "ltx-2-condition": Variant(ltx2(LTX2ConditionPipeline), ltx2_call(spatio_temporal_guidance_blocks=[1])),
    "ltx-2-in-context": Variant(ltx2(LTX2InContextPipeline), ltx2_call(spatio_temporal_guidance_blocks=[1])),
    "ltx-2-hdr": Variant(ltx2(LTX2HDRPipeline), ltx2_call()),
    "skyreels-v2": Variant(
        by_embeddings(SkyReelsV2Pipeline, others.FAMILIES["skyreels-v2"].transformer), {**FRAMES, **EMBEDS}
    ),
    "wan-vace": Variant(by_embeddings(WanVACEPipeline, vace, vae=wan_vae), {**FRAMES, **EMBEDS}),
    "kandinsky-5": Variant(
        by_embeddings(Kandinsky5T2VPipeline, others.kandinsky5, "text_encoder_2", "tokenizer_2"), {**SQUARE, **QWEN}
    ),
    "kandinsky-6": Variant(
        by_embeddings(
            Kandinsky6TI2VAPipeline, lambda: others.kandinsky6(visual_cond=True), "text_encoder_2", "tokenizer_2"
        ),
        {**SQUARE, **embeddings(prompt_embeds=(tiny.TEXT, 16), pooled_prompt_embeds=(8,)), "sample_audio": False},
    ),
    "allegro": Variant(
        by_embeddings(AllegroPipeline, others.allegro, scheduler=EulerAncestralDiscreteScheduler()),
        {**FRAMES, **EMBEDS, **masks(), "negative_prompt": None},
    ),
    "motif-video": Variant(
        by_embeddings(MotifVideoPipeline, motif, vae=wan_vae, guider=ClassifierFreeGuidance(guidance_scale=3.0)),
        {**FRAMES, **EMBEDS, **masks()},
    ),
}
"""Those of one schedule."""
LONG_CALL = {"num_frames": 65, "temporal_tile_size": 40, "temporal_overlap": 16, "guidance_scale": 3.0, **LTX}


def run(pipe: Any, call: dict[str, Any], steps: int) -> None:
    """Call it, up to its latents."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    pipe(**{"output_type": "latent", **call}, num_inference_steps=steps, generator=generator)
