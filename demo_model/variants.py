"""What the fidelity of the demo model is measured for: AdaSpa's settings, ablations, and other methods' patterns."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, product
from typing import Any, get_args

from adaspa import AdaSpaConfig
from adaspa.config import Preset
from adaspa.selection import Scored

from benchmarks.fidelity import other_patterns as other

PAPER = AdaSpaConfig.paper()
EVERY_STEP = tuple(range(10, 50))
SPARSITIES = (0.8, 0.9, 0.7, 0.5)
MASSES = (0.8, 0.9, 0.95, 0.98)
WARMUPS = {0: (0, 20), 2: (2, 22), 5: (5, 25), 10: (10, 30)}


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Args:
        name: unique.
        method: the line of the plot that it is a point of.
        groups: what it belongs to: `paper`, `presets`, `ablations`, `curves`, `patterns`, `equal work`, `grid`,
            `compensation` or `parts`.
    """

    name: str
    method: str
    groups: tuple[str, ...]
    config: AdaSpaConfig

    @property
    def is_grid(self) -> bool:
        """True if its attention work and its PSNR are all that is asked for."""
        return not {"paper", "presets", "ablations", "curves", "patterns"} & set(self.groups)


def variants() -> dict[str, Variant]:
    """All of them by name, the most telling first."""
    found: dict[str, Variant] = {}
    kinds = (
        _paper_and_presets(),
        _ablations(),
        _curves(),
        _equal_work(),
        _grid(),
        _patterns(),
        _compensation(),
        _parts(),
    )
    for variant in chain(*kinds):
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
        **{f"warm-up {n}": {"warmup": n, "searches": searches} for n, searches in WARMUPS.items() if n != 10},
        "warm-up 10 at mass 0.99": {"warmup_mass": 0.99},
        "search 10 only": {"searches": (10,)},
        "search in every step": {"searches": EVERY_STEP},
        "every 4th row scored": {"query_stride": 4},
        "block 32": {"block_size": 32, "query_block_size": 32},
        "block 128": {"block_size": 128, "query_block_size": 128},
        "query block 128": {"query_block_size": 128},
        "tile order": {"token_order": "tile"},
        "retained mass 0.9, tile order": {"selection": "retained_mass", "mass": 0.9, "token_order": "tile"},
        "first and last layer dense": {"dense_layers": (0, 9)},
    }
    for name, change in changes.items():
        yield Variant(name, name, ("ablations",), PAPER.replace(**change))
    yield Variant("no LSE reuse", "no LSE reuse", ("ablations",), PAPER.replace(selection=other.FreshSearch()))


def _curves() -> Iterator[Variant]:
    """AdaSpa's own density against its fidelity, at the paper's schedule."""
    for sparsity in SPARSITIES:
        config = PAPER.replace(sparsity=sparsity)
        name = "paper" if config == PAPER else f"top-k, head-adaptive, sparsity {sparsity}"
        yield Variant(name, "top-k, head-adaptive", ("curves",), config)
        uniform = config.replace(head_adaptive=False)
        groups = ("ablations", "curves") if config == PAPER else ("curves",)
        yield Variant(f"top-k, sparsity {sparsity}", "top-k", groups, uniform)
    for mass in MASSES:
        config = PAPER.replace(selection="retained_mass", mass=mass)
        yield Variant(f"retained mass {mass}", "retained mass", ("curves",), config)


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
    for sparsity, (method, (policy, config)) in product(SPARSITIES[:2], sources.items()):
        chosen = config.replace(selection=policy(sparsity))
        yield Variant(f"{method}, sparsity {sparsity}", method, ("patterns",), chosen)


def _equal_work() -> Iterator[Variant]:
    """Lines to compare at the same attention work: ours beside others."""
    once, twice = {"warmup": 10, "searches": (10,)}, {"warmup": 10, "searches": (10, 30)}
    for price in (1.0, 2.2, 0.55):
        yield _point("marginal mass, one search", {"selection": "marginal_mass", "price": price, **once})
    for mass in (0.8, 0.9):
        yield _point("LoSA", {"selection": "retained_mass", "mass": mass, **once})
    for price in (1.0, 2.2):
        change = {"selection": "marginal_mass", "price": price, "share_lists": True, **once}
        yield _point("marginal mass, one search, shared lists", change)
    for sparsity in (0.81, 0.69):
        yield _point("top-k, two searches", {"sparsity": sparsity, "head_adaptive": False, **twice})


def _point(method: str, change: dict[str, Any]) -> Variant:
    value = next(change[name] for name in ("price", "mass", "sparsity") if name in change)
    config = AdaSpaConfig(**{"query_block_size": 64, **change})
    return Variant(f"{method}, {value}", method, ("equal work",), config)


COMPENSATED: tuple[tuple[str, AdaSpaConfig, str, tuple[float, ...]], ...] = (
    ("balanced", AdaSpaConfig.preset("balanced", skip_short=False), "price", (2.2, 0.7, 0.3, 1.0, 1.5, 0.5)),
    ("paper", PAPER.replace(query_stride=4), "sparsity", (0.8, 0.9, 0.7, 0.5)),
    ("two searches", PAPER.replace(selection="retained_mass", query_stride=4), "mass", (0.9, 0.8, 0.95, 0.98)),
    (
        "one search",
        PAPER.replace(selection="retained_mass", query_stride=4, searches=(10,)),
        "mass",
        (0.9, 0.8, 0.95),
    ),
)
"""Lines that are measured with and without compensation: settings, one of their policy, and its values."""


def _compensation() -> Iterator[Variant]:
    """Sparse attention that gets back what its search saw it lose, beside the same without."""
    for method, base, setting, values in COMPENSATED:
        for value in values:
            config = base.replace(**{setting: value})
            for ending, change in (("", {}), (", residual", {"compensation": "residual"})):
                name = f"{method}, {setting} {value}{ending}"
                yield Variant(name, method + ending, ("compensation",), config.replace(**change))


SHORT = {"warmup": 3, "searches": (3, 10, 25)}
SCHEDULES: dict[str, dict[str, Any]] = {
    "warm-up 3": SHORT,
    "warm-up 10": {"warmup": 10, "searches": (10, 30)},
    "warm-up 3, one search": {"warmup": 3, "searches": (3,)},
    "warm-up 10, one search": {"warmup": 10, "searches": (10,)},
    "warm-up 3, five searches": {"warmup": 3, "searches": (3, 6, 12, 20, 30)},
    "warm-up 3 at mass 0.95": SHORT | {"warmup_mass": 0.95},
    "warm-up 6 at mass 0.9": {"warmup": 6, "searches": (6, 12, 25), "warmup_mass": 0.9},
    "warm-up 10 at mass 0.9": {"warmup": 10, "searches": (10, 25), "warmup_mass": 0.9},
    "warm-up 10 at mass 0.95": {"warmup": 10, "searches": (10, 25), "warmup_mass": 0.95},
    "warm-up 16 at mass 0.8": {"warmup": 16, "searches": (16, 30), "warmup_mass": 0.8},
    "warm-up 2, one search": {"warmup": 2, "searches": (2,)},
    "warm-up 10 at mass 0.9, one search": {"warmup": 10, "searches": (10,), "warmup_mass": 0.9},
}
"""When a setting of the grid searches, in 50 steps."""


GRID: tuple[tuple[str, str, tuple[int, bool], tuple[float, ...]], ...] = (
    ("price", "warm-up 3", (64, True), (0.9, 0.25, 3.3, 2.2)),
    ("price", "warm-up 3", (128, True), (0.8, 0.2, 0.55, 1.4, 0.15)),
    ("price", "warm-up 3 at mass 0.95", (64, True), (3.3, 0.9, 2.6, 2.2)),
    ("price", "warm-up 3 at mass 0.95", (128, True), (2.2, 0.8, 1.4)),
    ("price", "warm-up 10", (128, True), (0.25, 0.12)),
    ("price", "warm-up 10, one search", (64, True), (0.3, 0.35)),
    ("price", "warm-up 10, one search", (128, True), (0.25, 0.2)),
    ("price", "warm-up 6 at mass 0.9", (64, True), (3.3, 2.2)),
    ("price", "warm-up 10 at mass 0.9", (128, True), (2.2, 1.8)),
    ("price", "warm-up 10 at mass 0.9", (64, True), (3.3, 2.8, 2.2, 0.9)),
    ("price", "warm-up 10 at mass 0.95", (64, True), (3.3,)),
    ("price", "warm-up 16 at mass 0.8", (64, True), (3.3,)),
    ("price", "warm-up 3, one search", (64, True), (0.9, 0.8, 0.7, 0.6, 0.5, 3.3)),
    ("price", "warm-up 3, one search", (128, True), (0.6, 0.7)),
    ("price", "warm-up 3, five searches", (64, True), (2.2,)),
    ("price", "warm-up 10", (64, True), (0.35, 0.9)),
    ("price", "warm-up 2, one search", (64, True), (2.2, 2.8, 1.5)),
    ("price", "warm-up 10 at mass 0.9, one search", (64, True), (2.2,)),
    ("price", "warm-up 3", (64, False), (0.9,)),
    ("mass", "warm-up 3", (64, True), (0.9,)),
    ("mass", "warm-up 3", (128, False), (0.9, 0.95)),
    ("mass", "warm-up 10", (128, False), (0.98,)),
    ("mass", "warm-up 10", (64, False), (0.98,)),
)
"""Lines of the grid: setting of the policy, schedule, query block and whether lists are shared, and the values."""


TILED = (("price", 0.9, "warm-up 3, one search", 64), ("price", 3.3, "warm-up 10 at mass 0.9", 64))
"""Settings of the grid that are also measured in tile order."""
PUT_BACK: tuple[tuple[str, str, tuple[int, bool], tuple[float, ...]], ...] = (
    ("price", "warm-up 3, one search", (64, True), (0.9, 1.0, 0.8, 0.7, 3.3, 4.5, 0.3)),
    ("price", "warm-up 2, one search", (64, True), (3.3, 0.8, 4.5, 0.9, 2.2, 6.0, 1.5, 0.7, 2.8)),
    ("price", "warm-up 3, one search", (128, True), (0.8, 0.9, 0.7, 0.2, 1.0)),
    ("price", "warm-up 2, one search", (128, True), (3.0, 0.7, 2.2, 4.0, 0.8)),
    ("price", "warm-up 10, one search", (64, True), (0.35, 0.3)),
    ("price", "warm-up 10, one search", (128, True), (0.25, 0.2, 0.3)),
    ("price", "warm-up 10 at mass 0.9, one search", (64, True), (3.3, 4.5)),
)
"""Lines that get back what their search saw them lose; no preset is chosen among these."""


def _grid() -> Iterator[Variant]:
    """The settings among which the presets are chosen, the first of each line first.

    Later searches score every fourth row.
    """
    policies = {"price": "marginal_mass", "mass": "retained_mass"}
    for lines, change, last in ((GRID, {}, ""), (PUT_BACK, {"compensation": "residual"}, ", residual")):
        group = "compensation" if change else "grid"
        most = max(len(values) for *_, values in lines)
        for place, (setting, schedule, (block, shared), values) in product(range(most), lines):
            if place < len(values):
                own: dict[str, Any] = {
                    "selection": policies[setting],
                    setting: values[place],
                    "query_block_size": block,
                }
                config = AdaSpaConfig(**own, **SCHEDULES[schedule], share_lists=shared, query_stride=4, **change)
                ending = ", shared lists" if shared else ""
                name = f"{setting} {values[place]}, {schedule}, blocks of {block} x 64{ending}{last}"
                yield Variant(name, f"grid{last}", (group,), config)
                if not change and (setting, values[place], schedule, block) in TILED:
                    yield Variant(f"{name}, tile order", "grid", ("grid",), config.replace(token_order="tile"))


def _parts() -> Iterator[Variant]:
    """Sparse in one part of the denoising alone, to see what each costs: by price, the lists shared."""
    for first, end in pairwise((2, 10, 20, 30, 40, 50)):
        # The search has dense output; sparse are the steps behind it.
        where: dict[str, Any] = {"warmup": first - 2, "searches": (first - 2,), "dense_tail": 50 - end}
        config = AdaSpaConfig(
            "marginal_mass", price=2.2, query_block_size=64, share_lists=True, query_stride=4, **where
        )
        yield Variant(f"sparse in steps {first} to {end - 1} alone", "parts", ("parts",), config)
