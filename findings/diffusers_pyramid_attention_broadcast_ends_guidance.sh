#!/usr/bin/env bash
# diffusers 0.42.1: Pyramid Attention Broadcast gives Wan's negative prompt the prompt's attention, and guidance ends.
#
# A layer's output is to be reused in the next step. But Wan's pipeline runs the prompt and the negative prompt one
# after the other, and the hook counts calls: with a range of 2 it computes the prompt's pass and reuses that for the
# negative prompt, in the same step. From step to step nothing is reused. Where self- and cross-attention are both
# broadcast the two predictions are the same number for number, so that guidance_scale does nothing. With a range of 3
# the prompt's pass takes over the negative prompt's attention as well. FirstBlockCache keeps the two apart, by the
# cache_context that the pipeline sets. CogVideoX, in the documentation's example, has both in one batch.
#
# A small Wan of random weights denoises in 20 steps on a CPU; the last 11 are in the range (100, 800). Shown for those:
# the self-attentions that two layers computed for the prompt and for the negative prompt, the largest difference of the
# two predictions, and the steps in which there is none.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   without: computed 22 and 22, predictions differ by 0.204, the same in 0 of 11 steps
#   self-attention, 2: computed 22 and 0, predictions differ by 0.209, the same in 0 of 11 steps
#   both, 2: computed 22 and 0, predictions differ by 0.000, the same in 11 of 11 steps
#   both, 3: computed 8 and 8, predictions differ by 0.199, the same in 7 of 11 steps
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0 transformers==5.14.1
cat > "$folder/seen.py" <<'PYTHON'
from collections import Counter
from importlib import metadata

import torch
from diffusers import (
    AutoencoderKLWan,
    PyramidAttentionBroadcastConfig,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

STEPS = 20
LOWEST, HIGHEST = 100, 800
generator = torch.manual_seed(0)
prompt, negative_prompt = torch.randn(2, 1, 8, 32, generator=generator)


def denoised(**ranges):
    """In the range: how many self-attentions each prompt computed, and each step's largest difference of the two."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=2,
        cross_attn_norm=True,
    ).eval()
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        vae=AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    if ranges:
        transformer.enable_cache(
            PyramidAttentionBroadcastConfig(
                **ranges,
                spatial_attention_timestep_skip_range=(LOWEST, HIGHEST),
                cross_attention_timestep_skip_range=(LOWEST, HIGHEST),
                current_timestep_callback=lambda: pipeline.current_timestep,
            )
        )
    computed, predictions, whose = Counter(), [], None
    forward = transformer.forward

    def within():
        return LOWEST < pipeline.current_timestep < HIGHEST

    def recorded(*args, **inputs):
        nonlocal whose
        whose = "prompt" if inputs["encoder_hidden_states"].equal(prompt) else "negative prompt"
        output = forward(*args, **inputs)
        if within():
            predictions.append(output[0])
        return output

    transformer.forward = recorded
    for block in transformer.blocks:

        class Counting(type(block.attn1.processor)):
            def __call__(self, *args, **inputs):
                computed[whose] += within()
                return super().__call__(*args, **inputs)

        block.attn1.set_processor(Counting())

    pipeline(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative_prompt,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        height=64,
        width=64,
        num_frames=9,
        output_type="latent",
        generator=torch.manual_seed(0),
    )
    return computed, [(one - other).abs().max() for one, other in zip(predictions[::2], predictions[1::2], strict=True)]


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, ranges, passes, same in (
    ("without", {}, (22, 22), 0),
    ("self-attention, 2", {"spatial_attention_block_skip_range": 2}, (22, 0), 0),
    ("both, 2", {"spatial_attention_block_skip_range": 2, "cross_attention_block_skip_range": 2}, (22, 0), 11),
    ("both, 3", {"spatial_attention_block_skip_range": 3, "cross_attention_block_skip_range": 3}, (8, 8), 7),
):
    computed, differences = denoised(**ranges)
    equal = sum(difference == 0 for difference in differences)
    seen = computed["prompt"], computed["negative prompt"]
    print(
        f"{name}: computed {seen[0]} and {seen[1]}, predictions differ by {max(differences):.3f}, "
        f"the same in {equal} of {len(differences)} steps"
    )
    assert (seen, equal, len(differences)) == (passes, same, 11)
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
