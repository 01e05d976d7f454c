"""What an attention call lost: the mass it left out, and how its output differs from the dense one."""

from typing import Any

import torch
from torch import Tensor

from demo_model.field.call import Call, Outcome, block_mean, by_block, over_tokens

STARVED = 0.1
"""A query is starved that keeps less than this of its mass."""


def stretch(error: Tensor, dense: Tensor) -> Tensor:
    """How much longer the output is along the dense one, for each head ``[B, H]``; negative if it is shorter."""
    return (error * dense).sum((2, 3)) / dense.square().sum((2, 3))


def mass_lost(call: Call, keep: Tensor) -> dict[str, Tensor]:
    """Figures of the softmax mass in what is kept, for each clip ``[B]``.

    ``uneven`` is the log of the mean kept share of a head's queries, minus the mean of its log, as in the library's
    report; ``uneven_head`` that of the worst head.

    Those of rows are of single queries; those of blocks of the mean over the 64 queries of a block.
    """
    if keep.shape[-1] == call.logits.shape[-1]:
        by_row = by_block((call.logits - call.lse).exp_() * keep)
        blocks = None
    else:
        by_row = call.mass_by_block * over_tokens(keep)
        blocks = block_mean(call.mass_by_block)
    rows = by_row.sum(-1).clamp(1e-6, 1.0)
    uneven = rows.mean(2).log() - rows.log().mean(2)
    figures = {
        "recall": rows.mean((1, 2)),
        "starved": (rows < STARVED).float().mean((1, 2)),
        "uneven": uneven.mean(1),
        "uneven_head": uneven.amax(1),
        "row_recall_p5": rows.flatten(1).quantile(0.05, dim=1),
        "log_loss": -rows.log().mean((1, 2)),
        "square_loss": (1 - rows).square().mean((1, 2)).sqrt(),
    }
    if blocks is not None:
        left = torch.where(keep, 0.0, blocks)
        figures["missed_norm"] = left.square().sum(-1).sqrt().mean((1, 2))
        figures["missed_most"] = left.amax(-1).mean((1, 2))
        least = torch.where(keep, blocks, torch.inf).amin(-1, keepdim=True)
        figures["misranked"] = torch.where(left > least, left - least, 0.0).sum(-1).mean((1, 2))
    return figures


def output_error(call: Call, out: Tensor) -> dict[str, Tensor]:
    """How the output differs from the dense one, for each clip ``[B]``; sizes are relative to the dense output's.

    ``shared_error`` is that of the mean over each 64 neighbouring tokens, ``private_error`` that of what differs from
    it. ``stretch`` is the mean over heads.
    """
    dense = call.dense.float()
    error = out.float() - dense
    size = _norm(dense)
    shared = over_tokens(block_mean(error))
    return {
        "error": _norm(error) / size,
        "shared_error": _norm(shared) / size,
        "private_error": _norm(error - shared) / size,
        "stretch": stretch(error, dense).mean(1),
    }


def spectrum(call: Call, out: Tensor) -> dict[str, Tensor]:
    """Energy of the error and of the dense output by spatial frequency, summed over clips: ``[rows / 2 + 1]``.

    The frequency is the distance from zero in cycles a picture, rounded; what lies beyond the edge counts to it.
    """
    dense = call.dense.float()
    _, rows, columns = call.grid
    wave = [torch.fft.fftfreq(n, 1 / n, device=out.device) for n in (rows, columns)]
    distance = (wave[0].unsqueeze(1).square() + wave[1].square()).sqrt().round().long().clamp(max=rows // 2).flatten()
    found = {}
    for name, x in (("error", out.float() - dense), ("dense", dense)):
        waves = torch.fft.fft2(x.unflatten(2, call.grid), dim=(3, 4), norm="ortho").abs().square()
        energy = waves.sum((0, 1, 2, 5)).flatten()
        found[name] = torch.zeros(rows // 2 + 1, device=out.device).index_add_(0, distance, energy)
    return found


def _norm(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3)).sqrt()


class Tally:
    """Means over the calls that were looked at: for each clip, by layer, and of spectra."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, Tensor]]] = []
        self.spectra: list[dict[str, Tensor]] = []

    def look(self, call: Call, outcome: Outcome) -> None:
        figures = output_error(call, outcome.out)
        if outcome.keep is not None:
            figures |= mass_lost(call, outcome.keep)
        self.calls.append((call.place.layer, figures))
        self.spectra.append(spectrum(call, outcome.out))

    def by_clip(self) -> dict[str, list[float]]:
        names = dict.fromkeys(name for _, found in self.calls for name in found)
        return {
            name: rounded(torch.stack([found[name] for _, found in self.calls if name in found]).mean(0))
            for name in names
        }

    def by_layer(self, name: str) -> list[float]:
        known = [(layer, found[name].mean()) for layer, found in self.calls if name in found]
        return [
            round(float(torch.stack([value for at, value in known if at == layer]).mean()), 5)
            for layer in sorted({layer for layer, _ in known})
        ]

    def spectrum(self) -> dict[str, list[float]]:
        return {
            name: rounded(torch.stack([found[name] for found in self.spectra]).double().sum(0), digits=7, relative=True)
            for name in ("error", "dense")
        }

    def figures(self) -> dict[str, Any]:
        if not self.calls:
            return {}
        known = ("error", "private_error", "stretch", "starved", "uneven", "uneven_head")
        layers = {name: self.by_layer(name) for name in known if any(name in found for _, found in self.calls)}
        return {"by_clip": self.by_clip(), "by_layer": layers, "spectrum": self.spectrum()}


def rounded(values: Tensor, *, digits: int = 5, relative: bool = False) -> list[float]:
    if relative:
        values = values / values.sum()
    return [round(value, digits) for value in values.double().tolist()]
