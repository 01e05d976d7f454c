"""How concentrated dense attention is, block by block, and how far that of an early step holds in later ones."""

from collections.abc import Sequence
from typing import Any

import torch
from adaspa.ops import attention_with_block_mass, dense_attention
from torch import Tensor

BLOCK = 64  # tokens of a query block and of a key block
MASSES = (0.9, 0.8)  # whose density is asked for
DENSITIES = (0.2, 0.1)  # whose recall is asked for
FOLLOWED = 0.2  # density of the blocks that are kept from the first look
LOOKS = (0.2, 0.36, 0.52, 0.68, 0.84, 0.96)  # shares of the steps


class Watch:
    """Dense attention that is looked at in some steps, as a meter of `demo_model.field.meter.metered`.

    Args:
        steps: of the denoising.
        branches: forwards in each step.
        looks: shares of the steps at which it is looked at.
    """

    def __init__(self, steps: int, branches: int, looks: Sequence[float] = LOOKS) -> None:
        self.branches, self.forwards = branches, -1
        self.first: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        """By branch and layer: LSE of the first look ``[B, H, S]``, and the blocks chosen there, bool."""
        self.found: dict[int, list[dict[str, Tensor]]] = {int(share * steps): [] for share in looks}
        """By step, of each layer and branch: figures by name, each ``[B]``."""

    def begin_forward(self, _: Any, __: dict[str, Any]) -> None:
        self.forwards += 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """``[B, H, S, D]``."""
        step, branch = divmod(self.forwards, self.branches)
        if step not in self.found:
            return dense_attention(q, k, v)[0]
        out, mass, lse = attention_with_block_mass(q, k, v, key_block=BLOCK)
        shares = mass / mass.sum(-1, keepdim=True)
        figures = concentration(shares)
        kept = heaviest(shares, FOLLOWED)
        if (branch, layer) not in self.first:
            self.first[branch, layer] = lse, kept
        early_lse, early = self.first[branch, layer]
        figures["lse_change"] = (lse - early_lse).abs().mean((1, 2))
        figures["same_blocks"] = (kept & early).sum((1, 2, 3)) / kept.sum((1, 2, 3))
        figures["early_recall"] = (shares * early).sum(-1).mean((1, 2))
        self.found[step].append(figures)
        return out

    def figures(self) -> dict[str, dict[str, list[float]]]:
        """Means over layers, branches and heads, one for each clip, by figure and by step.

        ``density_at_MASS``: share of the key blocks that a row of query blocks needs at least to keep that mass.
        ``recall_at_DENSITY``: mass in that share of the blocks, the heaviest of each row. ``lse_change``: of a query's
        LSE since the first look, nats. ``early_recall``: as ``recall_at_0.2``, of the blocks chosen at the first look;
        ``same_blocks``: how many of the heaviest these are.
        """
        steps = [step for step, found in self.found.items() if found]
        return {
            name: {str(step): _means([figures[name] for figures in self.found[step]]) for step in steps}
            for name in self.found[steps[0]][0]
        }


def concentration(shares: Tensor) -> dict[str, Tensor]:
    """Density at each of `MASSES` and recall at each of `DENSITIES`, ``[B]``, of shares of mass ``[B, H, nq, nk]``."""
    held = shares.sort(dim=-1, descending=True).values.cumsum(-1)
    blocks = shares.shape[-1]
    figures = {f"density_at_{mass}": ((held < mass).sum(-1) + 1).float().mean((1, 2)) / blocks for mass in MASSES}
    figures |= {f"recall_at_{share}": held[..., _count(share, blocks) - 1].mean((1, 2)) for share in DENSITIES}
    return figures


def heaviest(shares: Tensor, density: float) -> Tensor:
    """Which blocks of ``[B, H, nq, nk]`` are among this share of the heaviest of their row: bool."""
    chosen = shares.topk(_count(density, shares.shape[-1]), dim=-1).indices
    return torch.zeros_like(shares, dtype=torch.bool).scatter_(-1, chosen, torch.ones_like(chosen, dtype=torch.bool))


def _count(density: float, blocks: int) -> int:
    return max(1, round(density * blocks))


def _means(figures: list[Tensor]) -> list[float]:
    return [round(value, 5) for value in torch.stack(figures).mean(0).tolist()]
