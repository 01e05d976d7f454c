#!/usr/bin/env bash
# diffusers 0.42.1: with group offload, loading a LoRA turns FirstBlockCache and MagCache off, and they say they are on.
#
# load_lora_weights takes the offload's hooks off each block and puts them on again, and so do delete_adapters and
# unload_lora_weights. To take a hook off, the one registered after it is given what was below; where that has a forward
# of its own, as those of the caches have, it is thereby left out. The caches stay registered, is_cache_enabled is true,
# and each step is computed. If the cache was enabled before the offload, or there is no offload, it goes on.
# PyramidAttentionBroadcast hooks the attentions, which have no hooks of an offload by blocks.
#
# A small Wan of random weights denoises in 20 steps on a CPU, after what the line names, in that order. The LoRA is one
# that changes nothing. Shown is in how many steps the third of four blocks was computed.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   cache: FirstBlockCache 2, MagCache 8, PyramidAttentionBroadcast 13
#   cache, LoRA: FirstBlockCache 2, MagCache 8, PyramidAttentionBroadcast 13
#   offload, cache: FirstBlockCache 2, MagCache 8, PyramidAttentionBroadcast 13
#   cache, offload, LoRA: FirstBlockCache 2, MagCache 8, PyramidAttentionBroadcast 13
#   offload, cache, LoRA: FirstBlockCache 20, MagCache 20, PyramidAttentionBroadcast 13
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  accelerate==1.15.0 diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 peft==0.21.2 safetensors==0.8.0 torch==2.13.0 \
  transformers==5.23.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import (
    AutoencoderKLWan,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.utils import logging
from peft import LoraConfig, get_peft_model_state_dict

STEPS = 20
logging.set_verbosity_error()
text = torch.randn(1, 5, 16, generator=torch.manual_seed(0))


def pipeline():
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=4
    )
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        vae=AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def lora():
    """An adapter that changes nothing, as in a file."""
    transformer = pipeline().transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    weights = get_peft_model_state_dict(transformer)
    return {f"transformer.{name}": weight for name, weight in weights.items()}


def computed(config, order):
    """In how many steps the third of four blocks is computed, after what is done to the pipeline."""
    pipe, calls = pipeline(), []
    for what in order:
        match what:
            case "offload":
                by_blocks = {"offload_type": "block_level", "num_blocks_per_group": 1}
                pipe.transformer.enable_group_offload(torch.device("cpu"), **by_blocks)
            case "cache":
                pipe.transformer.enable_cache(config(pipe))
            case "LoRA":
                pipe.load_lora_weights(lora())
    pipe.transformer.blocks[2].attn1.to_q.register_forward_hook(lambda *_: calls.append(True))
    pipe(
        prompt_embeds=text,
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        output_type="latent",
        generator=torch.manual_seed(0),
    )
    assert pipe.transformer.is_cache_enabled
    return len(calls)


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
caches = {
    "FirstBlockCache": lambda _: FirstBlockCacheConfig(threshold=0.2),
    "MagCache": lambda _: MagCacheConfig(num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS),
    "PyramidAttentionBroadcast": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 900),
        current_timestep_callback=lambda: pipe.current_timestep,
    ),
}
for order in ("cache", "cache, LoRA", "offload, cache", "cache, offload, LoRA", "offload, cache, LoRA"):
    steps = {name: computed(config, order.split(", ")) for name, config in caches.items()}
    print(f"{order}: {', '.join(f'{name} {count}' for name, count in steps.items())}")
    lost = order == "offload, cache, LoRA"
    assert [count == STEPS for count in steps.values()] == [lost, lost, False]
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
