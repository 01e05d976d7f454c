#!/usr/bin/env bash
# diffusers 0.42.1: Adaptive Projected Guidance has no momentum in Wan 2.2's second expert, whatever was asked for.
#
# The guider makes the buffer that carries the momentum in step 0, and where there is none it guides without. In the
# modular pipelines of Wan 2.2 each expert has a guider of its own, and guider_2 first comes when the second expert
# does, so it sees no step 0: adaptive_projected_guidance_momentum changes not a bit of the latents, and nothing is
# logged. The guider of the first expert has its momentum. AdaptiveProjectedMixGuidance, which has momentum by default,
# makes its buffer in the same place.
#
# Two small experts of random weights denoise in 20 steps on a CPU, by the denoising block of the modular pipeline, at
# Wan 2.2's boundary of 0.875. Both guiders are without momentum, then one of them is given some. Shown is the largest
# difference that this makes in the latents. "Made" is the second guider, handed its buffer in the step where it begins.
#
# Seen on 2026-11-30:
#   torch 2.13.0, diffusers 0.42.1
#   momentum in the first: 0.081
#   momentum in the second: 0.000
#   momentum in the second, made: 0.389
#   momentum in the second, mixed: 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0 transformers==5.23.0
cat > "$folder/seen.py" <<'PYTHON'
import warnings
from importlib import metadata

import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.modular_pipelines.wan.denoise import Wan22DenoiseStep
from diffusers.utils import logging

STEPS, MOMENTUM = 20, -0.75
logging.set_verbosity_error()
warnings.simplefilter("ignore")


def expert(seed):
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=16, freq_dim=16, ffn_dim=64, num_layers=2
    )


experts = expert(0), expert(1)
start, *texts = (torch.randn(1, 16, 3, 8, 8), *torch.randn(2, 1, 5, 16))


class Made(AdaptiveProjectedGuidance):
    """Makes the buffer in the first step that it sees."""

    def prepare_inputs_from_block_state(self, data, input_fields):
        if self.momentum_buffer is None:
            self.momentum_buffer = MomentumBuffer(self.adaptive_projected_guidance_momentum)
        return super().prepare_inputs_from_block_state(data, input_fields)


def denoised(first, second):
    """Return the latents that the two guiders lead to."""
    block = Wan22DenoiseStep()
    block.set_progress_bar_config(disable=True)
    pipeline = block.init_pipeline()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(STEPS)
    pipeline.update_components(
        guider=first, guider_2=second, transformer=experts[0], transformer_2=experts[1], scheduler=scheduler
    )
    return pipeline(
        latents=start.clone(),
        dtype=torch.float32,
        timesteps=scheduler.timesteps,
        num_inference_steps=STEPS,
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        denoiser_input_fields={},
        output="latents",
    )


def projected(kind=AdaptiveProjectedGuidance, momentum=None):
    return kind(guidance_scale=4.0, adaptive_projected_guidance_momentum=momentum)


def mixed(momentum):
    return AdaptiveProjectedMixGuidance(adaptive_projected_guidance_momentum=momentum)


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
without = denoised(projected(), projected())
for name, first, second, works in (
    ("first", projected(momentum=MOMENTUM), projected(), True),
    ("second", projected(), projected(momentum=MOMENTUM), False),
    ("second, made", projected(), projected(Made, MOMENTUM), True),
):
    difference = (denoised(first, second) - without).abs().max().item()
    print(f"momentum in the {name}: {difference:.3f}")
    assert (difference > 0.01) == works and (works or difference == 0)
    assert (second.momentum_buffer is None) == (name != "second, made")
difference = (denoised(projected(), mixed(-0.5)) - denoised(projected(), mixed(None))).abs().max().item()
print(f"momentum in the second, mixed: {difference:.3f}")
assert difference == 0
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
