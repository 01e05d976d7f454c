"""What the fidelity of the demo model is measured for: AdaSpa's settings, ablations, and other methods' patterns."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from adaspa import AdaSpaConfig
from adaspa.config import Preset, TokenOrder
from adaspa.selection import Scored

from benchmarks.fidelity import other_patterns as other

PAPER = AdaSpaConfig.paper()
EVERY_STEP = tuple(range(10, 50))
SPARSITIES = (0.8, 0.9, 0.7, 0.6, 0.5)
MASSES = (0.8, 0.9, 0.95, 0.98, 0.99)
WARMUPS = {0: (0, 20), 2: (2, 22), 5: (5, 25), 10: (10, 30)}


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Args:
        name: unique.
        method: the line of the plot that it is a point of.
        groups: what it belongs to: `paper`, `presets`, `ablations`, `curves`, `patterns` or `grid`.
    """

    name: str
    method: str
    groups: tuple[str, ...]
    config: AdaSpaConfig


def variants() -> dict[str, Variant]:
    """All of them by name, the most telling first."""
    found: dict[str, Variant] = {}
    for variant in (*_paper_and_presets(), *_ablations(), *_curves(), *_patterns(), *_grid()):
        found.setdefault(variant.name, variant)
    return found


def _paper_and_presets() -> Iterator[Variant]:
    yield Variant("paper", "top-k, head-adaptive", ("paper", "curves"), PAPER)
    nothing_skipped = PAPER.replace(sparsity=0.001, head_adaptive=False)
    yield Variant("every block kept", "top-k, head-adaptive", ("paper",), nothing_skipped)
    for intent in get_args(Preset):
        yield Variant(f"preset {intent}", "presets", ("presets",), AdaSpaConfig.preset(intent, skip_short=False))


def _ablations() -> Iterator[Variant]:
    changes: dict[str, dict[str, Any]] = {
        "not head-adaptive": {"head_adaptive": False},
        **{f"warm-up {n}": {"warmup": n, "searches": searches} for n, searches in WARMUPS.items() if n != 10},
        "warm-up 10 at mass 0.99": {"warmup_mass": 0.99},
        "search 10 only": {"searches": (10,)},
        "searches 10, 20, 30": {"searches": (10, 20, 30)},
        "search in every step": {"searches": EVERY_STEP},
        "every 4th row scored": {"query_stride": 4},
        "block 32": {"block_size": 32, "query_block_size": 32},
        "block 128": {"block_size": 128, "query_block_size": 128},
        "query block 128": {"query_block_size": 128},
        "tile order": {"token_order": "tile"},
        "tile order, query block 128": {"token_order": "tile", "query_block_size": 128},
        "first and last layer dense": {"dense_layers": (0, 9)},
    }
    for name, change in changes.items():
        yield Variant(name, name, ("ablations",), PAPER.replace(**change))
    yield Variant("no LSE reuse", "no LSE reuse", ("ablations",), PAPER.replace(selection=other.FreshSearch()))


def _curves() -> Iterator[Variant]:
    """AdaSpa's own density against its fidelity, at the paper's schedule."""
    for sparsity, order in product(SPARSITIES, get_args(TokenOrder)):
        config = PAPER.replace(sparsity=sparsity, token_order=order)
        ending = ", tile order" if order == "tile" else ""
        adaptive = f"top-k, head-adaptive{ending}"
        name = "paper" if config == PAPER else f"{adaptive}, sparsity {sparsity}"
        yield Variant(name, adaptive, ("curves",), config)
        uniform = config.replace(head_adaptive=False)
        yield Variant(f"top-k{ending}, sparsity {sparsity}", f"top-k{ending}", ("curves",), uniform)
    for mass, order in product(MASSES, get_args(TokenOrder)):
        config = PAPER.replace(selection="retained_mass", mass=mass, token_order=order)
        method = "retained mass" + (", tile order" if order == "tile" else "")
        yield Variant(f"{method} {mass}", method, ("curves",), config)


def _patterns() -> Iterator[Variant]:
    """Other methods' patterns with equal rows, at the paper's schedule; those estimated are so in every step."""
    sources: dict[str, tuple[type[Scored], AdaSpaConfig]] = {
        "sliding window": (other.SlidingWindow, PAPER),
        "spatial or temporal stripes by head": (other.StripesByHead, PAPER),
        "mean-pooled scores": (other.MeanPooled, PAPER.replace(searches=EVERY_STEP)),
        "antidiagonal scores": (other.Antidiagonal, PAPER.replace(searches=EVERY_STEP)),
        "spatial stripes": (other.SpatialStripes, PAPER),
        "temporal stripes": (other.TemporalStripes, PAPER),
    }
    for sparsity, (method, (policy, config)) in product(SPARSITIES, sources.items()):
        chosen = config.replace(selection=policy(sparsity))
        yield Variant(f"{method}, sparsity {sparsity}", method, ("patterns",), chosen)


def _grid() -> Iterator[Variant]:
    """The settings among which the presets are chosen: with the blocks that the kernels are fastest at."""
    searches = {2: (2, 8, 25), 3: (3, 10, 25), 5: (5, 15, 30), 10: (10, 30)}
    ways: dict[str, dict[str, Any]] = {
        "raster": {},
        "tile": {"token_order": "tile"},
        "every 4th row": {"query_stride": 4},
    }
    for (warmup, steps), mass, (way, change) in product(searches.items(), (0.8, 0.9, 0.95, 0.98), ways.items()):
        config = AdaSpaConfig(selection="retained_mass", mass=mass, warmup=warmup, searches=steps)
        yield Variant(f"mass {mass}, warm-up {warmup}, {way}", "grid", ("grid",), config.replace(**change))
