#!/usr/bin/env bash
# diffusers 0.42.1: UniPC with solver_type="bh1", which is recommended for short runs, ends in NaN whatever the model.
#
# The last step goes to a noise level of 0, where the logarithm that the solver counts in is infinite. "bh1" takes that
# for its factor B(h), and multiplies a correction of zero by it; "bh2", the default, has a finite one. Only
# final_sigmas_type="sigma_min" avoids it. The default "zero" came with huggingface/diffusers#7517.
#
# A model that always answers with the same numbers, in runs of 5, 10 and 50 steps: the steps whose sample is not
# finite.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   bh1 as it comes: [5] of 5, [10] of 10, [50] of 50
#   bh1 as Wan sets the rest: [5] of 5, [10] of 10, [50] of 50
#   bh1 of order 1: [5] of 5, [10] of 10, [50] of 50
#   bh1 to sigma_min: [] of 5, [] of 10, [] of 50
#   bh2 as it comes: [] of 5, [] of 10, [] of 50
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import UniPCMultistepScheduler

torch.manual_seed(0)
noise, prediction = torch.randn(1, 16, 2, 8, 8), torch.randn(1, 16, 2, 8, 8)


def not_finite(steps, settings):
    scheduler = UniPCMultistepScheduler(**settings)
    scheduler.set_timesteps(steps)
    sample, found = noise, []
    for step, timestep in enumerate(scheduler.timesteps, 1):
        sample = scheduler.step(prediction, timestep, sample).prev_sample
        if not sample.isfinite().all():
            found.append(step)
    return found


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, settings, last in (
    ("bh1 as it comes", {"solver_type": "bh1"}, True),
    (
        "bh1 as Wan sets the rest",
        {"solver_type": "bh1", "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        True,
    ),
    ("bh1 of order 1", {"solver_type": "bh1", "solver_order": 1}, True),
    ("bh1 to sigma_min", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, False),
    ("bh2 as it comes", {}, False),
):
    found = {steps: not_finite(steps, settings) for steps in (5, 10, 50)}
    print(f"{name}: {', '.join(f'{which} of {steps}' for steps, which in found.items())}")
    assert found == {steps: [steps] if last else [] for steps in found}
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
