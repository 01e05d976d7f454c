"""Which heavy blocks do estimated scores miss? Looked at in the attention of dense denoisings.

    python -m demo_model.field.missed --output missed.json

In some steps every layer's exact block mass is compared with other routers' choice at the same density. Heavy blocks,
those that the exact choice keeps, are sorted by how many of their keys hold the mass. Of the heaviest block that the
first router misses there is a map.
"""

import argparse
import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch
from adaspa.selection import Policy
from adaspa.selection.sub_block import SubBlock
from torch import Tensor

from benchmarks.fidelity.other_patterns import MeanPooled
from demo_model.field.call import BLOCK, Call, Place, block_mean
from demo_model.field.grid import uniform
from demo_model.field.meter import Meter, metered
from demo_model.field.methods.exact import selected
from demo_model.field.subject import Subject, add_settings, head_of

DENSITY = 0.19
EDGES = (1, 2, 4, 8, 16, 32, 48, 64.1)
"""Of the effective number of keys."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the steps: where the attention is looked at."""


def routers() -> dict[str, Policy]:
    return {
        "sub-blocks of 16 tokens": SubBlock(1 - DENSITY, tokens=16),
        "sub-blocks of 8 tokens": SubBlock(1 - DENSITY, tokens=8),
        "means of whole blocks": MeanPooled(1 - DENSITY),
    }


def effective_keys(call: Call) -> Tensor:
    """How many keys hold a block's mass, the exponential of their entropy: 1 to 64, ``[B, H, nq, nk]``."""
    rows = (call.logits - call.lse).exp()
    keys = block_mean(rows).unflatten(-1, (-1, BLOCK))
    shares = keys / keys.sum(-1, keepdim=True).clamp(min=1e-20)
    return torch.special.entr(shares).sum(-1).exp()


@dataclass
class Found:
    """Sums by effective number of keys, and the example."""

    heavy: Tensor = field(default_factory=lambda: torch.zeros(len(EDGES) - 1))
    mass: Tensor = field(default_factory=lambda: torch.zeros(len(EDGES) - 1))
    missed: dict[str, Tensor] = field(default_factory=dict)
    missed_mass: dict[str, Tensor] = field(default_factory=dict)
    recall: dict[str, list[float]] = field(default_factory=dict)
    rows: int = 0
    example: dict[str, Any] = field(default_factory=lambda: {"mass": 0.0})

    def look(self, call: Call) -> None:
        mass, keys = block_mean(call.mass_by_block), effective_keys(call)
        exact = selected(uniform(DENSITY), call, mass)
        bins = torch.bucketize(keys, torch.tensor(EDGES, device=keys.device), right=True) - 1
        self.rows += exact[..., 0].numel()
        self.heavy += self._sums(exact, bins)
        self.mass += self._sums(exact * mass, bins)
        self.recall.setdefault("exact", []).append(float((mass * exact).sum(-1).mean()))
        for name, policy in routers().items():
            kept = selected(policy, call, mass)
            lost = exact & ~kept
            self.missed[name] = self.missed.get(name, 0) + self._sums(lost, bins)
            self.missed_mass[name] = self.missed_mass.get(name, 0) + self._sums(lost * mass, bins)
            self.recall.setdefault(name, []).append(float((mass * kept).sum(-1).mean()))
        self._example(call, mass, exact, keys)

    def _sums(self, what: Tensor, bins: Tensor) -> Tensor:
        sums = torch.zeros(len(EDGES) - 1, device=bins.device)
        return sums.index_add_(0, bins.flatten().clamp(0, len(EDGES) - 2), what.float().flatten()).cpu()

    def _example(self, call: Call, mass: Tensor, exact: Tensor, keys: Tensor) -> None:
        policy = next(iter(routers().values()))
        lost = torch.where(exact & ~selected(policy, call, mass), mass, 0.0)
        if float(lost.max()) <= self.example["mass"]:
            return
        clip, head, row, column = (int(i) for i in torch.unravel_index(lost.argmax(), lost.shape))
        assert isinstance(policy, SubBlock)
        q, k = (x[clip : clip + 1, head : head + 1].float() for x in (call.q, call.k))
        means = [x.unflatten(2, (-1, policy.tokens)).mean(3) for x in (q, k)]
        parts = (means[0] @ means[1].mT)[0, 0] * q.shape[-1] ** -0.5
        size = BLOCK // policy.tokens
        score = parts.unflatten(0, (-1, size)).unflatten(2, (-1, size)).logsumexp((1, 3))[row].softmax(-1)
        here = slice(row * BLOCK, (row + 1) * BLOCK)
        tokens = (call.logits - call.lse)[clip, head, here, column * BLOCK : (column + 1) * BLOCK].exp()
        self.example = {
            "mass": float(lost.max()),
            "keys": float(keys[clip, head, row, column]),
            "place": call.place._asdict() | {"clip": clip, "head": head, "row": row, "column": column},
            "row_mass": _rounded(mass[clip, head, row]),
            "row_score": _rounded(score),
            "tokens": [_rounded(line) for line in tokens],
        }

    def figures(self) -> dict[str, Any]:
        return {
            "edges": EDGES,
            "rows": self.rows,
            "heavy": self.heavy.tolist(),
            "heavy_mass": _rounded(self.mass / self.rows),
            "missed": {name: sums.tolist() for name, sums in self.missed.items()},
            "missed_mass": {name: _rounded(sums / self.rows) for name, sums in self.missed_mass.items()},
            "recall": {name: round(sum(found) / len(found), 5) for name, found in self.recall.items()},
            "example": self.example,
        }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.double().tolist()]


class Looking(Meter):
    """Dense attention whose calls are looked at in some steps."""

    def __init__(self, found: Found, steps: int, branches: int) -> None:
        super().__init__(None, steps, branches)
        self.found, self.at = found, {round(share * steps) for share in SHARES}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        step, branch = divmod(self.forwards, self.branches)
        call = Call(q, k, v, Place(step, branch, layer), self.grid)
        if step in self.at:
            self.found.look(call)
        return call.dense


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    args = parser.parse_args()
    subject, found = Subject(args), Found()
    for start in range(0, args.captions, args.batch):
        meter = Looking(found, args.steps, subject.branches)
        with metered(subject.pipe.transformer, meter):
            subject.generate(start)
    result = {"date": date.today().isoformat(), **head_of(args, subject.device), "density": DENSITY, **found.figures()}
    args.output.write_text(json.dumps(result) + "\n")
    print(json.dumps({key: result[key] for key in ("recall", "heavy", "missed")}))


if __name__ == "__main__":
    main()
