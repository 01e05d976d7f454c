"""Tables and plots of what `demo_model.field` measured: other methods beside ours, and what predicts the PSNR.

Of a clip, a difference is between two videos of the same caption and noise, each against the same dense video.
"""

import math
import random
from itertools import pairwise
from typing import Any

from benchmarks import markdown

Row = dict[str, Any]
OURS = ("marginal mass, one search", "exact, two searches")
"""Our lines, the best first: a table sets the others beside the first that was measured with them."""
RESAMPLES = 2000
# Of an attention call, by what it would cost to know it, and what it is in words.
PREDICTORS = {
    "recall": "recall, mean over rows",
    "uneven": "how unevenly a head's queries lose mass",
    "uneven_head": "the same of the worst head of a layer",
    "starved": "queries that keep under a tenth",
    "row_recall_p5": "recall of the worst twentieth of the query rows",
    "log_loss": "mean of -log(kept share of a row)",
    "square_loss": "root mean square of the share that a row lost",
    "missed_norm": "norm of a row's missed blocks",
    "missed_most": "heaviest missed block of a row",
    "error": "error of the output, relative",
    "shared_error": "its part that 64 neighbours share",
    "private_error": "its part that differs between neighbours",
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def worst_tenth(values: list[float]) -> float:
    """The mean of the lowest tenth, of one clip at least."""
    return mean(sorted(values)[: max(1, round(len(values) / 10))])


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean, by resampling the clips."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def ours_of(rows: list[Row]) -> str:
    """The line of ours that others are compared with."""
    methods = {row["method"] for row in rows}
    return next(name for name in OURS if name in methods)


def ours_at(rows: list[Row], work: list[float]) -> list[float] | None:
    """The PSNR of each clip by our own line at this work of each, between its measured points; None beyond them."""
    ours = ours_of(rows)
    line = sorted((row for row in rows if row["method"] == ours), key=lambda row: mean(row["work"]))
    found = []
    for clip, wanted in enumerate(work):
        points = [(row["work"][clip], row["psnr"][clip]) for row in line]
        pair = next(((a, b) for a, b in pairwise(points) if a[0] <= wanted <= b[0]), None)
        if pair is None:
            return None
        (x0, y0), (x1, y1) = pair
        found.append(y0 + (y1 - y0) * (wanted - x0) / (x1 - x0) if x1 > x0 else y0)
    return found


def table(rows: list[Row], groups: tuple[str, ...] = ("field",)) -> str:
    """Each method against ours at the same attention work, clip by clip."""
    beside = "ours at that work, minus it", "worst tenth", "clips that ours wins"
    lines = markdown.head(
        ["method", "density", "recall", "router", "attention work", "PSNR, dB", "worst tenth", *beside]
    )
    ours = ours_of(rows)
    for row in sorted((row for row in rows if row["group"] in groups), key=lambda row: row["method"] != ours):
        recall = row.get("by_clip", {}).get("recall")
        cells = [
            row["name"],
            f"{mean(row['density']):.2f}",
            f"{mean(recall):.3f}" if recall else "",
            f"{row['router']:.3f}",
            f"{mean(row['work']):.2f}",
            f"{mean(row['psnr']):.1f}",
            f"{worst_tenth(row['psnr']):.1f}",
            *_against_ours(rows, row),
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def _against_ours(rows: list[Row], row: Row) -> tuple[str, str, str]:
    if row["method"] == ours_of(rows):
        return "", "", ""
    ours = ours_at(rows, row["work"])
    if ours is None:
        return "beyond our points", "", ""
    gains = [a - b for a, b in zip(ours, row["psnr"], strict=True)]
    low, high = interval(gains)
    won = sum(gain > 0 for gain in gains) / len(gains)
    return f"{mean(gains):+.1f} ({low:+.1f} to {high:+.1f})", f"{worst_tenth(gains):+.1f}", f"{100 * won:.0f} %"


def ranks(values: list[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    for rank, at in enumerate(order):
        found[at] = float(rank)
    return found


def correlation(a: list[float], b: list[float]) -> float:
    """Pearson's; NaN where one of them does not vary."""
    x, y = mean(a), mean(b)
    both = sum((p - x) * (q - y) for p, q in zip(a, b, strict=True))
    size = math.sqrt(sum((p - x) ** 2 for p in a) * sum((q - y) ** 2 for q in b))
    return both / size if size else math.nan


def with_lost(rows: list[Row], lost: dict[str, dict[str, float]]) -> list[Row]:
    """The rows of the field of which `demo_model.field.missed` told what they lose, with that as ``lost``."""
    return [row | {"lost": lost[row["name"]]} for row in rows if row["group"] == "field" and row["name"] in lost]


def predictions(rows: list[Row], predictor: str) -> tuple[float, float]:
    """The rank correlation of a number with the PSNR, and the decibels by which a line misses it.

    The line is of the PSNR over the logarithm of the number; of a share that is kept, over that of what is lost.
    """
    psnr = [mean(row["psnr"]) for row in rows]
    values = [row["lost"][predictor] for row in rows]
    if "recall" in predictor:
        values = [1 - value for value in values]
    rank = -correlation(ranks(values), ranks(psnr))
    straight = correlation([math.log(max(value, 1e-5)) for value in values], psnr)
    spread = math.sqrt(mean([(p - mean(psnr)) ** 2 for p in psnr]))
    return rank, spread * math.sqrt(max(0.0, 1 - straight**2))


def predictor_table(rows: list[Row]) -> str:
    """How well each number tells the PSNR of a row."""
    lines = markdown.head(["number", "rank correlation with PSNR", "misses it by, dB"])
    for name, words in PREDICTORS.items():
        known = [row for row in rows if name in row["lost"]]
        if len(known) > 2:
            rank, miss = predictions(known, name)
            of = "" if len(known) == len(rows) else f" ({len(known)} of {len(rows)} rows have it)"
            lines.append(markdown.line([words + of, f"{rank:.2f}", f"{miss:.1f}"]))
    return "\n".join(lines)


def layer_table(rows: list[Row], names: tuple[str, ...], layer: int) -> str:
    """The part of the error that differs between neighbours, in one layer and in the others."""
    lines = markdown.head(["", f"layer {layer}", "mean of the other layers", "PSNR, dB"])
    for row in rows:
        if row["name"] in names:
            errors = row["by_layer"]["private_error"]
            others = errors[:layer] + errors[layer + 1 :]
            figures = errors[layer], mean(others)
            lines.append(markdown.line([row["name"], *(f"{x:.2f}" for x in figures), f"{mean(row['psnr']):.1f}"]))
    return "\n".join(lines)
