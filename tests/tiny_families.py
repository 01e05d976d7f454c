"""A tiny pipeline of random weights for each model family, whole: with text encoders, tokenizer and VAE."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import tiny_pipelines as tiny
import tiny_transformers as transformers
import torch
from adaspa_api.words import Task
from adaspa_worker.engines.minimax_h3 import ImageProcessor
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMiniMaxH3,
    AutoencoderKLMiniMaxH3Audio,
    AutoencoderKLMochi,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    LTX2ConditionPipeline,
    LTX2Pipeline,
    LTXConditionPipeline,
    LTXPipeline,
    MiniMaxH3Blocks,
    MiniMaxH3ModularPipeline,
    MiniMaxH3Scheduler,
    MochiPipeline,
    MochiTransformer3DModel,
    ModularPipeline,
    WanBlocks,
    WanImageToVideoPipeline,
    WanModularPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder, LTX2VocoderWithBWE
from diffusers.pipelines.ltx2.duration_head import LTX2DurationHead
from tiny_wan import make_vae
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "moving", "left", "right"]
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
DECODER = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
BLOCKS = (8, 8, 8, 8)
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
QWEN_MARKS = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
QWEN_MARKS |= {kind: f"<|{kind}_pad|>" for kind in ("image", "video")}
MARKS = ["<image>", "<|end_header_id|>", "<|eot_id|>"]
LLAVA_TEMPLATE = {
    "template": "<image> a <|end_header_id|> a <|end_header_id|> {} <|eot_id|> a a <|end_header_id|>",
    "crop_start": 5,
    "image_emb_start": 0,
    "image_emb_end": 4,
    "image_emb_len": 4,
}
"""What is around a text for HunyuanVideo's image models, of which the pipeline cuts away all but the text itself."""


class Family(NamedTuple):
    """How to build a family's pipeline, and what its catalog entry has.

    ``shorter`` shortens its texts, which would be most of a tiny model's tokens; ``call`` is the rest of the entry's,
    and ``entry`` the rest of the entry.
    """

    pipeline: Callable[[], Any]
    size: str
    frames: int
    shorter: dict[str, Any]
    call: Mapping[str, Any] = MappingProxyType({})
    entry: Mapping[str, Any] = MappingProxyType({})


def tokenizer(**own: Any) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", chat_template=CHAT, **own
    )


def wan(words: Any = tokenizer, count: int = len(WORDS)) -> WanPipeline:
    vae = make_vae(0.1, 0.9)
    return WanPipeline(
        text_encoder=UMT5EncoderModel(UMT5Config(**T5 | {"vocab_size": count})),
        tokenizer=words(),
        vae=vae,
        scheduler=tiny.flow(),
        transformer=tiny.make_wan(),
    )


def wan_modular() -> WanModularPipeline:
    pipe = WanModularPipeline(blocks=WanBlocks())
    parts = wan().components
    pipe.update_components(**{name: part for name, part in parts.items() if name in pipe.pretrained_component_names})
    return pipe


def hunyuan_video() -> HunyuanVideoPipeline:
    clip = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(LlamaConfig(**DECODER, vocab_size=len(WORDS), num_hidden_layers=2)),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=tokenizer(),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=BLOCKS, layers_per_block=1, norm_num_groups=4
        ),
        scheduler=tiny.flow(),
        transformer=tiny.make_hunyuan_video(),
    )


def hunyuan_video15() -> HunyuanVideo15Pipeline:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    qwen = Qwen2_5_VLTextConfig(**DECODER, vocab_size=len(WORDS), num_hidden_layers=3, rope_parameters=rope)
    return HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(qwen),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(**T5 | {"vocab_size": 384})),
        tokenizer_2=ByT5Tokenizer(),
        vae=AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(*BLOCKS, 8), layers_per_block=1),
        scheduler=tiny.flow(),
        transformer=tiny.make_hunyuan_video15(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )


def cogvideox(scheduler: Any, transformer: Callable[[], Any]) -> Callable[[], CogVideoXPipeline]:
    return lambda: CogVideoXPipeline(
        text_encoder=T5EncoderModel(T5Config(**T5)),
        tokenizer=tokenizer(),
        vae=AutoencoderKLCogVideoX(latent_channels=4, block_out_channels=BLOCKS, layers_per_block=1, norm_num_groups=4),
        scheduler=scheduler(),
        transformer=transformer(),
    )


def ltx(**vae: Any) -> LTXPipeline:
    return LTXPipeline(
        text_encoder=T5EncoderModel(T5Config(**T5)),
        tokenizer=tokenizer(),
        vae=AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=BLOCKS,
            decoder_block_out_channels=BLOCKS,
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            **vae,
        ),
        scheduler=tiny.flow(),
        transformer=tiny.make_ltx(),
    )


def ltx2() -> LTX2Pipeline:
    parts = tiny.make_pipeline("ltx-2.3").components
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    own = {f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in heads.items()}
    gemma = {"head_dim": 8, "layer_types": ["full_attention"], "num_hidden_layers": 1}
    return LTX2Pipeline(
        scheduler=tiny.flow(),
        vae=AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8, 16, 32, 64),
            decoder_block_out_channels=(8, 16, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ),
        audio_vae=parts["audio_vae"],
        text_encoder=Gemma3TextModel(Gemma3TextConfig(**DECODER, vocab_size=len(WORDS), **gemma)),
        tokenizer=tokenizer(padding_side="left"),  # as Gemma's
        connectors=tiny.prepare(LTX2TextConnectors(caption_channels=16, text_proj_in_factor=2, **own)),
        transformer=parts["transformer"],
        vocoder=audible(LTX2Vocoder(hidden_channels=32)),
    )


def ltx25() -> LTX2Pipeline:
    """Its vocoder has a part that adds the high tones, and it brings a part that guesses a clip's length."""
    pipe = ltx2()
    config = pipe.transformer.config
    vocoder = LTX2VocoderWithBWE(hidden_channels=64, bwe_hidden_channels=32)
    sizes = {"pooler_hidden_dim": 8, "num_pooler_heads": 2, "mlp_hidden_dim": 8}
    widths = {f"{kind}cross_attention_dim": config[f"{kind}cross_attention_dim"] for kind in ("audio_", "")}
    widths["video_cross_attention_dim"] = widths.pop("cross_attention_dim")
    pipe.register_modules(vocoder=vocoder, duration_head=LTX2DurationHead(**sizes, **widths))
    return pipe


def ltx2_condition() -> LTX2ConditionPipeline:
    """The sound has a scheduler of its own."""
    return LTX2ConditionPipeline(**ltx2().components, audio_scheduler=tiny.flow())


def audible(vocoder: LTX2Vocoder) -> LTX2Vocoder:
    """With random weights as they come it hums one tone far too low to be heard, whatever it is given."""
    for name, parameter in vocoder.named_parameters():
        parameter.data.mul_(0.0 if name.endswith("bias") else 2.0)
    return vocoder


def minimax_h3() -> MiniMaxH3ModularPipeline:
    """Its text encoder, of the 51 layers that the pipeline wants, sees the images too."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": list(QWEN_MARKS.values())})
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {**DECODER, "head_dim": 8, "vocab_size": len(words), "num_hidden_layers": 51, "rope_parameters": rope}
    sees = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 8}
    sees |= {"out_hidden_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    marks = {f"{name}_token_id": words.convert_tokens_to_ids(mark) for name, mark in QWEN_MARKS.items()}
    pixels = {"shortest_edge": 256, "longest_edge": 1024}
    normal = {"latents_mean": [0.1] * 4, "latents_std": [0.9] * 4}
    pipe = MiniMaxH3ModularPipeline(blocks=MiniMaxH3Blocks())
    pipe.update_components(
        text_encoder=Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=sees, **marks)),
        tokenizer=words,
        processor=ImageProcessor(Qwen2VLImageProcessor(patch_size=8, size=pixels), words),
        transformer=transformers.minimax_h3(),
        transformer_ref=transformers.minimax_h3(),
        reference_image_short_edge=64,
        vae=AutoencoderKLMiniMaxH3(
            latent_channels=4,
            block_out_channels=(4,) * 6,
            layers_per_block=1,
            norm_num_groups=2,
            decoder_num_layers=1,
            decoder_num_attention_heads=2,
            decoder_attention_head_dim=16,
            **normal,
        ),
        audio_vae=AutoencoderKLMiniMaxH3Audio(
            encoder_dim=4,
            latent_dim=48,
            latent_channels=6,
            num_attention_heads=2,
            decoder_dim=128,
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1,),),
            latents_mean=[0.1] * 6,
            latents_std=[0.9] * 6,
        ),
        scheduler=MiniMaxH3Scheduler(shift=12.0),
        audio_scheduler=MiniMaxH3Scheduler(shift=3.0),
    )
    return pipe


def mochi() -> MochiPipeline:
    return MochiPipeline(
        text_encoder=T5EncoderModel(T5Config(**T5)),
        tokenizer=tokenizer(),
        vae=AutoencoderKLMochi(
            latent_channels=12,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            latents_mean=[0.1] * 12,
            latents_std=[0.9] * 12,
        ),
        scheduler=tiny.flow(invert_sigmas=True),
        transformer=tiny.prepare(
            MochiTransformer3DModel(
                **tiny.HEADS,
                in_channels=12,  # a number that the pipeline has written down
                num_layers=2,
                pooled_projection_dim=16,
                text_embed_dim=16,
                time_embed_dim=8,
                max_sequence_length=tiny.TEXT,
            )
        ),
    )


def wan22() -> WanPipeline:
    """Two experts: the first takes the noisier half of the steps."""
    pipe = wan()
    pipe.register_modules(transformer_2=tiny.make_wan(seed=1))
    pipe.register_to_config(boundary_ratio=0.8)
    return pipe


def wan_image(**own: Any) -> WanImageToVideoPipeline:
    """It takes an image beside the latents: 4 channels of mask, 4 of latents."""
    parts = {name: part for name, part in wan().components.items() if name != "transformer"}
    return WanImageToVideoPipeline(**parts | {"transformer": wide_wan()} | own)


def wide_wan(seed: int = 0, **own: Any) -> WanTransformer3DModel:
    config = {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32}
    return tiny.prepare(WanTransformer3DModel(**tiny.HEADS, in_channels=12, out_channels=4, **config, **own), seed)


def wan21_image() -> WanImageToVideoPipeline:
    """An encoder sees the image too."""
    inner = tiny.HEADS["num_attention_heads"] * tiny.HEADS["attention_head_dim"]
    return wan_image(
        transformer=wide_wan(image_dim=16, added_kv_proj_dim=inner),
        image_encoder=CLIPVisionModel(CLIPVisionConfig(**VISION, image_size=32)),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )


def wan22_image() -> WanImageToVideoPipeline:
    return wan_image(transformer_2=wide_wan(seed=1), boundary_ratio=0.8)


def wan_vace() -> WanVACEPipeline:
    """Its control stack reads the latents of what is given, twice, and a mask of the VAE's 64 pixels."""
    config = {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32}
    control = {"vace_layers": [0], "vace_in_channels": 2 * 4 + 64}
    transformer = WanVACETransformer3DModel(**tiny.HEADS, **tiny.CHANNELS, **config, **control)
    parts = {name: part for name, part in wan().components.items() if name not in ("transformer", "transformer_2")}
    return WanVACEPipeline(**parts, transformer=tiny.prepare(transformer))


def wan22_5b() -> WanPipeline:
    """A timestep for each token: text or an image."""
    pipe = wan()
    pipe.register_to_config(expand_timesteps=True)
    return pipe


def cogvideox_image(scheduler: Any, **own: Any) -> CogVideoXImageToVideoPipeline:
    """It takes an image beside the latents."""
    transformer = tiny.make_cogvideox(use_rotary_positional_embeddings=True, in_channels=8, **own)
    parts = cogvideox(lambda: scheduler, lambda: transformer)().components
    return CogVideoXImageToVideoPipeline(**parts)


def hunyuan_video_image(**own: Any) -> HunyuanVideoImageToVideoPipeline:
    """Its text encoder sees the image too, which becomes 4 tokens."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": MARKS})
    llava = LlavaConfig(
        text_config=LlamaConfig(**DECODER, vocab_size=len(words), num_hidden_layers=2, pad_token_id=0),
        vision_config=CLIPVisionConfig(**VISION, image_size=16),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return HunyuanVideoImageToVideoPipeline(
        **hunyuan_video().components
        | {
            "text_encoder": LlavaForConditionalGeneration(llava),
            "tokenizer": words,
            "image_processor": CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
            "transformer": tiny.make_hunyuan_video(**own),
        }
    )


def hunyuan_video15_image() -> HunyuanVideo15ImageToVideoPipeline:
    """The size nearest to 64 x 64 pixels in a 5:3 image's shape is 80 x 48."""
    return HunyuanVideo15ImageToVideoPipeline(
        **hunyuan_video15().components | {"transformer": tiny.make_hunyuan_video15(target_size=64, image_embed_dim=16)},
        image_encoder=SiglipVisionModel(SiglipVisionConfig(**VISION, image_size=16)),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )


TEXT = {"max_sequence_length": tiny.TEXT}
FAMILIES = {
    "wan": Family(wan, "80x48", 17, TEXT),
    "wan-2.2": Family(wan22, "80x48", 17, TEXT),
    "wan-modular": Family(wan_modular, "80x48", 17, TEXT),
    "hunyuan-video": Family(hunyuan_video, "80x48", 17, TEXT),
    "hunyuan-video-guided": Family(hunyuan_video, "80x48", 17, TEXT, {"true_cfg_scale": 2.0}),
    "hunyuan-video-1.5": Family(hunyuan_video15, "80x48", 17, {}),
    "cogvideox": Family(cogvideox(CogVideoXDDIMScheduler, tiny.make_cogvideox_rotary), "80x48", 17, TEXT),
    "cogvideox-1.5": Family(
        cogvideox(lambda: CogVideoXDPMScheduler(prediction_type="v_prediction"), tiny.make_cogvideox15),
        "80x48",
        17,
        TEXT,
        {"use_dynamic_cfg": True},
    ),
    "ltx": Family(ltx, "160x96", 33, TEXT),
    # The layer that spatio-temporal guidance leaves out is the 29th where nothing is said.
    "ltx-2": Family(ltx2, "160x96", 33, TEXT, {"spatio_temporal_guidance_blocks": [1]}),
    "mochi": Family(mochi, "80x48", 25, TEXT),
}


KINDRED = {
    "wan-bytes": FAMILIES["wan"]._replace(pipeline=lambda: wan(ByT5Tokenizer, 384)),
    "cogvideox-2b": FAMILIES["cogvideox"]._replace(
        pipeline=cogvideox(CogVideoXDDIMScheduler, lambda: tiny.make_cogvideox(max_text_seq_length=226)), shorter={}
    ),
    "ltx-2.5": FAMILIES["ltx-2"]._replace(pipeline=ltx25),
    "ltx-denoising-vae": FAMILIES["ltx"]._replace(
        pipeline=lambda: ltx(timestep_conditioning=True),
        call={"decode_timestep": 0.05, "decode_noise_scale": 0.3},
    ),
}
"""Models that differ from their family's in a few of the worker's matters only."""


IMAGES = {
    "wan-2.1-image": Family(wan21_image, "80x48", 17, {}),  # 512 tokens of text, as the transformer has it written down
    "wan-2.2-image": Family(wan22_image, "80x48", 17, TEXT),
    "wan-2.2-5b": Family(wan22_5b, "80x48", 17, TEXT),
    "wan-vace": Family(wan_vace, "80x48", 17, TEXT),
    "cogvideox-image": Family(lambda: cogvideox_image(CogVideoXDDIMScheduler()), "80x48", 17, TEXT),
    "cogvideox-1.5-image": Family(
        lambda: cogvideox_image(
            CogVideoXDPMScheduler(prediction_type="v_prediction"), patch_size_t=2, patch_bias=False, ofs_embed_dim=16
        ),
        "80x48",
        17,
        TEXT,
        {"use_dynamic_cfg": True},
    ),
    "hunyuan-video-image": Family(
        lambda: hunyuan_video_image(image_condition_type="token_replace"),
        "80x48",
        17,
        TEXT,
        {"prompt_template": LLAVA_TEMPLATE, "true_cfg_scale": 2.0},
    ),
    "hunyuan-video-image-beside": Family(
        lambda: hunyuan_video_image(image_condition_type="latent_concat", in_channels=9, guidance_embeds=False),
        "80x48",
        17,
        TEXT,
        {"prompt_template": LLAVA_TEMPLATE, "true_cfg_scale": 2.0},
        {"guidance_range": [1, 1], "default_guidance": 1},
    ),
    "hunyuan-video-1.5-image": Family(hunyuan_video15_image, "80x48", 17, {}),
    "ltx": FAMILIES["ltx"],
    "ltx-condition": FAMILIES["ltx"]._replace(pipeline=lambda: LTXConditionPipeline(**ltx().components)),
    "ltx-2": FAMILIES["ltx-2"],
    "ltx-2-condition": FAMILIES["ltx-2"]._replace(pipeline=ltx2_condition),
}
"""Models that take an image."""


MODULAR = {
    "minimax-h3": Family(
        minimax_h3,
        "96x64",
        124,
        {},
        entry={"fps": 24, "fps_range": [24, 24], "guidance_range": [1, 1], "default_guidance": 1}
        | {
            "negative_prompt": False,
            "audio": True,
            "tasks": [Task.text_to_video, Task.image_to_video, Task.first_last_frame],
        },
    ),
}
"""Modular pipelines."""


def save_family(name: str, folder: Path) -> Path:
    """Write a family's pipeline, or that of a kindred model, of one that takes images or of a modular one."""
    torch.manual_seed(0)
    pipe = (FAMILIES | KINDRED | IMAGES | MODULAR)[name].pipeline()
    if isinstance(pipe, ModularPipeline):
        pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    else:
        pipe.save_pretrained(folder)
    return folder
