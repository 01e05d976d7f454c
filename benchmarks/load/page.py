"""The table of docs/load.md that is made from its figures.

python -m benchmarks.load.page docs/load.md docs/load.json
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import replaced, table

NOW = "now"
COLUMNS = ("", "commit", "Redis' thread", "commands", "jobs a second", "beside")


def jobs(rows: list[dict[str, Any]]) -> str:
    """What a job costs one Valkey, by its shape and by commit: each run's figure, and the ratio of the medians."""
    shapes = dict.fromkeys((row["steps"], row.get("step_seconds")) for row in rows)
    commits = dict.fromkeys(row["commit"] for row in rows)
    return table(COLUMNS, (_line(rows, shape, commit) for shape in shapes for commit in commits))


def _line(rows: list[dict[str, Any]], shape: tuple[int, float | None], commit: str) -> tuple[str, ...]:
    steps, step_seconds = shape
    own, now = (
        [row for row in rows if (row["steps"], row.get("step_seconds")) == shape and row["commit"] == each]
        for each in (commit, NOW)
    )
    if step_seconds is None:
        cost, commands, what, unit = "redis_us_a_second", "redis_commands_a_second", "a second between two steps", "µs"
    else:
        cost, commands, unit = "redis_ms_a_job", "redis_commands_a_job", "ms"
        what = f"{steps} steps in {steps * step_seconds:g} s"
    middle = median(row[cost] for row in own)
    ratio = middle / median(row[cost] for row in now)
    through = "" if step_seconds is None else f"{1000 / middle:,.0f}"
    spent = ", ".join(f"{row[cost]:.3g}" for row in own)
    counted = f"{median(row[commands] for row in own):.3g}"
    return what, commit, f"{spent} {unit}", counted, through, "" if commit == NOW else f"{ratio:.2f}"


def main() -> None:
    """Write the table into the page."""
    parser = argparse.ArgumentParser(description="Write the table of docs/load.md.")
    parser.add_argument("page", type=Path)
    parser.add_argument("figures", type=Path)
    asked = parser.parse_args()
    found = json.loads(asked.figures.read_text())
    asked.page.write_text(replaced(asked.page.read_text(), "jobs", jobs(found["jobs"])))


if __name__ == "__main__":
    main()
