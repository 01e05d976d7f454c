#!/usr/bin/env bash
# diffusers 0.42.1: SmoothedEnergyGuidance never smooths: its third pass repeats the first.
#
# A guider counts its passes in prepare_models, and this one changes the model from the second pass on. Its own
# prepare_models leaves out the count, so that pass never comes. What remains is plain classifier-free guidance to the
# last bit, whatever seg_guidance_scale is, and nothing is logged. SkipLayerGuidance counts, and differs.
#
# A small Wan of random weights denoises in 20 steps on a CPU, in the loop of diffusers' modular pipelines. Shown is the
# largest difference of the latents from classifier-free guidance alone, which takes 40 passes. "Counted" is the guider
# with the count put back.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   SmoothedEnergyGuidance, scale 2.8: 59 passes, 0.000 from classifier-free guidance
#   SmoothedEnergyGuidance, scale 100: 59 passes, 0.000 from classifier-free guidance
#   counted, scale 2.8: 59 passes, 0.195 from classifier-free guidance
#   SkipLayerGuidance, scale 2.8: 59 passes, 1.502 from classifier-free guidance
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    WanTransformer3DModel,
)
from diffusers.guiders import BaseGuidance
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from diffusers.utils import logging

logging.set_verbosity_error()
torch.manual_seed(0)
model = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=4
)
noise, prompt, negative = torch.randn(1, 16, 2, 8, 8), torch.randn(1, 5, 16), torch.randn(1, 5, 16)


class Counted(SmoothedEnergyGuidance):
    def prepare_models(self, denoiser):
        BaseGuidance.prepare_models(self, denoiser)
        super().prepare_models(denoiser)


@torch.no_grad()
def denoised(guider):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    latents, passes = noise, 0
    for step, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step=step, num_inference_steps=20, timestep=timestep)
        batches = guider.prepare_inputs({"encoder_hidden_states": (prompt, negative)})
        for batch in batches:
            guider.prepare_models(model)
            batch.noise_pred = model(latents, timestep[None], batch.encoder_hidden_states).sample
            guider.cleanup_models(model)
            passes += 1
        latents = scheduler.step(guider(batches)[0], timestep, latents).prev_sample
    return latents, passes


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
alone, _ = denoised(ClassifierFreeGuidance(guidance_scale=5.0))
smoothed = SmoothedEnergyGuidanceConfig(indices=[1, 2], fqn="blocks")
skipped = LayerSkipConfig(indices=[1, 2], fqn="blocks")
for name, guider, works in (
    ("SmoothedEnergyGuidance, scale 2.8", SmoothedEnergyGuidance(5.0, 2.8, seg_guidance_config=smoothed), False),
    ("SmoothedEnergyGuidance, scale 100", SmoothedEnergyGuidance(5.0, 100.0, seg_guidance_config=smoothed), False),
    ("counted, scale 2.8", Counted(5.0, 2.8, seg_guidance_config=smoothed), True),
    ("SkipLayerGuidance, scale 2.8", SkipLayerGuidance(5.0, 2.8, 0.0, 1.0, skip_layer_config=skipped), True),
):
    latents, passes = denoised(guider)
    difference = (latents - alone).abs().max().item()
    print(f"{name}: {passes} passes, {difference:.3f} from classifier-free guidance")
    assert passes == 59 and (difference > 1e-4) == works
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
