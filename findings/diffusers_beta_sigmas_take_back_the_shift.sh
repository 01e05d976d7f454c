#!/usr/bin/env bash
# diffusers 0.42.1: beta, Karras and exponential sigmas take back the shift of a flow model, fixed or dynamic.
#
# The steps are shifted towards noise first. Then use_beta_sigmas and its like are laid anew between the first level and
# the last, and what was between is not looked at. The first is 1 whatever the shift is. So HunyuanVideo with its shift
# of 7 and beta sigmas denoises nearly as with a shift of 1, and set_shift and mu change next to nothing. UniPC, Wan's
# scheduler, with Karras sigmas ignores flow_shift to the last digit. Its others, and all of DPM-Solver's, are those of
# noise prediction, up to 157 where a flow ends at 1, so that the result is NaN. Nothing is logged.
# huggingface/diffusers#10001 brought them.
#
# Shown are the noise level in the middle of 50 steps, and how many steps are above 0.8, as HunyuanVideo's pipeline sets
# them, for shifts of 1, 3, 7 and 17. Then the levels of UniPC and DPM-Solver, and whether 50 steps with a model that
# always answers with the same numbers give NaN.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   shift alone: 0.500 (10), 0.750 (22), 0.875 (32), 0.944 (41)
#   use_beta_sigmas: 0.496 (14), 0.516 (14), 0.550 (15), 0.618 (17)
#   use_karras_sigmas: 0.178 (4), 0.270 (5), 0.374 (6), 0.517 (9)
#   use_exponential_sigmas: 0.136 (3), 0.233 (4), 0.346 (6), 0.501 (9)
#   UniPCMultistepScheduler, shift alone: up to 1.00, shift kept
#   UniPCMultistepScheduler, use_beta_sigmas: up to 157.41, shift ignored, NaN
#   UniPCMultistepScheduler, use_karras_sigmas: up to 0.99, shift ignored
#   UniPCMultistepScheduler, use_exponential_sigmas: up to 157.41, shift ignored, NaN
#   DPMSolverMultistepScheduler, shift alone: up to 1.00, shift kept
#   DPMSolverMultistepScheduler, use_beta_sigmas: up to 157.41, shift ignored, NaN
#   DPMSolverMultistepScheduler, use_karras_sigmas: up to 157.41, shift ignored, NaN
#   DPMSolverMultistepScheduler, use_exponential_sigmas: up to 157.41, shift ignored, NaN
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 scipy==1.17.1 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import math
import warnings
from importlib import metadata

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

STEPS = 50
SHIFTS = (1, 3, 7, 17)
SPACINGS = ("use_beta_sigmas", "use_karras_sigmas", "use_exponential_sigmas")
warnings.simplefilter("ignore")


def levels(shift, dynamic, **options):
    if dynamic:
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, **options)
    mu = math.log(shift) if dynamic else None
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, STEPS + 1)[:-1], mu=mu)
    return scheduler.sigmas[:-1]


def result(kind, shift, **options):
    """Noise levels and what a run ends with."""
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, **options)
    scheduler.set_timesteps(STEPS)
    x, answer = torch.randn(2, 1, 4, 2, 8, 8, generator=torch.manual_seed(0))
    for timestep in scheduler.timesteps:
        x = scheduler.step(answer, timestep, x).prev_sample
    return scheduler.sigmas, x


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for spacing in (None, *SPACINGS):
    options = {spacing: True} if spacing else {}
    seen = [levels(shift, dynamic=False, **options) for shift in SHIFTS]
    for shift, one in zip(SHIFTS, seen, strict=True):
        assert (one - levels(shift, dynamic=True, **options)).abs().max() < 1e-5
    told = ", ".join(f"{one[STEPS // 2]:.3f} ({(one > 0.8).sum()})" for one in seen)
    print(f"{spacing or 'shift alone'}: {told}")
    assert ((seen[2] > 0.8).sum() > 30) == (spacing is None)
for kind in (UniPCMultistepScheduler, DPMSolverMultistepScheduler):
    for spacing in (None, *SPACINGS):
        options = {spacing: True} if spacing else {}
        (one, x), (other, _) = (result(kind, shift, **options) for shift in (1.0, 7.0))
        ignored, nan = one.equal(other), x.isnan().any().item()
        print(
            f"{kind.__name__}, {spacing or 'shift alone'}: up to {one.max():.2f}, "
            f"shift {'ignored' if ignored else 'kept'}{', NaN' if nan else ''}"
        )
        assert ignored == (spacing is not None)
        assert nan == (spacing is not None and (kind, spacing) != (UniPCMultistepScheduler, "use_karras_sigmas"))
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
