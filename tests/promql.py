"""Prometheus' answers to the queries of our alerts, from scrapes: the parts of PromQL that they use.

The range of ``[15m]`` is the whole history, and ``rate`` is by history, not by second: in ratios that is all the same.
"""

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import promql_parser
from promql_parser import MatchOp

Labels = frozenset[tuple[str, str]]
Scrape = dict[tuple[str, Labels], float]
Vector = dict[Labels, float]

COMPARED: dict[str, Callable[[float, float], bool]] = {"==": operator.eq, ">": operator.gt, "<": operator.lt}
COMPUTED: dict[str, Callable[[float, float], float]] = {
    "*": operator.mul,
    "/": lambda one, other: one / other if other else float("nan"),
}
AGGREGATED: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "sum": sum, "group": lambda _: 1.0}


def answer(query: str, history: Sequence[Scrape]) -> Vector:
    """Evaluate a query at the time of the last scrape."""
    found = _value(promql_parser.parse(query), history)
    assert isinstance(found, dict), query
    return found


def _value(part: Any, history: Sequence[Scrape]) -> Vector | float:
    match part:
        case promql_parser.NumberLiteral():
            return float(part.val)
        case promql_parser.ParenExpr():
            return _value(part.expr, history)
        case promql_parser.VectorSelector():
            return _selected(part, history[-1])
        case promql_parser.AggregateExpr():
            return _aggregated(part, _vector(part.expr, history))
        case promql_parser.Call():
            return _called(part.func.name, part.args[0], history)
        case promql_parser.BinaryExpr():
            return _joined(str(part.op), _value(part.lhs, history), _value(part.rhs, history))
    raise NotImplementedError(type(part))


def _vector(part: Any, history: Sequence[Scrape]) -> Vector:
    found = _value(part, history)
    assert isinstance(found, dict)
    return found


def _selected(selector: Any, scrape: Scrape) -> Vector:
    return {
        labels: value
        for (name, labels), value in scrape.items()
        if name == selector.name and all(_matches(each, dict(labels)) for each in selector.matchers.matchers)
    }


def _matches(matcher: Any, labels: dict[str, str]) -> bool:
    told = labels.get(matcher.name, "")
    if matcher.op in (MatchOp.Re, MatchOp.NotRe):
        return bool(re.fullmatch(matcher.value, told)) == (matcher.op == MatchOp.Re)
    return bool(told == matcher.value) == (matcher.op == MatchOp.Equal)


def _aggregated(part: Any, vector: Vector) -> Vector:
    kept = set(part.modifier.labels) if part.modifier else set()
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, value in vector.items():
        groups[frozenset(pair for pair in labels if pair[0] in kept)].append(value)
    return {labels: AGGREGATED[str(part.op)](values) for labels, values in groups.items()}


def _called(name: str, argument: Any, history: Sequence[Scrape]) -> Vector:
    seen = [_selected(argument.vector_selector, scrape) for scrape in history]
    values = {labels: [each[labels] for each in seen if labels in each] for labels in _all(seen)}
    if name == "absent_over_time":
        return {} if values else {frozenset(): 1.0}
    if name == "last_over_time":
        return {labels: each[-1] for labels, each in values.items()}
    assert name in ("increase", "rate"), name
    return {labels: each[-1] - each[0] for labels, each in values.items() if len(each) > 1}


def _all(vectors: Iterable[Vector]) -> set[Labels]:
    return {labels for vector in vectors for labels in vector}


def _joined(how: str, one: Vector | float, other: Vector | float) -> Vector:
    if isinstance(one, dict) and isinstance(other, dict):
        if how == "or":
            return other | one
        if how == "unless":
            return {labels: value for labels, value in one.items() if labels not in other}
        pairs = {labels: (value, other[labels]) for labels, value in one.items() if labels in other}
    else:
        vector = one if isinstance(one, dict) else other
        assert isinstance(vector, dict)
        pairs = {labels: (value, other) if vector is one else (one, value) for labels, value in vector.items()}  # type: ignore[misc]
    if how == "and":
        return {labels: pair[0] for labels, pair in pairs.items()}
    if how in COMPARED:
        return {labels: pair[0] for labels, pair in pairs.items() if COMPARED[how](*pair)}
    return {labels: COMPUTED[how](*pair) for labels, pair in pairs.items()}
