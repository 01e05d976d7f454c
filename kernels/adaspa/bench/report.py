"""A table and a plot of a benchmark's JSON: `python -m adaspa.bench.report bench.json --plot bench.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def table(result: dict[str, Any]) -> str:
    """All rows as one Markdown table; what failed shows its reason."""
    lines = ["| shape | operation | pattern | blocks | density | ms | TFLOP/s |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        ms = f"{row['ms']:.3f}" if "ms" in row else row["error"]
        cells = [row["shape"], row["op"], row.get("pattern", ""), row.get("block", ""), row.get("density", "")]
        lines.append("| " + " | ".join(str(cell) for cell in [*cells, ms, row.get("tflops", "")]) + " |")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Effective TFLOP/s against density, one panel a shape; dense kernels as horizontal lines."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    rows = [row for row in result["rows"] if "tflops" in row and row["op"] != "tune"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure = Figure(figsize=(5 * len(shapes), 4), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in (row for row in rows if row["shape"] == shape):
            if row["density"] == 1:
                axes.axhline(row["tflops"], linewidth=0.8, color="grey")
                axes.annotate(row["op"], (0.5, row["tflops"]), fontsize="x-small")
            else:
                label = f"{row['op']} {row.get('pattern', '')} {row.get('block', '')}"
                curves.setdefault(label, []).append((row["density"], row["tflops"]))
        for label, points in curves.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        axes.set(title=shape, xlabel="density", ylabel="effective TFLOP/s", xlim=(0, 0.6), ylim=(0, None))
        axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="the JSON that adaspa.bench wrote")
    parser.add_argument("--plot", type=Path, help="the picture to write; its ending says the format")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    print(table(result))
    if arguments.plot is not None:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
