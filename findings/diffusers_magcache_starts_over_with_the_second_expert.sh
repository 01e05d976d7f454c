#!/usr/bin/env bash
# diffusers 0.42.1: MagCache starts over with Wan 2.2's second expert, and calibrating it prints nothing.
#
# Its table has a number for each step of a run. But each transformer counts its own calls, so the second expert goes by
# the table's beginning, for noisy steps, and the table's end is not looked at; the first fifth of a run, which is
# always computed, comes twice. calibrate=True, which makes the table, prints it at call number num_inference_steps,
# which none of the two experts reaches. Nothing is logged. A config for each expert with the number of its own steps
# prints.
#
# A small Wan 2.2 of random weights denoises in 20 steps on a CPU, and a small Wan 2.1; the second expert takes over
# after 11 steps. First, how many tables calibrating prints. Then the steps in which the second of three blocks is
# computed ("#"), by a table where the first 12 steps hardly change, and the others by a fifth, which is too much to
# skip.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   tables: Wan 2.1 1, Wan 2.2 0, with a config for each expert 2
#   Wan 2.1: ####...#...#########
#   Wan 2.2: ####...#...####...#.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  accelerate==1.15.0 diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0 \
  transformers==5.23.0
cat > "$folder/seen.py" <<'PYTHON'
import contextlib
import io
from importlib import metadata

import torch
from diffusers import AutoencoderKLWan, MagCacheConfig, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging

STEPS, BOUNDARY = 20, 0.75
logging.set_verbosity_error()
text = torch.randn(1, 5, 16, generator=torch.manual_seed(0))


def expert():
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=3
    )


def run(experts, steps=(STEPS, STEPS), **settings):
    """In which steps the second of three blocks is computed, how many are the first expert's, how many tables print."""
    torch.manual_seed(0)
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=expert(),
        transformer_2=expert() if experts == 2 else None,
        boundary_ratio=BOUNDARY if experts == 2 else None,
        vae=AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    )
    pipe.set_progress_bar_config(disable=True)
    computed, printed = set(), io.StringIO()
    for transformer, count in zip((pipe.transformer, pipe.transformer_2)[:experts], steps, strict=False):
        transformer.enable_cache(MagCacheConfig(num_inference_steps=count, **settings))
        transformer.blocks[1].attn1.register_forward_hook(lambda *_: computed.add(pipe.current_timestep.item()))
    with contextlib.redirect_stdout(printed):
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
    timesteps = pipe.scheduler.timesteps
    marks = "".join("#" if timestep.item() in computed else "." for timestep in timesteps)
    return marks, (timesteps >= 1000 * BOUNDARY).sum().item(), printed.getvalue().count("Calibration Complete")


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
_, first, one = run(1, calibrate=True)
both, split = run(2, calibrate=True)[2], run(2, (first, STEPS - first), calibrate=True)[2]
print(f"tables: Wan 2.1 {one}, Wan 2.2 {both}, with a config for each expert {split}")
assert (one, both, split) == (1, 0, 2)
table = [1.0] * 12 + [0.8] * 8
for name, experts in (("Wan 2.1", 1), ("Wan 2.2", 2)):
    marks, *_ = run(experts, mag_ratios=table)
    print(f"{name}: {marks}")
    assert (marks[12:] == "#" * 8) == (experts == 1)
    assert marks[first : first + 4] == "####" or experts == 1
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
