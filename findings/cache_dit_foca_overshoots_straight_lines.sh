#!/usr/bin/env bash
# cache-dit 1.5.3: with every fourth step computed, FoCa misses a straight line by over twice what plain reuse does.
#
# It takes the change between the last two computed steps for the change per step, whether they lie one step apart or
# four; the number of the step before is kept, and never read. FoCaCalibrator says that the intervals come from the step
# counters by themselves. What it adds to that is the change between its own last two values, which divides by nothing
# either. TaylorSeer of order 1, in the same place, divides, and is exact here.
#
# A model of three blocks runs 45 steps on a CPU through enable_cache, with a fixed mask: the first five steps, then
# every second, third, ... are computed. What the cached blocks add is a plain function of the step. Shown is the root
# mean square error of the steps that are not computed, for reuse (no calibrator), FoCa, and TaylorSeer of order 1.
#
# Seen on 2026-11-29:
#   torch 2.13.0, cache-dit 1.5.3
#   straight line, every 2: reuse 1.000, FoCa 0.333, TaylorSeer 0.000
#   straight line, every 3: reuse 1.563, FoCa 1.405, TaylorSeer 0.000
#   straight line, every 4: reuse 2.160, FoCa 5.239, TaylorSeer 0.000
#   straight line, every 5: reuse 2.739, FoCa 10.715, TaylorSeer 0.000
#   parabola, every 2: reuse 1.163, FoCa 0.344, TaylorSeer 0.066
#   parabola, every 3: reuse 1.798, FoCa 1.418, TaylorSeer 0.163
#   parabola, every 4: reuse 2.493, FoCa 5.284, TaylorSeer 0.306
#   parabola, every 5: reuse 3.146, FoCa 9.713, TaylorSeer 0.486
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  cache-dit==1.5.3 diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0 transformers==5.14.1
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import cache_dit
import torch
from cache_dit import (
    BlockAdapter,
    DBCacheConfig,
    FoCaCalibratorConfig,
    ForwardPattern,
    TaylorSeerCalibratorConfig,
)

STEPS, FIRST = 45, 5
step = 0


class Adding(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, hidden_states):
        return hidden_states + self.function(step)


class Model(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Adding(lambda _: 1.0), Adding(lambda _: 1.0), Adding(function)])

    def forward(self, hidden_states):
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def error(function, gap, calibrator):
    """Root mean square error of the steps that are not computed."""
    global step
    model = Model(function)
    mask = [int(step < FIRST or (step - FIRST + 1) % gap == 0) for step in range(STEPS)]
    config = DBCacheConfig(
        num_inference_steps=STEPS,
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=FIRST - 1,
        steps_computation_mask=mask,
        steps_computation_policy="static",
        enable_separate_cfg=False,
    )
    pattern = ForwardPattern.Pattern_3
    cache_dit.enable_cache(
        BlockAdapter(transformer=model, blocks=model.blocks, forward_pattern=pattern, check_forward_pattern=False),
        cache_config=config,
        calibrator_config=calibrator,
    )
    errors = []
    for step in range(STEPS):
        wrong = model(torch.zeros(1, 4, 8)) - 2 - function(step)
        if mask[step]:
            assert wrong.abs().max() < 1e-5
        else:
            errors.append(wrong)
    return torch.stack(errors).square().mean().sqrt().item()


print(f"torch {torch.__version__.partition('+')[0]}, cache-dit {metadata.version('cache-dit')}")
for name, function in (("straight line", float), ("parabola", lambda step: step**2 / STEPS)):
    for gap in (2, 3, 4, 5):
        reuse, foca, taylor = (
            error(function, gap, calibrator)
            for calibrator in (None, FoCaCalibratorConfig(), TaylorSeerCalibratorConfig(taylorseer_order=1))
        )
        print(f"{name}, every {gap}: reuse {reuse:.3f}, FoCa {foca:.3f}, TaylorSeer {taylor:.3f}")
        assert taylor < foca / 2 and (foca > 2 * reuse) == (gap > 3)
        assert taylor < 1e-4 or function is not float
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" CACHE_DIT_LOG_LEVEL=ERROR env/bin/python seen.py
