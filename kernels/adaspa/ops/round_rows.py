"""An activation and the rounding of its rows to e4m3, in one pass over the memory: what a product in e4m3 takes in."""

from typing import Literal, get_args

import torch

from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.ops.e4m3 import E4M3
from adaspa.ops.operation import operation

Activation = Literal["none", "gelu_tanh", "swiglu"]


def round_rows(
    x: torch.Tensor, activation: Activation, before: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activate rows, and round them to e4m3 by the largest magnitude of each.

    All is computed in fp32: what is activated is rounded once.

    Args:
        x: ``[N, W]``; for ``swiglu`` ``[N, 2 W]``, whose second half is the gate.
        activation: ``gelu_tanh`` is GELU by its approximation with tanh; ``swiglu`` is ``x * silu(gate)``.
        before: ``[N, B]``, columns that come first in the result, not activated; None for no such columns.

    Returns:
        ``[N, B + W]`` in e4m3, and the scales ``[N, 1]`` in fp32 that give back the values.

    Raises:
        ValueError: naming the argument and what is allowed.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {get_args(Activation)}, got {activation!r}")
    if x.ndim != 2 or not x.is_floating_point() or (activation == "swiglu" and x.shape[1] % 2):
        raise ValueError(f"x must be floating point [N, W], with an even W for swiglu, got {x.dtype} {tuple(x.shape)}")
    if before is None:
        before = x[:, :0]
    if before.ndim != 2 or before.shape[0] != x.shape[0] or before.dtype != x.dtype or before.device != x.device:
        raise ValueError(
            f"before must be {x.dtype} [{x.shape[0]}, B] on {x.device}, got {before.dtype} {tuple(before.shape)} on "
            f"{before.device}"
        )
    rounded: tuple[torch.Tensor, torch.Tensor] = _run(x, before, activation)
    return rounded


@operation("adaspa::round_rows")
def _run(x: torch.Tensor, before: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    rounded: tuple[torch.Tensor, torch.Tensor] = backends.run(Call("round_rows", (x,)), x, before, activation)
    return rounded


@_run.register_fake
def _(x: torch.Tensor, before: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = before.shape[1] + x.shape[1] // (2 if activation == "swiglu" else 1)
    return x.new_empty(x.shape[0], width, dtype=E4M3), x.new_empty(x.shape[0], 1, dtype=torch.float32)
