"""Tables of unseen.json: captions and noise that no setting was chosen on.

`demo_model.fidelity` measured them, with another ``--seed``. Of a clip, a difference is between two videos of the same
caption and noise, each against the same dense video.
"""

from collections.abc import Callable
from itertools import pairwise

from benchmarks import markdown
from benchmarks.fidelity.field import Row, interval, mean, worst_tenth
from benchmarks.fidelity.tables import attention_work, cost

OURS = "marginal mass, one search"
"""The line that others are compared with."""


def at(line: list[Row], wanted: float, work: Callable[[Row], float] = attention_work) -> list[float] | None:
    """The PSNR of each clip by a line of rows at some work, between its measured points; None beyond them."""
    points = sorted((work(row), row["clips"]) for row in line)
    pair = next(((a, b) for a, b in pairwise(points) if a[0] <= wanted <= b[0]), None)
    if pair is None:
        return None
    (x0, low), (x1, high) = pair
    share = (wanted - x0) / (x1 - x0) if x1 > x0 else 0.0
    return [a + share * (b - a) for a, b in zip(low, high, strict=True)]


def gains(row: Row, line: list[Row], work: Callable[[Row], float] = attention_work) -> list[float] | None:
    """How much closer to dense each clip of the row is than by the line at the same work."""
    other = at(line, work(row), work)
    return None if other is None else [a - b for a, b in zip(row["clips"], other, strict=True)]


def table(rows: list[Row]) -> str:
    """Each row beside the policy's line at the same attention work."""
    beside = f"closer than {OURS}, by", "worst tenth of that line", "clips that are closer"
    lines = markdown.head(
        ["", "density", "attention work", "cost", "PSNR, dB (95 % interval)", "worst tenth", "right answers", *beside]
    )
    line = [row for row in rows if row["method"] == OURS]
    for row in rows:
        if "clips" not in row or {"grid"} == set(row["groups"]):
            continue
        cells = [
            row["name"],
            f"{row['density']:.2f}",
            f"{attention_work(row):.2f}",
            f"{cost(row):.2f}",
            "{:.1f} ({:.1f} to {:.1f})".format(mean(row["clips"]), *interval(row["clips"])),
            f"{worst_tenth(row['clips']):.1f}",
            f"{100 * row['right']['all_attributes']:.1f} %",
            *(_beside(row, line) if row["method"] != OURS else ("", "", "")),
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def _beside(row: Row, line: list[Row]) -> tuple[str, str, str]:
    found, other = gains(row, line), at(line, attention_work(row))
    if found is None or other is None:
        return "beyond its points", "", ""
    low, high = interval(found)
    won = sum(gain > 0 for gain in found) / len(found)
    return f"{mean(found):+.1f} dB ({low:+.1f} to {high:+.1f})", f"{worst_tenth(other):.1f}", f"{100 * won:.0f} %"
