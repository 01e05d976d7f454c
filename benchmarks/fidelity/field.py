"""Tables and plots of what `demo_model.field` measured: other methods beside ours, and what predicts the PSNR.

Of a clip, a difference is between two videos of the same caption and noise, each against the same dense video.
"""

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

Row = dict[str, Any]
OURS = "exact, two searches"
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


def ours_at(rows: list[Row], work: list[float]) -> list[float] | None:
    """The PSNR of each clip by our own line at this work of each, between its measured points; None beyond them."""
    line = sorted((row for row in rows if row["method"] == OURS), key=lambda row: mean(row["work"]))
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
    lines = [
        "| method | density | recall | router | attention work | PSNR, dB | worst tenth "
        "| ours at that work, minus it | worst tenth | clips that ours wins |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if row["group"] in groups), key=lambda row: row["method"] != OURS):
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
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against_ours(rows: list[Row], row: Row) -> tuple[str, str, str]:
    if row["method"] == OURS:
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


def predictions(rows: list[Row], predictor: str, groups: tuple[str, ...]) -> tuple[int, float, float]:
    """Rows that have the number, its rank correlation with the PSNR, and the decibels by which a line misses it.

    The line is of the PSNR over the logarithm of the number; of a share that is kept, over that of what is lost.
    """
    known = [row for row in rows if row["group"] in groups and predictor in row.get("by_clip", {})]
    psnr = [mean(row["psnr"]) for row in known]
    values = [mean(row["by_clip"][predictor]) for row in known]
    if "recall" in predictor:
        values = [1 - value for value in values]
    rank = -correlation(ranks(values), ranks(psnr))
    logs = [math.log(max(value, 1e-9)) for value in values]
    straight = correlation(logs, psnr)
    spread = math.sqrt(mean([(p - mean(psnr)) ** 2 for p in psnr]))
    return len(known), rank, spread * math.sqrt(max(0.0, 1 - straight**2))


def predictor_table(rows: list[Row]) -> str:
    """How well each number tells the PSNR of a row."""
    lines = [
        "| number | rank correlation with PSNR | misses it by, dB | the same with compensated rows | dB |",
        "|---|---|---|---|---|",
    ]
    for name, words in PREDICTORS.items():
        count, rank, miss = predictions(rows, name, ("field",))
        _, all_rank, all_miss = predictions(rows, name, ("field", "compensation"))
        if count > 2:
            lines.append(f"| {words} | {rank:.2f} | {miss:.1f} | {all_rank:.2f} | {all_miss:.1f} |")
    return "\n".join(lines)


def plain_table(rows: list[Row], group: str) -> str:
    """The rows of one group with their errors."""
    lines = ["| | error | of it shared | private | stretch | PSNR, dB | worst tenth |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["group"] != group:
            continue
        lost = {name: mean(values) for name, values in row["by_clip"].items()}
        cells = [
            row["name"],
            *(f"{lost[name]:.3f}" for name in ("error", "shared_error", "private_error")),
            f"{lost['stretch']:+.3f}",
            f"{mean(row['psnr']):.1f}",
            f"{worst_tenth(row['psnr']):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Attention work against PSNR: a line for each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["group"] == "field":
            lines.setdefault(row["method"], []).append(row)
    for method, points in lines.items():
        points.sort(key=lambda row: mean(row["work"]))
        ours = method in (OURS, "paper", "retained mass, two searches", "exact, every step")
        spans = [interval(row["psnr"]) for row in points]
        middle = [mean(row["psnr"]) for row in points]
        axes.errorbar(
            [mean(row["work"]) for row in points],
            middle,
            yerr=[[m - s[i] if i == 0 else s[i] - m for m, s in zip(middle, spans, strict=True)] for i in (0, 1)],
            label=method,
            marker="o" if ours else "x",
            linestyle="-" if ours else "--",
            capsize=2,
        )
    axes.set(xlabel="attention work of the whole denoising, routers included (dense = 1)", ylabel="PSNR to dense, dB")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def plot_predictors(rows: list[Row], path: Path, names: tuple[str, str]) -> None:
    """Two numbers against the PSNR, a point for each row and a mark for each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), names, strict=True):
        methods: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["group"] == "field" and name in row.get("by_clip", {}):
                lost = mean(row["by_clip"][name])
                point = (1 - lost if name == "recall" else lost, mean(row["psnr"]))
                methods.setdefault(row["method"], []).append(point)
        for place, (method, points) in enumerate(methods.items()):
            axes.plot(*zip(*points, strict=True), "osvD^P*Xph<"[place % 11], label=method, linestyle="")
        words = PREDICTORS[name]
        axes.set(xscale="log", xlabel=f"1 - {words}" if name == "recall" else words, ylabel="PSNR to dense, dB")
        axes.grid(alpha=0.3, which="both")
    figure.axes[1].legend(fontsize="x-small")
    figure.savefig(path, dpi=130)


def plot_missed(missed: Row, path: Path) -> None:
    """How many heavy blocks a router misses by the number of keys that hold their mass, and an example."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    shares, row, block = figure.subplots(1, 3)
    edges, heavy = missed["edges"], missed["heavy"]
    labels = [f"{a:.0f}-{b:.0f}" for a, b in pairwise(edges)]
    for name, sums in missed["missed"].items():
        shares.plot(labels, [m / h if h else math.nan for m, h in zip(sums, heavy, strict=True)], "o-", label=name)
    shares.set(xlabel="keys that hold the block's mass, of 64", ylabel="heavy blocks missed", ylim=(0, 1))
    shares.legend(fontsize="small", title="pooled scores of")
    shares.grid(alpha=0.3)
    example = missed["example"]
    ticks = range(len(example["row_mass"]))
    row.bar(ticks, example["row_mass"], color="tab:blue", label="exact mass")
    row.plot(ticks, example["row_score"], "x", color="tab:red", label="estimate, as a share of the row")
    column = example["place"]["column"]
    row.annotate("missed", (column, example["row_mass"][column]), ha="center", va="bottom")
    row.set(xlabel="key block", ylabel="share of the mass of one row of blocks")
    row.legend(fontsize="small")
    image = block.imshow(example["tokens"], cmap="viridis", aspect="equal")
    block.set(title=f"the missed block, {example['keys']:.1f} keys", xlabel="key", ylabel="query")
    figure.colorbar(image, ax=block, label="attention weight")
    figure.savefig(path, dpi=130)


def plot_errors(rows: list[Row], path: Path, shown: tuple[str, ...]) -> None:
    """The spatial spectrum of some rows' errors, and what errors of each kind cost."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    named = {row["name"]: row for row in rows}
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    waves, costs = figure.subplots(1, 2)
    for name in shown:
        if name in named:
            waves.plot(named[name]["spectrum"]["error"], "o-", label=f"error, {name}")
    known = next(row for row in rows if "spectrum" in row)
    waves.plot(known["spectrum"]["dense"], "k--", label="the dense output itself")
    waves.set(xlabel="spatial frequency, cycles a picture", ylabel="share of the energy")
    waves.legend(fontsize="x-small")
    waves.grid(alpha=0.3)
    for group, mark in (("field", "o"), ("compensation", "s"), ("parts", "^"), ("injected", "x")):
        points = [
            (mean(row["by_clip"]["error"]), mean(row["psnr"]))
            for row in rows
            if row["group"] == group and mean(row["by_clip"].get("error", [0.0])) > 0
        ]
        if points:
            costs.plot(*zip(*points, strict=True), mark, label=group, linestyle="")
    costs.set(xscale="log", xlabel="error of the attention's output, relative", ylabel="PSNR to dense, dB")
    costs.legend(fontsize="small")
    costs.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)
