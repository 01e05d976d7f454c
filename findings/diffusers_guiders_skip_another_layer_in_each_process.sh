#!/usr/bin/env bash
# diffusers 0.42.1: which layers SkipLayerGuidance skips in HunyuanVideo is drawn anew with each start of Python.
#
# HunyuanVideo has two lists of blocks, and a layer named by its number alone (fqn="auto", as by default) is looked up
# in the first list whose name the model has. The names to try stand in a set, and the order of a set of strings changes
# with the random hash seed of the process. So the same call, seed and machine give one video in one process and another
# in the next, or an error, if only one list is that long. FLUX and Motif-Video have the same two lists. Perturbed and
# smoothed guidance look layers up the same way. fqn="single_transformer_blocks" settles it.
#
# A small HunyuanVideo of random weights denoises in 10 steps on a CPU, guided by skipping layer 1, in eight processes
# that differ in PYTHONHASHSEED; unset, Python draws one. Each line is the list whose layer was skipped: the latents are
# those that naming this list gives, and not those of the other.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   latents of the two lists differ by up to 0.59
#   PYTHONHASHSEED 0: single_transformer_blocks
#   PYTHONHASHSEED 1: single_transformer_blocks
#   PYTHONHASHSEED 2: transformer_blocks
#   PYTHONHASHSEED 3: single_transformer_blocks
#   PYTHONHASHSEED 4: single_transformer_blocks
#   PYTHONHASHSEED 5: single_transformer_blocks
#   PYTHONHASHSEED 6: single_transformer_blocks
#   PYTHONHASHSEED 7: transformer_blocks
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import os
import subprocess
import sys
from importlib import metadata

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.utils import logging

LISTS = ("transformer_blocks", "single_transformer_blocks")
logging.set_verbosity_error()


@torch.no_grad()
def denoised(fqn):
    """What the layers were looked up by, and the latents."""
    torch.manual_seed(0)
    model = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=False,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 6),
    )
    x, prompts = torch.randn(1, 4, 2, 4, 4), torch.randn(2, 1, 5, 16)
    others = {"encoder_attention_mask": torch.ones(1, 5), "pooled_projections": torch.randn(1, 8)}
    layers = LayerSkipConfig(indices=[1], **fqn)
    guider = SkipLayerGuidance(skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0, skip_layer_config=layers)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    for step, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step=step, num_inference_steps=10, timestep=timestep)
        batches = guider.prepare_inputs({"encoder_hidden_states": tuple(prompts)})
        for batch in batches:
            guider.prepare_models(model)
            batch.noise_pred = model(x, timestep[None], batch.encoder_hidden_states, **others).sample
            guider.cleanup_models(model)
        x = scheduler.step(guider(batches)[0], timestep, x).prev_sample
    return layers.fqn, x


if len(sys.argv) > 1:
    found, latents = denoised({})
    same = [name for name in LISTS if (latents - denoised({"fqn": name})[1]).abs().max() < 1e-5]
    assert same == [found]
    print(found)
else:
    print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
    apart = (denoised({"fqn": LISTS[0]})[1] - denoised({"fqn": LISTS[1]})[1]).abs().max()
    print(f"latents of the two lists differ by up to {apart:.2f}")
    found = []
    for seed in range(8):
        child = [sys.executable, __file__, "auto"]
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        found.append(subprocess.run(child, env=environment, check=True, capture_output=True, text=True).stdout.strip())
        print(f"PYTHONHASHSEED {seed}: {found[-1]}")
    assert set(found) == set(LISTS) and apart > 0.1
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
