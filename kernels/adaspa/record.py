"""What AdaSpa did in one request: the figures of the report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from adaspa.index import BlockIndex
from adaspa.ledger import Ledger
from adaspa.schedule import StepKind

MAP_SIDE = 64


@dataclass(eq=False)
class PatternRecord:
    """One pattern of one layer and CFG branch; ``density`` and ``recall`` are fp32 ``[B, H]``.

    ``map`` is its `pattern_map`, where the config asks for one. ``estimated`` says that the search scored some rows
    only (``query_stride``), so that ``recall`` is an estimate, as a rule a little too high.
    """

    layer: int
    step: int
    density: torch.Tensor
    recall: torch.Tensor
    map: torch.Tensor | None = None
    estimated: bool = False
    uses: int = 0
    pairs: float = 0.0
    """Query-key pairs that the calls which used it would have had if dense."""
    measured: list[torch.Tensor] = field(default_factory=list)

    def mean_recall(self) -> torch.Tensor:
        """The recall measured in use where it was, else that of the search."""
        return torch.stack(self.measured).mean(0) if self.measured else self.recall


def pattern_map(index: BlockIndex) -> torch.Tensor:
    """The share of kept blocks of the first sample in up to 64 x 64 parts, fp16 ``[H, rows, columns]``."""
    mask = index.to_mask()[0]
    parts = (min(MAP_SIDE, mask.shape[1]), min(MAP_SIDE, mask.shape[2]))
    return F.adaptive_avg_pool2d(mask.float(), parts).half()


class RequestRecord:
    """Steps, seconds and patterns of one request. It holds small tensors only and outlives the caches."""

    def __init__(self) -> None:
        self.step_kinds: dict[int, StepKind] = {}
        self.patterns: list[PatternRecord] = []
        self.cache_bytes = 0
        self.host_bytes = 0
        self.refused_layers: list[int] = []
        self.ledger = Ledger()
        self.ranks = 1
        """Processes that share the sequence."""
        self.imbalances: list[tuple[float, float]] = []
        """For each pattern the blocks of the busiest rank over the mean: with heads dealt evenly, and as dealt."""
        self._seconds = dict.fromkeys(StepKind, 0.0)
        self._events: list[tuple[StepKind, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def timed(self, kind: StepKind, device: torch.device) -> Iterator[None]:
        """Count the time of the enclosed work as ``kind``. On a GPU by events, read only when the report is."""
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            stop.record()
            self._events.append((kind, start, stop))
        else:
            begin = time.perf_counter()
            yield
            self._seconds[kind] += time.perf_counter() - begin

    def report(self) -> dict[str, Any]:
        """The figures as JSON-ready values. On a GPU it waits for the work that was timed.

        Keys:

        - ``attention_work``: see the method; None before any attention ran.
        - ``density``: share of the blocks in the patterns, a mean over the calls that used one; 1.0 when none did. It
          leaves out all that had no pattern: dense steps, dense and refused layers, the passes of the searches.
        - ``recall``: share of the softmax mass in those blocks, the same mean, or None. ``recall_is_estimate``: True
          when part of it comes from searches that scored some rows only (``query_stride``).
        - ``attention_calls``: calls of the attention by what they did, ``dense``, ``search`` or ``sparse``, and
          ``skipped``: those that a step cache or skip-layer guidance left out. One a layer and forward, or one a sample
          where the texts of a batch differ in length.
        - ``kernels``: for each operation of ours its calls by the backend that ran them (`adaspa.ops.backends`);
          ``diffusers`` where a backend of theirs was chosen for dense attention.
        - ``fell_back``: what did not run as the schedule has it, one sentence for each reason; empty if all did.
        - ``searches``, ``dense_steps``, ``search_steps``, ``sparse_steps``; ``dense_seconds``, ``search_seconds``,
          ``sparse_seconds``: time in the transformer by kind of step.
        - ``cache_bytes`` and ``host_bytes``: peaks on the device and spilled. ``refused_layers``: kept dense by the
          cache budget.
        - ``ranks``: processes that share the sequence, 1 without context parallelism; all of them report the same
          patterns. ``imbalance``: the blocks kept by the busiest rank over the mean, as the heads were dealt, and
          ``even_imbalance`` had they been dealt evenly; means over patterns, None without any.
        - ``layers``: for each layer with a pattern its index and the ``density`` and ``recall`` of every head.
        """
        for kind, start, stop in self._events:
            stop.synchronize()
            self._seconds[kind] += start.elapsed_time(stop) / 1000
        self._events.clear()
        kinds = list(self.step_kinds.values())
        layers = self._layers()
        used = sum(pattern.uses for pattern in self.patterns)
        return {
            "attention_work": self.attention_work(),
            "density": self._mean([pattern.density.mean() for pattern in self.patterns]) if used else 1.0,
            "recall": self._mean([pattern.mean_recall().mean() for pattern in self.patterns]) if used else None,
            "recall_is_estimate": any(p.uses and p.estimated and not p.measured for p in self.patterns),
            "attention_calls": {
                **{str(kind): self.ledger.calls[kind] for kind in StepKind},
                "skipped": self.ledger.skipped,
            },
            "kernels": self._kernels(),
            "fell_back": self.ledger.reasons(),
            "searches": kinds.count(StepKind.SEARCH),
            **{f"{kind}_steps": kinds.count(kind) for kind in StepKind},
            **{f"{kind}_seconds": seconds for kind, seconds in self._seconds.items()},
            "cache_bytes": self.cache_bytes,
            "host_bytes": self.host_bytes,
            "refused_layers": self.refused_layers,
            "ranks": self.ranks,
            "even_imbalance": _mean_of([even for even, _ in self.imbalances]),
            "imbalance": _mean_of([dealt for _, dealt in self.imbalances]),
            "layers": layers,
        }

    def attention_work(self) -> float | None:
        """The attention that ran, as a share of what the same forwards would have taken if they had been dense.

        Counted in multiplications at the attention, call by call; waits for the device. A dense call is 1. So is the
        first search behind a dense step, whose scores come with its dense pass. A later search is half a dense call,
        the product of queries and keys, over ``query_stride``, and its sparse attention; a search without the LSE of an
        earlier step is that half, over ``query_stride``, and a dense call. A sparse call is its density, text
        included. What another hook skipped counts as nothing done, and the recall that ``measure_recall`` measures is
        left out. None when no attention has run.
        """
        sparse = [(pattern.pairs, pattern.density.mean()) for pattern in self.patterns if pattern.uses]
        done = self.ledger.pairs
        if sparse:
            pairs, densities = zip(*sparse, strict=True)
            done += float(torch.stack(densities).cpu().double() @ torch.tensor(pairs, dtype=torch.float64))
        if not self.ledger.dense_pairs:  # nothing ran, or the model did all of it by itself
            return 1.0 if self.ledger.calls else None
        return done / self.ledger.dense_pairs

    def _kernels(self) -> dict[str, dict[str, int]]:
        kernels: dict[str, dict[str, int]] = {}
        for (op, backend), calls in sorted(self.ledger.kernels.items()):
            kernels.setdefault(op, {})[backend] = calls
        return kernels

    def _mean(self, values: list[torch.Tensor]) -> float:
        uses = torch.tensor([pattern.uses for pattern in self.patterns], dtype=torch.float32)
        return float((torch.stack(values).cpu() * uses).sum() / uses.sum())

    def _layers(self) -> list[dict[str, Any]]:
        layers: dict[int, list[PatternRecord]] = {}
        for pattern in self.patterns:
            if pattern.uses:
                layers.setdefault(pattern.layer, []).append(pattern)
        return [
            {
                "layer": layer,
                "density": _per_head([p.density for p in patterns], [p.uses for p in patterns]),
                "recall": _per_head([p.mean_recall() for p in patterns], [p.uses for p in patterns]),
            }
            for layer, patterns in sorted(layers.items())
        ]


def _mean_of(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _per_head(values: list[torch.Tensor], uses: list[int]) -> list[float]:
    """The mean over patterns, weighted by their uses, and over the batch."""
    weighted = torch.stack([value.mean(0) * count for value, count in zip(values, uses, strict=True)])
    means: list[float] = (weighted.sum(0) / sum(uses)).tolist()
    return means
