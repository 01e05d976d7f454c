#!/usr/bin/env bash
# diffusers 0.42.1: with use_flow_sigmas, DEIS and SASolver stop before the end: of 10 steps, 36 % noise is left in.
#
# Both append the last noise level once more where UniPC and DPM-Solver append 0, so the last step goes nowhere. What
# stays is the level that it should have gone from: flow_shift / (steps + flow_shift - 1). Who gives Wan another
# scheduler by from_config, as the documentation shows, gets that, and nothing is logged. DEIS is even among those that
# Wan's own calls compatible. Neither has a final_sigmas_type to set, as UniPC and DPM-Solver do.
#
# The model here knows the clean clip: a step to a level of 0 gives it back, whatever came before. The settings are
# those of Wan at 720p (flow_shift 5) and 480p (3). Shown is the share of the clip in the result and, after the plus,
# the standard deviation of what else is in it; the noise at the start has 1.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   flow_shift 5, UniPCMultistepScheduler: 1.000 + 0.000 in 10, 1.000 + 0.000 in 20, 1.000 + 0.000 in 50
#   flow_shift 5, DPMSolverMultistepScheduler: 1.000 + 0.000 in 10, 1.000 + 0.000 in 20, 1.000 + 0.000 in 50
#   flow_shift 5, DEISMultistepScheduler: 0.642 + 0.358 in 10, 0.791 + 0.209 in 20, 0.907 + 0.093 in 50
#   flow_shift 5, SASolverScheduler: 0.643 + 0.358 in 10, 0.793 + 0.209 in 20, 0.907 + 0.092 in 50
#   flow_shift 3, UniPCMultistepScheduler: 1.000 + 0.000 in 10, 1.000 + 0.000 in 20, 1.000 + 0.000 in 50
#   flow_shift 3, DPMSolverMultistepScheduler: 1.000 + 0.000 in 10, 1.000 + 0.000 in 20, 1.000 + 0.000 in 50
#   flow_shift 3, DEISMultistepScheduler: 0.750 + 0.251 in 10, 0.863 + 0.137 in 20, 0.942 + 0.058 in 50
#   flow_shift 3, SASolverScheduler: 0.750 + 0.251 in 10, 0.865 + 0.137 in 20, 0.942 + 0.058 in 50
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
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

clip = torch.randn(1, 16, 2, 32, 32, generator=torch.manual_seed(0))


def result(scheduler, steps):
    """Share of the clip, and standard deviation of the rest."""
    scheduler.set_timesteps(steps)
    generator = torch.manual_seed(1)
    x = torch.randn(clip.shape, generator=generator)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = (x - clip) / scheduler.sigmas[step]
        inputs = {"generator": generator} if isinstance(scheduler, SASolverScheduler) else {}
        x = scheduler.step(velocity, timestep, x, **inputs).prev_sample
    share = ((x * clip).sum() / clip.square().sum()).item()
    return share, (x - share * clip).std().item()


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for shift in (5.0, 3.0):
    wan = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    assert DEISMultistepScheduler in wan.compatibles
    for kind in (UniPCMultistepScheduler, DPMSolverMultistepScheduler, DEISMultistepScheduler, SASolverScheduler):
        rows = []
        for steps in (10, 20, 50):
            share, rest = result(kind.from_config(wan.config), steps)
            rows.append(f"{share:.3f} + {rest:.3f} in {steps}")
            left = shift / (steps + shift - 1) if kind in (DEISMultistepScheduler, SASolverScheduler) else 0
            assert abs(share - (1 - left)) < 0.02 and abs(rest - left) < 0.02
        print(f"flow_shift {shift:.0f}, {kind.__name__}: {', '.join(rows)}")
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
