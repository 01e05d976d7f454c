#!/usr/bin/env bash
# diffusers 0.42.1: without other guidance, SkipLayerGuidance skips no layer, and guides by the negative prompt.
#
# With guidance_scale=1.0 a step has two passes, and the formula takes the second as the one with layers left out. But
# layers are left out in a third pass only, and a second is still given the negative prompt. So who turns
# classifier-free guidance off, to guide by skipped layers alone, gets just that guidance, at
# skip_layer_guidance_scale and to the last bit. Nothing is logged.
#
# A small Wan of random weights denoises in 20 steps on a CPU, in the loop of diffusers' modular pipelines. Counted are
# the passes, and those in which layers were left out. Then come the largest differences of the latents: from those of
# classifier-free guidance of scale 2.8, begun at the same step, and from those without guidance.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   with classifier-free guidance of 5: 59 passes, 19 skip; 1.948 from the other, 2.539 from none
#   without: 39 passes, 0 skip; 0.000 from the other, 0.681 from none
#   without, the prompt as the negative one: 39 passes, 0 skip; 0.681 from the other, 0.000 from none
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
    WanTransformer3DModel,
)
from diffusers.hooks import LayerSkipConfig
from diffusers.utils import logging

logging.set_verbosity_error()
torch.manual_seed(0)
model = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=4
)
noise, prompt, negative = torch.randn(1, 16, 2, 8, 8), torch.randn(1, 5, 16), torch.randn(1, 5, 16)


@torch.no_grad()
def denoised(guider, negative=negative):
    """Latents, passes, and passes with layers left out."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    latents, passes, skipping = noise, 0, 0
    for step, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step=step, num_inference_steps=20, timestep=timestep)
        batches = guider.prepare_inputs({"encoder_hidden_states": (prompt, negative)})
        for batch in batches:
            guider.prepare_models(model)
            registries = (getattr(block, "_diffusers_hook", None) for block in model.blocks)
            skipping += any(registry and registry.hooks for registry in registries)
            batch.noise_pred = model(latents, timestep[None], batch.encoder_hidden_states).sample
            guider.cleanup_models(model)
        latents, passes = scheduler.step(guider(batches)[0], timestep, latents).prev_sample, passes + len(batches)
    return latents, passes, skipping


def guided(scale):
    layers = LayerSkipConfig(indices=[1, 2], fqn="blocks")
    return SkipLayerGuidance(scale, 2.8, 0.0, 1.0, skip_layer_config=layers)


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
other, *_ = denoised(ClassifierFreeGuidance(2.8, start=0.05))
none, *_ = denoised(ClassifierFreeGuidance(1.0))
for what, (latents, passes, skipping), expected in (
    ("with classifier-free guidance of 5", denoised(guided(5.0)), 19),
    ("without", denoised(guided(1.0)), 0),
    ("without, the prompt as the negative one", denoised(guided(1.0), negative=prompt), 0),
):
    from_other, from_none = ((latents - o).abs().max().item() for o in (other, none))
    print(f"{what}: {passes} passes, {skipping} skip; {from_other:.3f} from the other, {from_none:.3f} from none")
    assert skipping == expected and (expected > 0) == (min(from_other, from_none) > 1e-4)
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
