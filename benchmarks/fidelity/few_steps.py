"""The table of docs/demo_model/few_steps.json, which `demo_model.few_steps` measured: schedules of few-step models."""

from collections.abc import Iterable
from typing import Any

from benchmarks import markdown

CHOSEN = "a search in the first step alone"
"""The schedule that `few_steps` has."""


def table(results: dict[str, dict[str, Any]], mass: float) -> str:
    """Work and PSNR of each schedule that keeps this mass, by the number of steps."""
    rows = {
        steps: {row["name"]: row for row in result["rows"] if row.get("mass") == mass}
        for steps, result in results.items()
    }
    columns = [f"{title}, {steps} steps" for steps in rows for title in ("work", "PSNR, dB")]
    names = dict.fromkeys(name for found in rows.values() for name in found)
    return markdown.table(
        ["", *columns],
        ([f"**{name} (`few_steps`)**" if name == CHOSEN else name, *_cells(rows.values(), name)] for name in names),
    )


def _cells(columns: Iterable[dict[str, Any]], name: str) -> list[str]:
    cells = []
    for found in columns:
        row = found.get(name)
        cells += [f"{row['work']:.2f}", f"{row['psnr']:.1f} ({row['psnr_worst']:.0f})"] if row else ["", ""]
    return cells
