"""Ledger of the attention that ran in one request, call by call: its cost, and what was not as the schedule has it."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from adaspa.ops.backends import KernelCounts
from adaspa.schedule import StepKind

SCORING = 0.5
"""Cost of scoring every row, in dense calls: the product of queries and keys without that of weights and values."""


def query_key_pairs(sequences: int, tokens: int) -> int:
    """Query-key pairs of a dense call; its multiplications are these times twice the head_dim."""
    return sequences * tokens**2


@dataclass
class Ledger:
    """Calls of the attention and their cost in query-key pairs, a dense call having all of its own.

    Sparse work is left to the patterns, whose density may still be on its way from the device (`PatternRecord.pairs`).
    """

    calls: Counter[StepKind] = field(default_factory=Counter)
    kernels: dict[StepKind, KernelCounts] = field(default_factory=lambda: {kind: Counter() for kind in StepKind})
    """Operations as they ran, by what the call of the attention did."""
    forwards: int = 0
    """Forwards of the transformer that ended well."""
    reused: int = 0
    """Forwards of which another hook left out some calls."""
    skipped: int = 0
    """Calls that another hook left out: a step cache that reused an output, or guidance that skips layers."""
    shared: int = 0
    """Calls that used the lists of another guidance branch."""
    compensated: int = 0
    """Sparse calls that the residual of their search was added to."""
    pairs: dict[StepKind, float] = field(default_factory=lambda: dict.fromkeys(StepKind, 0.0))
    """Done by dense calls and searches."""
    dense_pairs: float = 0.0
    """Cost of the same forwards if they had been dense."""
    _reasons: dict[str, tuple[set[int], int]] = field(default_factory=dict)
    _forward: dict[int, set[StepKind]] = field(default_factory=dict)
    _why: dict[int, str] = field(default_factory=dict)
    _owed: set[tuple[str, int]] = field(default_factory=set)
    _searched: dict[tuple[str, int], int] = field(default_factory=dict)
    _size: float = 0.0

    def begin_forward(self) -> None:
        """Open the account of a forward of the transformer."""
        self._forward.clear()
        self._why.clear()

    def ran(self, layer: int, kind: StepKind, size: float, cost: float, why: str | None = None) -> None:
        """Enter a call of the attention of ``layer``.

        Args:
            size: query-key pairs of the call if dense, over batch and heads.
            cost: what it did, in units of that, but for its sparse part.
            why: what made it dense, if not the schedule.
        """
        self.calls[kind] += 1
        self.pairs[kind] += cost * size
        self.dense_pairs += size
        self._size = size
        self._forward.setdefault(layer, set()).add(kind)
        if why is not None:
            self._why[layer] = why

    def end_forward(
        self, step: int, branch: str, expected: list[StepKind], may_skip: Callable[[int], bool], own: Collection[int]
    ) -> None:
        """Close the account of a forward that has ended well, and compare it with the schedule.

        Args:
            branch: the guidance branch whose lists the forward uses.
            expected: what the schedule has each layer do.
            may_skip: whether a hook of others stands before the attention of a layer, which may leave its call out.
            own: layers that attend under a mask or pattern of the model's own, by ours or another way.
        """
        before = self.skipped
        for layer, wanted in enumerate(expected):
            site = (branch, layer)
            ran = self._forward.get(layer, set())
            if layer in own:
                if not ran:
                    self.ran(layer, StepKind.DENSE, self._size, 1.0)
                if ran or wanted is not StepKind.DENSE:
                    self._note(layer, "used the model's own mask between video tokens")
            elif not ran:
                self._left_out(site, wanted, explained=may_skip(layer))
            elif StepKind.DENSE in ran:
                if wanted is not StepKind.DENSE:
                    self._note(layer, self._why.get(layer, f"ran dense in a {wanted} step"))
            elif StepKind.SEARCH in ran:
                # A site that has searched before makes up for a search whose step a cache skipped.
                if wanted is StepKind.SPARSE and site not in self._owed and site not in self._searched:
                    self._note(layer, "searched in a sparse step, because it had no pattern")
                self._owed.discard(site)
                self._searched[site] = step
            # A step searches once, however many evaluations it has.
            elif wanted is StepKind.DENSE or (wanted is StepKind.SEARCH and self._searched.get(site) != step):
                self._note(layer, f"ran sparse in a {wanted} step")
        self.forwards += 1
        self.reused += self.skipped > before

    def fall_back(self, reason: str) -> None:
        """Note why the request did not run as the schedule has it."""
        self._reasons.setdefault(reason, (set(), 0))

    def reasons(self) -> list[str]:
        """List what did not run as the schedule has it, and why; empty if all did."""
        return [
            f"{_named(layers)} {reason} ({calls} call{'s' * (calls > 1)})" if layers else reason
            for reason, (layers, calls) in self._reasons.items()
        ]

    def _left_out(self, site: tuple[str, int], wanted: StepKind, *, explained: bool) -> None:
        self.dense_pairs += self._size
        if explained:
            self.skipped += 1
            if wanted is StepKind.SEARCH:
                self._owed.add(site)
        else:
            self._note(site[1], "did not run through AdaSpa")

    def _note(self, layer: int, reason: str) -> None:
        layers, calls = self._reasons.get(reason, (set(), 0))
        self._reasons[reason] = ({*layers, layer}, calls + 1)


def _named(layers: Collection[int]) -> str:
    """``layers 0-3, 7`` of 0, 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    ranges = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return f"layer{'s' * (len(layers) > 1)} {ranges}"
