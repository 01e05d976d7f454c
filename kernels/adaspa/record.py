"""Record of what AdaSpa did in one request: the figures of the report."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from adaspa.heads import ALL_HEADS, Heads
from adaspa.index import BlockIndex
from adaspa.ledger import Ledger
from adaspa.probe import Probe
from adaspa.schedule import StepKind

MAP_SIDE = 64


@dataclass(eq=False)
class PatternRecord:
    """One pattern of one layer and CFG branch; ``density``, ``share`` and ``recall`` are fp32 ``[B, H]``.

    ``density`` counts blocks, ``share`` query-key pairs: the last block of a sequence may be partial.
    ``map`` is its `pattern_map`, where the config asks for one. ``estimated`` says that the search scored some rows
    only (``query_stride``), so that ``recall`` is an estimate, as a rule a little too high.
    """

    layer: int
    step: int
    density: torch.Tensor
    share: torch.Tensor
    recall: torch.Tensor
    map: torch.Tensor | None = None
    estimated: bool = False
    calls: Counter[StepKind] = field(default_factory=Counter)
    """Calls that used it; the first use of a later search is the search's own."""
    dense_pairs: Counter[StepKind] = field(default_factory=Counter)
    """Query-key pairs that those calls would have had if dense."""
    measured: list[torch.Tensor] = field(default_factory=list)
    probe: Probe | None = None
    """Unevenness of what its queries keep, if its search had dense output."""

    @classmethod
    def of(
        cls,
        index: BlockIndex,
        layer: int,
        step: int,
        recall: torch.Tensor,
        *,
        heads: Heads = ALL_HEADS,
    ) -> "PatternRecord":
        """Record a pattern that was chosen in denoising step ``step``, of all heads.

        Args:
            recall: of the heads of this process, fp32 ``[B, H]``.
        """
        own = torch.stack([index.head_density(), index.head_share(), recall], dim=-1)
        density, share, all_recall = heads.gather(own).unbind(-1)
        return cls(layer, step, density, share, all_recall)

    @property
    def uses(self) -> int:
        """Calls that used it."""
        return self.calls.total()

    def used(self, kind: StepKind, pairs: int) -> None:
        """Enter a call that used it, with its number of query-key pairs if dense."""
        self.calls[kind] += 1
        self.dense_pairs[kind] += pairs

    def compared(self, kind: StepKind, pairs: int) -> None:
        """Enter that a dense call attended by it too, to see what its output lacks."""
        self.dense_pairs[kind] += pairs

    def mean_recall(self) -> torch.Tensor:
        """Return the recall measured in use if there is one, else that of the search."""
        return torch.stack(self.measured).mean(0) if self.measured else self.recall


def pattern_map(index: BlockIndex) -> torch.Tensor:
    """Map the share of kept blocks of the first sample in up to 64 x 64 parts, fp16 ``[H, rows, columns]``."""
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
        """Blocks of the busiest rank over the mean, by pattern: with heads dealt evenly, and as dealt."""
        self._seconds = dict.fromkeys(StepKind, 0.0)
        self._events: list[tuple[StepKind, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def timed(self, kind: Callable[[], StepKind], device: torch.device) -> Iterator[None]:
        """Count the time of the enclosed work under what ``kind`` returns after it.

        On a GPU, events measure it; they are read only when the report is.
        """
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            stop.record()
            self._events.append((kind(), start, stop))
        else:
            begin = time.perf_counter()
            yield
            self._seconds[kind()] += time.perf_counter() - begin

    def report(self) -> dict[str, Any]:
        """Report the figures as JSON-ready values. On a GPU it waits for the work that was timed.

        Keys:

        - ``attention_work``: see the method; None before any attention ran.
        - ``density``: share of the blocks in the patterns, a mean over the calls that used one; 1.0 when none did. It
          leaves out all that had no pattern: dense steps, dense and refused layers, the passes of the searches.
        - ``recall``: share of the softmax mass in those blocks, the same mean, or None. ``recall_is_estimate``: True
          when part of it comes from searches that scored some rows only (``query_stride``).
        - ``unevenness``: how unevenly the queries of a head lose mass (`adaspa.probe.Probe`), which costs picture where
          an equal loss costs little. Of the patterns of searches with dense output, on about eight query blocks, as a
          mean over heads, layers and branches; None without any.
        - ``attention_calls``: calls of the attention by what they did, ``dense``, ``search`` or ``sparse``, and
          ``skipped``: those that a step cache or skip-layer guidance left out. One a layer and forward, or one a sample
          where the texts of a batch differ in length.
        - ``shared_list_calls``: those of them that used the lists of another guidance branch (``share_lists``); 0 where
          the branches come in one batch, run in processes of their own or differ in their sequences.
        - ``compensated_calls``: sparse calls that the residual of their search was added to (``compensation``).
        - ``forwards``: of the transformer, one a step and guidance branch. ``reused_forwards``: those of which a step
          cache, or guidance that skips layers, left out attention.
        - ``kernels``: for each operation of ours its calls by the backend that ran them (`adaspa.ops.backends`);
          ``diffusers: NAME`` where a backend of theirs was chosen for dense attention.
        - ``kinds``: what ``dense``, ``search`` and ``sparse`` calls were, each with ``calls``; ``work``, their part of
          ``attention_work``; ``kernels``, the operations as they ran (``op``, ``backend``, ``dtype``, ``calls``);
          ``patterns``, how many lists of blocks they read; ``density``, the share of the blocks in these, a mean over
          the calls; ``reuse``, calls for each list. The last two are None where none was read, as in dense calls.
        - ``fell_back``: what did not run as the schedule has it, one sentence for each reason; empty if all did.
        - ``searches``, ``dense_steps``, ``search_steps``, ``sparse_steps``; ``dense_seconds``, ``search_seconds``,
          ``sparse_seconds``: time in the transformer by kind of step.
        - ``cache_bytes`` and ``host_bytes``: peaks on the device and spilled, without the lists that Hopper's kernels
          keep a second time for small indices (`adaspa.ops.hopper.pair_lists`). ``refused_layers``: kept dense by the
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
            "unevenness": self._unevenness(),
            "attention_calls": {
                **{str(kind): self.ledger.calls[kind] for kind in StepKind},
                "skipped": self.ledger.skipped,
            },
            "shared_list_calls": self.ledger.shared,
            "compensated_calls": self.ledger.compensated,
            "forwards": self.ledger.forwards,
            "reused_forwards": self.ledger.reused,
            "kernels": self._kernels(),
            "kinds": self._kinds(),
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
        """Return the attention that ran, as a share of what the same forwards would have taken if they had been dense.

        Counted in multiplications at the attention, call by call; waits for the device. A dense call is 1. So is the
        first search behind a dense step, whose scores come with its dense pass. A later search is half a dense call,
        the product of queries and keys, over ``query_stride``, and its sparse attention; a search without the LSE of an
        earlier step is that half, over ``query_stride``, and a dense call. Searches with dense output attend sparsely
        too, from the few query blocks that ``unevenness`` looks at, and from all of them for a ``compensation``. A
        sparse call is the share of the query-key pairs in its blocks, text included. What another hook skipped counts
        as nothing done, and the recall that ``measure_recall`` measures is left out. None when no attention has run.
        """
        if not self.ledger.dense_pairs:  # nothing ran, or the model did all of it by itself
            return 1.0 if self.ledger.calls else None
        return sum(self._pairs().values()) / self.ledger.dense_pairs

    def _pairs(self) -> dict[StepKind, float]:
        """Query-key pairs that ran, by what the calls did."""
        shares = _means([pattern.share for pattern in self.patterns])
        pairs = {
            kind: self.ledger.pairs[kind]
            + sum(pattern.dense_pairs[kind] * mean for pattern, mean in zip(self.patterns, shares, strict=True))
            for kind in StepKind
        }
        probes = [pattern.probe for pattern in self.patterns if pattern.probe is not None]
        probed = zip(probes, _means([seen.share for seen in probes]), strict=True)
        pairs[StepKind.SEARCH] += sum(seen.pairs * mean for seen, mean in probed)
        return pairs

    def _unevenness(self) -> float | None:
        """Mean over the patterns that were used and probed, from the device at once."""
        seen = [pattern.probe.unevenness for pattern in self.patterns if pattern.probe and pattern.uses]
        mean = _mean_of(_means(seen))
        return mean if mean is not None and math.isfinite(mean) else None

    def _kinds(self) -> dict[str, dict[str, Any]]:
        pairs, densities = self._pairs(), _means([pattern.density for pattern in self.patterns])
        whole = self.ledger.dense_pairs
        kinds = {}
        for kind in StepKind:
            read = [(p.calls[kind], mean) for p, mean in zip(self.patterns, densities, strict=True) if p.calls[kind]]
            calls = sum(count for count, _ in read)
            kinds[str(kind)] = {
                "calls": self.ledger.calls[kind],
                "work": pairs[kind] / whole if whole else 0.0,
                "kernels": [
                    {**ran._asdict(), "calls": count} for ran, count in sorted(self.ledger.kernels[kind].items())
                ],
                "patterns": len(read),
                "density": sum(count * mean for count, mean in read) / calls if calls else None,
                "reuse": calls / len(read) if read else None,
            }
        return kinds

    def _kernels(self) -> dict[str, dict[str, int]]:
        kernels: dict[str, dict[str, int]] = {}
        for ran, calls in sorted(sum(self.ledger.kernels.values(), Counter()).items()):
            by_backend = kernels.setdefault(ran.op, {})
            by_backend[ran.backend] = by_backend.get(ran.backend, 0) + calls
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


def _means(values: list[torch.Tensor]) -> list[float]:
    """Fetch the mean of each from the device at once."""
    means: list[float] = torch.stack([value.mean() for value in values]).double().tolist() if values else []
    return means


def _per_head(values: list[torch.Tensor], uses: list[int]) -> list[float]:
    """Average over patterns, weighted by their uses, and over the batch."""
    weighted = torch.stack([value.mean(0) * count for value, count in zip(values, uses, strict=True)])
    means: list[float] = (weighted.sum(0) / sum(uses)).tolist()
    return means
