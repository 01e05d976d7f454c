#!/usr/bin/env bash
# diffusers 0.42.1: TaylorSeer with max_order=3 predicts hardly better than with 2, and with 2 it misses a parabola.
#
# For derivatives at the last computed step it takes differences to the steps before it. A difference over an interval
# is the derivative of half an interval earlier, and that lag costs as much as the next order brings. The outputs
# themselves hold more: Newton's polynomial through the last two, three or four of them stands beside. In
# huggingface/diffusers#12648, which brought TaylorSeer, it was seen that higher orders did not make better pictures.
#
# One block, whose output is a plain function of the step, goes through 30 steps with diffusers' own hooks, in float64.
# Shown is the root mean square error of steps 15 to 29, computed ones among them.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   interval 2, parabola: order 1 2.1909, order 2 1.4606 (Newton 0.0000), order 3 1.4606 (Newton 0.0000)
#   interval 3, parabola: order 1 6.2183, order 2 3.8730 (Newton 0.0000), order 3 3.8730 (Newton 0.0000)
#   interval 5, parabola: order 1 20.5134, order 2 12.2474 (Newton 0.0000), order 3 12.0586 (Newton 0.0000)
#   interval 2, cosine: order 1 0.0063, order 2 0.0045 (Newton 0.0015), order 3 0.0044 (Newton 0.0002)
#   interval 3, cosine: order 1 0.0151, order 2 0.0112 (Newton 0.0073), order 3 0.0108 (Newton 0.0009)
#   interval 5, cosine: order 1 0.0459, order 2 0.0392 (Newton 0.0414), order 3 0.0355 (Newton 0.0074)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import math
from importlib import metadata

import torch
from diffusers import TaylorSeerCacheConfig
from diffusers.models.cache_utils import CacheMixin

STEPS = [torch.tensor(step, dtype=torch.float64) for step in range(30)]


class Block(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.computed = function, []

    def forward(self, step):
        self.computed.append(int(step))
        return self.function(step)


class Model(torch.nn.Module, CacheMixin):
    def __init__(self, function):
        super().__init__()
        self.block = Block(function)

    def forward(self, step):
        return self.block(step)


def newton(function, points, step):
    return sum(function(STEPS[p]) * math.prod((step - o) / (p - o) for o in points if o != p) for p in points)


def errors(function, interval, order):
    """Root mean square errors of TaylorSeer and of the polynomial through the same outputs."""
    model = Model(function)
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval, max_order=order, taylor_factors_dtype=torch.float64, cache_identifiers=["block"]
        )
    )
    squares = []
    for step, now in enumerate(STEPS):
        with model.cache_context("cond"):
            predicted = model(now)
        points = model.block.computed[-order - 1 :]
        squares.append([(guess - function(now)) ** 2 for guess in (predicted, newton(function, points, step))])
    return torch.tensor(squares[15:]).mean(0).sqrt().tolist()


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, function in (("parabola", torch.square), ("cosine", lambda step: torch.cos(step / 10))):
    for interval in (2, 3, 5):
        (first, _), (second, right), (third, best) = (errors(function, interval, order) for order in (1, 2, 3))
        print(
            f"interval {interval}, {name}: order 1 {first:.4f}, order 2 {second:.4f} (Newton {right:.4f}),"
            f" order 3 {third:.4f} (Newton {best:.4f})"
        )
        assert third > 0.9 * second > 0.5 * first and best < 0.25 * third
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
