"""What one and two GPUs let expect of more, beside what was measured on these.

A step on two GPUs is taken to be what every rank does whole (norms, text, the search's ranking), its half of the rest,
and the exchange, which is timed by itself and hidden behind nothing. On more of them the rest is divided by their
number; a rank then sends ``(n - 1) / n`` of its ``n``-th of each layer, over links that are taken to be as fast to
every other GPU of the host. Launches that no longer hide behind work, and GPUs that slow down together, are not in it.
"""

from typing import Any

Json = dict[str, Any]
Rows = list[Json]
SIZES = (4, 8)
STEPS = ("dense", "first search", "later search", "sparse, just dealt", "sparse")


def rows(measured: Rows) -> Rows:
    """A row for each model, mode, number of GPUs above two and step; without figures where nothing was measured."""
    sizes = sorted({*SIZES, *(row["gpus"] for row in measured if row.get("gpus", 0) > 2)})
    found = []
    for model in dict.fromkeys(row["model"] for row in measured):
        plan = Plan([row for row in measured if row["model"] == model])
        for mode in ("ulysses", "guidance"):
            for gpus in sizes:
                found += [row for step in STEPS if (row := plan.row(mode, gpus, step)) is not None]
    return found


def exchange_seconds(rows: Rows, mode: str, gpus: int) -> float:
    """What the exchange of a denoising step takes with nothing else going on; 0 where it was not timed.

    Args:
        rows: of one model.
    """
    ranks = _ranks(mode, gpus)
    if ranks == 1:
        return 0.0
    size = next(row for row in rows if row["step"] == "blocks")
    timed = next((row for row in rows if row["step"] == "exchange" and row["gpus"] == ranks), {})
    layer = timed.get("mixed_to_heads_ms", 0) + timed.get("mixed_to_tokens_ms", 0)
    forwards = 1 if mode == "guidance" else size["calls"]
    return float(layer * size["of"] * forwards / 1000)


class Plan:
    """What the rows of one model let expect."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.model = rows[0]["model"]

    def row(self, mode: str, gpus: int, step: str) -> Json | None:
        """Planned and measured; None where two GPUs were not measured."""
        seconds, peak = self.seconds(mode, gpus, step), self.peak(mode, gpus, step)
        one, measured = self.measured("one", 1, step), self.measured(mode, gpus, step)
        if seconds is None or peak is None or one is None:
            return None
        row = {
            "model": self.model,
            "mode": mode,
            "gpus": gpus,
            "step": step,
            "planned_seconds": round(seconds, 4),
            "planned_speed": round(one["seconds"] / seconds, 3),
            "planned_exchange_share": round(self.exchange(mode, gpus) / seconds, 4),
            "planned_peak_bytes": round(peak),
        }
        if measured is None:
            return row
        took = measured["seconds"]
        return row | {
            "seconds": took,
            "speed": round(one["seconds"] / took, 3),
            "seconds_error": round(seconds / took - 1, 4),
            "exchange_share": round(exchange_seconds(self._rows, mode, gpus) / took, 4),
            "peak_bytes": measured["peak_bytes"],
            "peak_error": round(peak / measured["peak_bytes"] - 1, 4) if measured["peak_bytes"] else None,
        }

    def seconds(self, mode: str, gpus: int, step: str) -> float | None:
        """Of a denoising step."""
        one, two = self.measured("one", 1, step), self.measured(mode, 2, step)
        if one is None or two is None:
            return None
        if mode == "ulysses":
            shared = two["seconds"] - exchange_seconds(self._rows, mode, 2)
            return _spread(one["seconds"], shared, gpus) + self.exchange(mode, gpus)
        # Guidance halves the step, and within each half as many ranks share the sequence.
        if (within := self.seconds("ulysses", gpus // 2, step)) is None:
            return None
        return float(two["seconds"] + (within - one["seconds"]) / 2)

    def peak(self, mode: str, gpus: int, step: str) -> float | None:
        """Bytes of a rank above what it holds between forwards."""
        one, two = self.measured("one", 1, step), self.measured(mode, 2, step)
        if one is None or two is None:
            return None
        if mode == "ulysses":
            return _spread(one["peak_bytes"], two["peak_bytes"], gpus)
        if (within := self.peak("ulysses", gpus // 2, step)) is None:
            return None
        return float(two["peak_bytes"] + within - one["peak_bytes"])

    def exchange(self, mode: str, gpus: int) -> float:
        """Seconds in a denoising step."""
        ranks = _ranks(mode, gpus)
        timed = exchange_seconds(self._rows, "ulysses", 2) / (2 if mode == "guidance" else 1)
        return timed * 4 * (ranks - 1) / ranks**2

    def measured(self, mode: str, gpus: int, step: str) -> Json | None:
        """The row of such steps."""
        rows = (row for row in self._rows if (row.get("mode"), row.get("gpus"), row["step"]) == (mode, gpus, step))
        return next(rows, None)


def _ranks(mode: str, gpus: int) -> int:
    """How many share a sequence."""
    return gpus // 2 if mode == "guidance" else gpus


def _spread(one: float, two: float, gpus: int) -> float:
    """What each of so many takes of what one and two take: a part that all have whole, and its share of the rest."""
    whole = max(0.0, 2 * two - one)
    return whole + (one - whole) / gpus
