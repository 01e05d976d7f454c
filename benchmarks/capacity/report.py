"""The answers as tables for a terminal and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WORKERS = "workers"
PER_HOUR = "per_hour"
Rows = Sequence[dict[str, Any]]


def print_table(console: Console, title: str, rows: Rows) -> None:
    """One row a line, the columns by the first row's keys."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the answers: GPUs for a promise, the cost of scaling to zero, and the load of what all workers share.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  the gateway has none
    from matplotlib.ticker import NullFormatter  # noqa: PLC0415

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    sizing, scaling, sharing = figure.subplots(1, 3)
    _draw_sizing(sizing, results["sizing"])
    _draw_scaling(scaling, results["scaling"])
    _draw_sharing(sharing, results["sharing"], results["limits"])
    for axes in (sizing, scaling, sharing):
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=110)


def _draw_sizing(axes: Any, rows: Rows) -> None:
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        tightest = min(row["target_seconds"] for row in mine)
        points = [row for row in mine if row["target_seconds"] == tightest]
        axes.plot([row[PER_HOUR] for row in points], [row[WORKERS] for row in points], marker="o", label=model)
        axes.set_title(f"GPUs for a p95 wait of {tightest:g} s")
    axes.set(xscale="log", yscale="log", xlabel="requests an hour", ylabel="GPUs")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")


def _draw_scaling(axes: Any, rows: Rows) -> None:
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        axes.plot([row[PER_HOUR] for row in mine], [row["gpu_hours_a_job"] for row in mine], marker="o", label=policy)
    axes.set(xscale="log", yscale="log", xlabel="requests an hour", ylabel="GPU hours a job")
    axes.set_yticks([0.2, 0.5, 1, 2, 5])  # less than a decade: the usual ticks would leave one number
    axes.set_title("What a way of scaling costs")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")


def _draw_sharing(axes: Any, rows: Rows, limits: dict[str, float]) -> None:
    for name, limit in limits.items():
        values = [100 * row[name] / limit for row in rows]
        axes.plot([row[WORKERS] for row in rows], values, marker="o", label=name.replace("_", " "))
    axes.axhline(100, color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="busy workers", ylabel="% of what it bears")
    axes.set_title("What all workers share")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")
