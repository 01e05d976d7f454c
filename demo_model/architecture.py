"""The untrained demo pipelines: an ordinary `WanPipeline` and `WanImageToVideoPipeline`, every part of them small."""

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from demo_model.scenes import BACKGROUNDS, COLORS, MOTIONS, SHAPES, SIZES

LATENT_CHANNELS = 16
CONDITION_CHANNELS = 4 + LATENT_CHANNELS  # of which frames an image is given, and the latents of a clip of it alone
TEXT_LENGTHS = (64, 512)  # the prompt is zero-padded to one of these; 512 is WanPipeline's default
FLOW_SHIFT = 3.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the captions' vocabulary; any other word becomes `<unk>`."""
    words = {"a", "and", "on", "background"}
    for phrase in (*SHAPES, *COLORS, *BACKGROUNDS, *SIZES, *MOTIONS):
        words.update(phrase.split())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_vae() -> AutoencoderKLWan:
    """8x in space (2x of it by pixel shuffle), 4x in time, 16 latent channels."""
    return AutoencoderKLWan(
        base_dim=32,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=192,
            d_kv=48,
            d_ff=384,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=192,
        freq_dim=256,
        ffn_dim=1024,
        num_layers=10,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=128,
    )


def build_pipeline() -> WanPipeline:
    tokenizer = build_tokenizer()
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(tokenizer),
        vae=build_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
        transformer=build_transformer(),
    )


def build_image_pipeline(pipe: WanPipeline) -> WanImageToVideoPipeline:
    """The parts of a text-to-video pipeline, its transformer with an input that is wide enough for a first frame.

    The weights of the further channels are zero: at first it draws what it drew before.
    """
    narrow = pipe.transformer
    config = {**narrow.config, "in_channels": LATENT_CHANNELS + CONDITION_CHANNELS}
    wide = WanTransformer3DModel.from_config(config).to(narrow.dtype)
    weights = narrow.state_dict()
    embedding = weights["patch_embedding.weight"]
    zeros = embedding.new_zeros(len(embedding), CONDITION_CHANNELS, *embedding.shape[2:])
    wide.load_state_dict(weights | {"patch_embedding.weight": torch.cat([embedding, zeros], dim=1)})
    parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    return WanImageToVideoPipeline(**parts, transformer=wide)
