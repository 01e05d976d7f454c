"""What AdaSpa did in one request: the figures of the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from adaspa.index import BlockIndex
from adaspa.schedule import StepKind

MAP_SIDE = 64


@dataclass(eq=False)
class PatternRecord:
    """One pattern of one layer and CFG branch; ``density`` and ``recall`` are fp32 ``[B, H]``.

    ``map`` is its `pattern_map`, where the config asks for one.
    """

    layer: int
    step: int
    density: torch.Tensor
    recall: torch.Tensor
    map: torch.Tensor | None = None
    uses: int = 0
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

        Keys: ``density`` (mean over sparse steps and layers; 1.0 when none was sparse), ``recall`` (the same mean, or
        None), ``searches``, ``dense_steps``, ``search_steps``, ``sparse_steps``, ``dense_seconds``,
        ``search_seconds``, ``sparse_seconds`` (time in the transformer by kind of step), ``cache_bytes`` and
        ``host_bytes`` (peaks on the device and spilled), ``refused_layers`` (kept dense by the cache budget), and
        ``layers``: for each layer with a pattern its index and the ``density`` and ``recall`` of every head.
        """
        for kind, start, stop in self._events:
            stop.synchronize()
            self._seconds[kind] += start.elapsed_time(stop) / 1000
        self._events.clear()
        kinds = list(self.step_kinds.values())
        layers = self._layers()
        used = sum(pattern.uses for pattern in self.patterns)
        return {
            "density": self._mean([pattern.density.mean() for pattern in self.patterns]) if used else 1.0,
            "recall": self._mean([pattern.mean_recall().mean() for pattern in self.patterns]) if used else None,
            "searches": kinds.count(StepKind.SEARCH),
            **{f"{kind}_steps": kinds.count(kind) for kind in StepKind},
            **{f"{kind}_seconds": seconds for kind, seconds in self._seconds.items()},
            "cache_bytes": self.cache_bytes,
            "host_bytes": self.host_bytes,
            "refused_layers": self.refused_layers,
            "layers": layers,
        }

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


def _per_head(values: list[torch.Tensor], uses: list[int]) -> list[float]:
    """The mean over patterns, weighted by their uses, and over the batch."""
    weighted = torch.stack([value.mean(0) * count for value, count in zip(values, uses, strict=True)])
    means: list[float] = (weighted.sum(0) / sum(uses)).tolist()
    return means
