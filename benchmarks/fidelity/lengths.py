"""Table and plot of what `demo_model.lengths` measured: sparse attention at 2,304, 9,216 and 21,504 tokens."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import markdown

Row = dict[str, Any]
AT = -2
"""The step, of those that were looked at, whose figures stand in the table: late, but not the last."""
PLOTTED = (("density_at_0.9", "density at mass 0.9"), ("density_at_0.8", "density at mass 0.8"))
RECALLED = (("recall_at_0.2", "recall at density 0.2"), ("recall_at_0.1", "recall at density 0.1"))


def name_of(row: Row) -> str:
    return f"{row['model']} model, {row['tokens']:,} tokens"


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation over clips."""
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def at_step(row: Row, figure: str, place: int = AT) -> list[float]:
    """A figure of all clips at one of the steps that were looked at."""
    found: list[list[float]] = list(row["attention"][figure].values())
    return found[place]


def table(rows: list[Row]) -> str:
    """A line for each model and length; the spread is that over clips."""
    columns = [
        "model, clip",
        *(title for _, title in (*PLOTTED, *RECALLED)),
        "LSE moved, nats",
        "mass in the early blocks",
        "right",
    ]
    lines = markdown.head(columns)
    for row in sorted(rows, key=lambda row: (row["tokens"], row["model"])):
        early, fresh = (fmean(at_step(row, figure)) for figure in ("early_recall", "recall_at_0.2"))
        cells = [
            f"{name_of(row)} ({row['frames']} frames, {row['side']}x{row['side']})",
            *(spread(at_step(row, figure)) for figure, _ in (*PLOTTED, *RECALLED)),
            spread(at_step(row, "lse_change"), 2),
            f"{early:.3f} of {fresh:.3f}",
            f"{100 * row['right']['all_attributes']:.1f} %" if "right" in row else "",
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def variants_table(rows: list[Row]) -> str:
    """PSNR to dense by setting and length, with density and attention work."""
    rows = sorted(rows, key=lambda row: (row["tokens"], row["model"]))
    names = dict.fromkeys(name for row in rows for name in row["variants"])
    lines = markdown.head(["setting", *(name_of(row) for row in rows)])
    for name in names:
        found = [row["variants"].get(name) for row in rows]
        cells = [
            f"{spread(of['clips'], 1)} dB ({of['density']:.2f}, {of['attention_work']:.2f})" if of else ""
            for of in found
        ]
        lines.append(markdown.line([name, *cells]))
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Density, recall and PSNR against the number of tokens, and how the attention moves over the steps."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(12, 8), layout="constrained")
    (density, recall), (picture, steps) = figure.subplots(2, 2)
    for axes, figures, title in ((density, PLOTTED, "share of blocks"), (recall, RECALLED, "share of mass")):
        for name, label in figures:
            _against_tokens(axes, rows, label, lambda row, name=name: at_step(row, name))
        axes.set(ylabel=title, ylim=(0, None if axes is density else 1))
    for name in ("density 0.2", "density 0.1"):
        known = [row for row in rows if name in row["variants"]]
        _against_tokens(picture, known, name, lambda row, name=name: row["variants"][name]["clips"])
    picture.set(ylabel="PSNR to dense, dB")
    for axes in (density, recall, picture):
        axes.set(xscale="log", xlabel="video tokens")
        axes.set_xticks(sorted({row["tokens"] for row in rows}))
        axes.set_xticklabels([f"{tokens:,}" for tokens in sorted({row["tokens"] for row in rows})])
        axes.minorticks_off()
    for row in sorted(rows, key=lambda row: (row["tokens"], row["model"])):
        looked = row["attention"]["early_recall"]
        share = [fmean(looked[at]) / fmean(row["attention"]["recall_at_0.2"][at]) for at in looked]
        style = "--" if row["model"] == "small" else "-"
        steps.plot([int(at) for at in looked], share, style, marker="o", label=name_of(row))
    steps.set(xlabel="step", ylabel="mass in the first look's blocks, over that in new ones")
    for axes in (density, recall, picture, steps):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _against_tokens(axes: Any, rows: list[Row], label: str, values: Any) -> None:
    """A line over the long model's lengths with the clips' deviation, and a square for the small model."""
    long = sorted((row for row in rows if row["model"] == "long"), key=lambda row: row["tokens"])
    found = [values(row) for row in long]
    line = axes.errorbar(
        [row["tokens"] for row in long],
        [fmean(of) for of in found],
        yerr=[stdev(of) for of in found],
        marker="o",
        capsize=3,
        label=label,
    )
    for row in rows:
        if row["model"] == "small":
            mark = {"color": line[0].get_color(), "markersize": 11, "fillstyle": "none"}
            axes.plot(row["tokens"], fmean(values(row)), "s", **mark, label=f"{label}, small model")
