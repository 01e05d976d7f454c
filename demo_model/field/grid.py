"""The rows that are measured, the most telling first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import get_args

from adaspa.selection import MarginalMass, Policy, RetainedMass, TopK
from adaspa.selection.sub_block import SubBlock

from demo_model.field.call import Method
from demo_model.field.methods.compensated import Compensated, Form
from demo_model.field.methods.errors import Between, ByLayer, Injected, Kind, OnePart, Part
from demo_model.field.methods.exact import SCORING, EveryStep, Exact, sub_block_router
from demo_model.field.methods.residual import Residual
from demo_model.field.methods.skip_softmax import SkipSoftmax
from demo_model.field.methods.sol_attn import SolAttn
from demo_model.field.methods.svg2 import Svg2

WARMUP, SECOND = 0.2, 0.6
"""Shares of the steps: before the first no method runs, at the second ours searches again."""
DENSITIES = (0.19, 0.31, 0.11)
PRICES = (2.2, 1.0, 0.55, 4.5)
SHORT_WARMUPS = ((0.08, 2.2), (0.04, 3.0), (0.08, 1.0), (0.04, 1.5))
SOL_BETAS = (0.9, 0.5, 1.25)
SVG2_SHARES = (0.6, 0.8, 0.4)
SKIP_THRESHOLDS = (0.5, 0.1, 1.0)
QUERY_CLUSTERS, KEY_CLUSTERS = 36, 180  # as many clusters of queries as blocks; five times of keys, as in the paper

LAYER = 8
"""Where some heads' queries look at single keys (`demo_model.field.missed`)."""

Make = Callable[[int], Method]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        method: the line of the plot that it is a point of.
        setting: what differs from the line's other points.
        group: ``field``, ``layer``, ``compensation``, ``parts``, ``injected`` or ``schedule``.
        make: the method for a batch of clips in this number of steps.
        warmup: share of the steps that are dense before it.
    """

    method: str
    setting: str
    group: str
    make: Make = field(repr=False)
    warmup: float = WARMUP

    @property
    def name(self) -> str:
        return f"{self.method}, {self.setting}"


def warmup(steps: int, share: float = WARMUP) -> int:
    return round(share * steps)


def exact(policy: Policy, *, searches: int = 2, shared: bool = False, share: float = WARMUP) -> Make:
    return lambda steps: Exact(policy, (warmup(steps, share), round(SECOND * steps))[:searches], shared=shared)


def uniform(density: float) -> TopK:
    return TopK(1 - density, head_adaptive=False)


def compensated(policy: Policy, form: Form) -> Make:
    return lambda steps: Compensated(policy, (warmup(steps), round(SECOND * steps)), form)


def residual(policy: Policy, *, searches: int = 2) -> Make:
    return lambda steps: Residual(policy, (warmup(steps), round(SECOND * steps))[:searches], steps)


def one_part(make: Make, part: Part) -> Make:
    return lambda steps: OnePart(make(steps), part)


def always(make: Callable[..., Method], *settings: object, **named: object) -> Make:
    """A method that does not ask for the number of steps."""
    return lambda _: make(*settings, **named)


def rows() -> dict[str, Row]:
    """All of them by name."""
    found = (*_field(), *_layer(), *_compensation(), *_parts(), *_injected(), *_schedule(), *_more())
    return {row.name: row for row in found}


def _field() -> Iterator[Row]:
    for price in PRICES:
        policy, setting = MarginalMass(price), f"price {price}"
        yield Row("marginal mass, shared lists", setting, "field", exact(policy, searches=1, shared=True))
        yield Row("marginal mass, one search", setting, "field", exact(policy, searches=1))
        yield Row("marginal mass, two searches", setting, "field", exact(policy))
    for share, price in SHORT_WARMUPS:
        make, setting = exact(MarginalMass(price), shared=True, share=share), f"price {price}, {share:.0%} dense"
        yield Row("marginal mass, shared lists, two searches", setting, "field", make, share)
    for density in DENSITIES:
        setting = f"density {density}"
        yield Row("exact, two searches", setting, "field", exact(uniform(density)))
        for tokens in (16, 8):
            make = always(EveryStep, SubBlock(1 - density, tokens=tokens), sub_block_router(tokens))
            yield Row(f"SubBlock of {tokens}", setting, "field", make)
    peers = zip(SOL_BETAS, SVG2_SHARES, SKIP_THRESHOLDS, (0.8, 0.9, 0.99), strict=True)
    for beta, p, threshold, mass in peers:
        yield Row("Sol-Attn", f"beta {beta}", "field", always(SolAttn, beta))
        yield Row("SVG2", f"p {p}", "field", always(Svg2, p, QUERY_CLUSTERS, KEY_CLUSTERS))
        yield Row("skip-softmax", f"threshold {threshold}", "field", always(SkipSoftmax, threshold))
        yield Row("LoSA", f"mass {mass}", "field", exact(RetainedMass(mass), searches=1))
    for density in (0.45, 0.06):
        yield Row("exact, two searches", f"density {density}", "field", exact(uniform(density)))
    yield Row("paper", "sparsity 0.8", "field", exact(TopK(0.8)))
    yield Row("retained mass, two searches", "mass 0.9", "field", exact(RetainedMass(0.9)))
    make = always(SolAttn, SOL_BETAS[0], corrects=False)
    yield Row("Sol-Attn without correction", f"beta {SOL_BETAS[0]}", "field", make)
    yield Row("exact, every step", "density 0.19", "field", always(EveryStep, uniform(0.19), SCORING))


def _more() -> Iterator[Row]:
    """Further points of our own lines."""
    for density in (0.8, 0.6):
        yield Row("exact, two searches", f"density {density}", "field", exact(uniform(density)))
    for mass in (0.8, 0.6, 0.95):
        yield Row("retained mass, two searches", f"mass {mass}", "field", exact(RetainedMass(mass)))


def _layer() -> Iterator[Row]:
    """What the layer costs in which a few queries look at single keys."""
    exactly, pooled = (always(EveryStep, policy, SCORING) for policy in (uniform(0.19), SubBlock(0.81)))
    sol = always(SolAttn, SOL_BETAS[0])
    yield Row("SubBlock of 16 but exact in layer 8", "density 0.19", "layer", by_layer(exactly, pooled))
    yield Row("exact but SubBlock of 16 in layer 8", "density 0.19", "layer", by_layer(pooled, exactly))
    yield Row("Sol-Attn but exact in layer 8", f"beta {SOL_BETAS[0]}", "layer", by_layer(exactly, sol))
    for name, policy in (("density 0.19", uniform(0.19)), ("mass 0.9", RetainedMass(0.9))):
        for form in get_args(Form):
            make = by_layer(exact(policy), compensated(policy, form))
            yield Row(f"exact with {form} but in layer 8", name, "layer", make)


def by_layer(method: Make, others: Make) -> Make:
    return lambda steps: ByLayer(method(steps), others(steps), (LAYER,))


def _compensation() -> Iterator[Row]:
    for name, policy in (("density 0.19", uniform(0.19)), ("mass 0.9", RetainedMass(0.9))):
        for form in get_args(Form):
            yield Row(f"exact with {form}", name, "compensation", compensated(policy, form))
        yield Row("exact with the search's residual", name, "compensation", residual(policy))


def _parts() -> Iterator[Row]:
    policy = uniform(0.19)
    for part in get_args(Part):
        yield Row("error of nothing", part, "parts", one_part(exact(policy), part))
        if part != "half":  # shows how the cost of an error grows with its size
            yield Row("error of proxies", part, "parts", one_part(compensated(policy, "proxies"), part))
            yield Row("error of the search's residual", part, "parts", one_part(residual(policy), part))


def _injected() -> Iterator[Row]:
    for kind in get_args(Kind):
        sizes = (-0.05, 0.05) if kind == "scale" else (0.1,)
        for size in sizes:
            yield Row(f"injected: {kind}", f"size {size}", "injected", always(Injected, kind, size))


def _schedule() -> Iterator[Row]:
    for part in range(4):
        yield Row("exact in a part of the steps", f"fifth {part + 2} of 5", "schedule", _in_fifth(part + 1))


def _in_fifth(fifth: int) -> Make:
    def make(steps: int) -> Method:
        first, last = (round(share * steps / 5) for share in (fifth, fifth + 1))
        return Between(EveryStep(uniform(0.19), SCORING), first, last)

    return make
