"""What do pooled scores miss? Looked at query by query, in the attention of dense denoisings.

    python -m demo_model.field.missed --output missed.json

In one step every layer's exact choice of blocks is compared with other routers' at the same density. Queries are sorted
by how many keys hold their attention. Of the query that the first router does most harm to there is a picture. What
each row of `grid` would lose there is measured too.
"""

import argparse
import json
from dataclasses import dataclass, field
from datetime import date
from statistics import mean
from typing import Any

import torch
from adaspa.selection import Policy
from adaspa.selection.sub_block import SubBlock
from torch import Tensor

from benchmarks.fidelity.other_patterns import MeanPooled
from demo_model.field.call import BLOCK, Call, Place, block_mean, over_tokens
from demo_model.field.grid import rows, uniform
from demo_model.field.measures import mass_lost, output_error
from demo_model.field.meter import Meter, metered
from demo_model.field.methods.exact import selected
from demo_model.field.subject import Subject, add_settings, head_of

DENSITY, TOKENS = 0.19, 16
EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2305)
"""Of the effective number of keys, the exponential of the entropy of a query's attention."""
STARVED = 0.1
"""A query is starved that keeps less than this of its mass."""
AT = 0.56
"""Share of the steps at which the attention is looked at."""


def routers() -> dict[str, Policy]:
    return {
        "sub-blocks of 16 tokens": SubBlock(1 - DENSITY, tokens=TOKENS),
        "sub-blocks of 8 tokens": SubBlock(1 - DENSITY, tokens=8),
        "means of whole blocks": MeanPooled(1 - DENSITY),
    }


@dataclass
class Found:
    """Sums by effective number of keys, and the example."""

    queries: Tensor = field(default_factory=lambda: torch.zeros(len(EDGES) - 1))
    kept: dict[str, Tensor] = field(default_factory=dict)
    starved: dict[str, Tensor] = field(default_factory=dict)
    by_head: dict[str, dict[tuple[int, int], list[float]]] = field(default_factory=dict)
    lost: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=lambda: {"lost": 0.0})

    def look(self, call: Call) -> None:
        weights = (call.logits - call.lse).exp()
        keys = torch.special.entr(weights).sum(-1).exp()
        bins = torch.bucketize(keys, torch.tensor(EDGES, device=keys.device), right=True) - 1
        self.queries += _sums(torch.ones_like(keys), bins)
        mass = block_mean(call.mass_by_block)
        kept = {"exact": selected(uniform(DENSITY), call, mass)}
        kept |= {name: selected(policy, call, mass) for name, policy in routers().items()}
        shares = {name: (call.mass_by_block * over_tokens(keep)).sum(-1) for name, keep in kept.items()}
        for name, found in shares.items():
            starved = (found < STARVED).float()
            self.kept[name] = self.kept.get(name, 0) + _sums(found, bins)
            self.starved[name] = self.starved.get(name, 0) + _sums(starved, bins)
            for head, share in enumerate(starved.mean((0, 2)).tolist()):
                self.by_head.setdefault(name, {}).setdefault((call.place.layer, head), []).append(share)
        self._example(call, weights, shares, mass)

    def try_rows(self, call: Call, steps: int) -> None:
        """What each method would lose of this call."""
        for row in rows().values():
            if row.group == "field":
                method = row.make(steps)
                outcome = method.attend(call)
                if outcome.keep is None:  # a search: what it found is for the next call
                    outcome = method.attend(call)
                assert outcome.keep is not None
                figures = mass_lost(call, outcome.keep) | output_error(call, outcome.out)
                self.lost.setdefault(row.name, []).append({name: float(x.mean()) for name, x in figures.items()})

    def _example(self, call: Call, weights: Tensor, shares: dict[str, Tensor], mass: Tensor) -> None:
        """The query of the most even block that loses most by the first router and keeps most by the exact choice."""
        name = next(iter(routers()))
        lost = shares["exact"] - shares[name]
        if float(lost.max()) <= self.example["lost"]:
            return
        clip, head, query = (int(i) for i in torch.unravel_index(lost.argmax(), lost.shape))
        row, key = query // BLOCK, int(weights[clip, head, query].argmax())
        here, there = (slice(at // BLOCK * BLOCK, (at // BLOCK + 1) * BLOCK) for at in (query, key))
        q, k = (x[clip, head].float().unflatten(0, (-1, TOKENS)).mean(1) for x in (call.q, call.k))
        size = BLOCK // TOKENS
        parts = (q @ k.T * call.q.shape[-1] ** -0.5).unflatten(0, (-1, size)).unflatten(2, (-1, size))
        self.example = {
            "lost": float(lost.max()),
            "place": call.place._asdict() | {"clip": clip, "head": head, "query": query, "key": key},
            "query_mass": _rounded(call.mass_by_block[clip, head, query]),
            "row_mass": _rounded(mass[clip, head, row]),
            "row_score": _rounded(parts.logsumexp((1, 3))[row].softmax(-1)),
            "tokens": [_rounded(line) for line in weights[clip, head, here, there]],
        }

    def figures(self) -> dict[str, Any]:
        heads = {
            name: [{"layer": layer, "head": head, "starved": mean(x)} for (layer, head), x in sorted(found.items())]
            for name, found in self.by_head.items()
        }
        return {
            "edges": EDGES,
            "queries": self.queries.tolist(),
            "kept": {name: _rounded(sums / self.queries.clamp(min=1)) for name, sums in self.kept.items()},
            "starved": {name: _rounded(sums / self.queries.clamp(min=1)) for name, sums in self.starved.items()},
            "recall": {name: round(float(sums.sum() / self.queries.sum()), 5) for name, sums in self.kept.items()},
            "by_head": heads,
            "lost": {
                name: {key: round(mean([call[key] for call in calls]), 5) for key in calls[0]}
                for name, calls in self.lost.items()
            },
            "example": self.example,
        }


def _sums(what: Tensor, bins: Tensor) -> Tensor:
    """Sums by bin, on the CPU."""
    sums = torch.zeros(len(EDGES) - 1, device=bins.device)
    return sums.index_add_(0, bins.flatten().clamp(0, len(EDGES) - 2), what.float().flatten()).cpu()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.double().tolist()]


class Looking(Meter):
    """Dense attention whose calls are looked at in some steps."""

    def __init__(self, found: Found, steps: int, branches: int) -> None:
        super().__init__(None, steps, branches, steps)
        self.found, self.at = found, int(AT * steps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        step, branch = divmod(self.forwards, self.branches)
        call = Call(q, k, v, Place(step, branch, layer), self.grid)
        if step == self.at:
            self.found.look(call)
            self.found.try_rows(call, self.steps)
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
    print(json.dumps({key: result[key] for key in ("recall", "queries", "kept", "starved")}))


if __name__ == "__main__":
    main()
