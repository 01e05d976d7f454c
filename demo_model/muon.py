"""Muon on stacks of matrices: `torch.optim.Muon` launches its small kernels for one matrix after the other.

For a transformer as narrow as the demo's those launches take as long as the backward pass; here all matrices of one
shape go through the Newton-Schulz iteration together.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of the quintic; Jordan et al., "Muon", 2024
ITERATIONS = 5


class StackedMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and Nesterov momentum, matrices of one shape at once.

    Args:
        params: matrices, all of them with a gradient at each step.
        lr: learning rate, of the size that AdamW would be given.
        momentum, weight_decay: as there.
    """

    def __init__(self, params: Sequence[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks = defaultdict(list)
            for param in group["params"]:
                stacks[param.shape].append(param)
            for shape, params in stacks.items():
                grad = torch.stack([param.grad for param in params])
                state = self.state[params[0]]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(grad))
                buffer.lerp_(grad, 1.0 - group["momentum"])
                update = orthogonalise(grad.lerp_(buffer, group["momentum"])).to(params[0].dtype)
                torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def orthogonalise(matrices: Tensor) -> Tensor:
    """The orthogonal factor of each matrix, roughly: bf16 of the shape [N, rows, columns] of `matrices`."""
    wide = matrices.bfloat16() if matrices.shape[1] <= matrices.shape[2] else matrices.bfloat16().mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT
