"""A tiny, untrained Wan pipeline in diffusers folder format, with a catalog that serves it: fast end-to-end tests."""

from pathlib import Path

import torch
from adaspa_jobs.job import JobParams
from adaspa_worker.pipeline import Engine
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tiny_catalog import FRAMES, SIZE, model_spec, write_catalog
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

__all__ = ["FAILING_PROMPT", "FRAMES", "SIZE", "denoise", "make_vae", "model_spec", "save_pipeline", "write_catalog"]

FAILING_PROMPT = "a broken circle"
"""Its second word is one of the tokenizer's that the text encoder has no embedding for: its forward pass raises."""


def make_vae(mean: float = 0.0, std: float = 1.0) -> AutoencoderKLWan:
    """Wan's VAE with four channels, whose latents have this mean and deviation."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[mean] * 4,
        latents_std=[std] * 4,
    )


def save_pipeline(
    folder: Path, transformer: WanTransformer3DModel | None = None, vae: AutoencoderKLWan | None = None
) -> Path:
    """Write the pipeline (random weights from a fixed seed, 64x64 pixels, 9 frames are 48 video tokens).

    Args:
        folder: where.
        transformer, vae: in the place of the tiny ones; texts have 16 channels.
    """
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "moving", "left", "right"]
    numbers = {word: i for i, word in enumerate([*words, "broken"])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    vae = vae or make_vae()
    transformer = transformer or WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(words),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    WanPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return folder


def denoise(engine: Engine, params: JobParams) -> torch.Tensor:
    """Latents of a job by any engine, which holds nothing of it afterwards."""
    try:
        return engine.denoise(params, engine.encode_prompt(params, {}), lambda *_: None)
    finally:
        engine.reset()
