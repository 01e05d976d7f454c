"""Classifies the motion of an outline among `scenes.MOTIONS` from its path, its size and its angle over time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from demo_model.scenes import TRANSLATIONS

MOVED = 0.4  # half frames from the first frame to the last: a translation has 1.24
STRAIGHT = math.tan(math.pi / 8)  # share of the larger component that makes a direction diagonal
SWING = 0.25  # half frames between two reversals of a bounce, which has 1.0
RESIZED = 1.4  # ratio of the last radius to the first: growing has 2.8
TURNED = 0.3  # full turns over the clip: rotating has 0.75


@dataclass(frozen=True)
class ActorPath:
    """An outline over time, each a tensor [frames].

    `x`, `y` and `radius` are in half frames, `angle` in radians modulo `period` (None for a shape that looks the same
    at any angle); only the frames in the bool `usable` count.
    """

    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    period: float | None
    usable: Tensor


def classify_motion(path: ActorPath) -> str | None:
    """The motion, one of `scenes.MOTIONS`, or None where it is seen in fewer than two frames."""
    times = path.usable.nonzero()[:, 0]
    if len(times) < 2:
        return None
    x, y = path.x[times], path.y[times]
    last = len(path.usable) - 1
    dx, dy = fitted_change(times, x, last), fitted_change(times, y, last)
    if count_reversals(y) >= 2 and float(x.max() - x.min()) < MOVED:
        return "bounces"
    length = max(abs(dx), abs(dy))
    if length >= MOVED:
        direction = tuple(math.copysign(1.0, d) if abs(d) >= STRAIGHT * length else 0.0 for d in (dx, dy))
        return next(name for name, step in TRANSLATIONS.items() if step == direction)
    growth = fitted_change(times, path.radius[times].log(), last)
    if abs(growth) >= math.log(RESIZED):
        return "grows" if growth > 0 else "shrinks"
    return "rotates" if abs(turns(path)) >= TURNED else "stays still"


def fitted_change(times: Tensor, values: Tensor, last: int) -> float:
    """How far the straight line through `values` at frames `times` goes from frame 0 to frame `last`."""
    t = times.float() - times.float().mean()
    return float((t * (values - values.mean())).sum() / (t**2).sum()) * last


def count_reversals(values: Tensor) -> int:
    """Turning points of `values` [n] that lie at least `SWING` apart."""
    reversals, direction = 0, 0
    low = high = float(values[0])
    for value in values.tolist():
        low, high = min(low, value), max(high, value)
        if direction >= 0 and value <= high - SWING:
            reversals, direction, low = reversals + (direction > 0), -1, value
        elif direction <= 0 and value >= low + SWING:
            reversals, direction, high = reversals + (direction < 0), 1, value
    return reversals


def turns(path: ActorPath) -> float:
    """Full turns over the clip, by the mean turning from one frame to the next where both are usable."""
    if path.period is None:
        return 0.0
    pairs = path.usable[1:] & path.usable[:-1]
    if not bool(pairs.any()):
        return 0.0
    step = (path.angle[1:] - path.angle[:-1])[pairs]
    half = path.period / 2
    step = torch.remainder(step + half, path.period) - half
    return float(step.mean()) * (len(path.usable) - 1) / (2 * math.pi)
