"""Tables of unseen.json: captions and noise that no setting was chosen on.

`demo_model.fidelity` measured them, with another ``--seed``. Of a clip, a difference is between two videos of the same
caption and noise, each against the same dense video.
"""

from collections.abc import Callable
from itertools import pairwise

from benchmarks import markdown
from benchmarks.fidelity.field import Row, interval, mean, worst_tenth
from benchmarks.fidelity.tables import attention_work, cost

OURS, EARLIER = "marginal mass, one search", "retained mass of the earlier presets"
"""Lines that others are compared with: the policy's, and that of the settings that the presets were before."""


def at(line: list[Row], price: Callable[[Row], float], wanted: float) -> list[float] | None:
    """The PSNR of each clip by a line of rows at a price, between its measured points; None beyond them."""
    points = sorted((price(row), row["clips"]) for row in line)
    pair = next(((a, b) for a, b in pairwise(points) if a[0] <= wanted <= b[0]), None)
    if pair is None:
        return None
    (x0, low), (x1, high) = pair
    share = (wanted - x0) / (x1 - x0) if x1 > x0 else 0.0
    return [a + share * (b - a) for a, b in zip(low, high, strict=True)]


def gains(row: Row, line: list[Row], price: Callable[[Row], float]) -> list[float] | None:
    """How much closer to dense each clip of the row is than by the line at the same price."""
    other = at(line, price, price(row))
    return None if other is None else [a - b for a, b in zip(row["clips"], other, strict=True)]


def confirmed(rows: list[Row]) -> list[Row]:
    """The rows that are closer to dense than the presets' earlier settings at the same cost, clip by clip.

    The 95 % interval of the difference is above zero, and the worst tenth of the clips is not worse.
    """
    line = [row for row in rows if row["method"] == EARLIER]
    found = []
    for row in rows:
        other = at(line, cost, cost(row)) if "config" in row and row["method"] != EARLIER else None
        if other is None:
            continue
        closer = [a - b for a, b in zip(row["clips"], other, strict=True)]
        if interval(closer)[0] > 0 and worst_tenth(row["clips"]) >= worst_tenth(other):
            found.append(row)
    return found


def table(rows: list[Row]) -> str:
    """Each row beside the policy's line at the same attention work, and the presets beside what they were before."""
    beside = "closer than", "by, dB", "worst tenth of that line", "clips that are closer"
    lines = markdown.head(["", "density", "attention work", "cost", "PSNR, dB", "worst tenth", *beside])
    for row in rows:
        if "clips" not in row or {"grid"} == set(row["groups"]):
            continue
        other, price = (EARLIER, cost) if "presets" in row["groups"] else (OURS, attention_work)
        line = [found for found in rows if found["method"] == other]
        cells = [
            row["name"],
            f"{row['density']:.2f}",
            f"{attention_work(row):.2f}",
            f"{cost(row):.2f}",
            f"{mean(row['clips']):.1f}",
            f"{worst_tenth(row['clips']):.1f}",
            *(_beside(row, line, price, other) if row["method"] != other else ("", "", "", "")),
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def _beside(row: Row, line: list[Row], price: Callable[[Row], float], name: str) -> tuple[str, str, str, str]:
    found, other = gains(row, line, price), at(line, price, price(row))
    if found is None or other is None:
        return "beyond the points measured", "", "", ""
    low, high = interval(found)
    won = sum(gain > 0 for gain in found) / len(found)
    return name, f"{mean(found):+.1f} ({low:+.1f} to {high:+.1f})", f"{worst_tenth(other):.1f}", f"{100 * won:.0f} %"
