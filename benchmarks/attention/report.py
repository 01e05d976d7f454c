"""A table and a plot of a benchmark's JSON: `python -m benchmarks.attention.report bench.json --plot bench.png`."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import markdown

COLUMNS = 4  # of panels


def table(result: dict[str, Any]) -> str:
    """All rows as one Markdown table; what failed shows its reason."""
    times = [name for name in ("host_us", "eager_us") if any(name in row for row in result["rows"])]
    facts = ["density", "imbalance"] + (["shared"] if any("shared" in row for row in result["rows"]) else [])
    units = [name.replace("_", " ") for name in times]
    head = ["shape", "operation", "pattern", "blocks", *facts, "ms", "TFLOP/s", *units, "rounds"]
    lines = markdown.head(head)
    for row in result["rows"]:
        ms = f"{row['ms']:.3f}" if "ms" in row else row["error"]
        blocks = " x ".join(str(side) for side in row.get("block", ()))
        known = [row.get(name, "") for name in facts]
        cells = [row["shape"], row["op"], row.get("pattern", ""), blocks, *known, ms]
        cells += [row.get("tflops", ""), *(row.get(name, "") for name in times), len(row.get("rounds_ms", ()))]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def changes_table(result: dict[str, Any]) -> str:
    """What one change of the kernels brought, before and after it in one run, as a Markdown table."""
    rows = ([row["what"], f"{row['before']:g}", f"{row['now']:g}", row["unit"]] for row in result["rows"])
    return markdown.table(["what", "before", "now", "unit"], rows)


def _label(row: dict[str, Any]) -> str:
    dense = ", dense" if row["density"] == 1 else f" {row.get('pattern', '')} {row.get('block', '')}"
    return row["op"] + dense


def plot(result: dict[str, Any], path: Path) -> None:
    """Effective TFLOP/s against density, one panel a shape; dense kernels as horizontal lines."""
    import matplotlib  # noqa: PLC0415 - an optional dependency
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    rows = [row for row in result["rows"] if "tflops" in row and row["op"] != "tune"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    columns = min(len(shapes), COLUMNS)
    lines = -(-len(shapes) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines + 1), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    # The same kernel has the same colour in every panel.
    labels, palette = dict.fromkeys(_label(row) for row in rows), matplotlib.colormaps["tab20"]
    colors = {label: palette(i % palette.N) for i, label in enumerate(labels)}
    for shape, axes in zip(shapes, panels, strict=False):  # in this order, no panel is taken and left
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in (row for row in rows if row["shape"] == shape):
            if row["density"] == 1:
                axes.axhline(row["tflops"], linestyle="--", color=colors[_label(row)], label=_label(row))
            else:
                curves.setdefault(_label(row), []).append((row["density"], row["tflops"]))
        for label, points in curves.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colors[label], label=label)
        axes.set(title=shape, xlabel="density", ylabel="effective TFLOP/s", xlim=(0, 0.6), ylim=(0, None))
    for axes in panels:  # those that are left
        axes.set_axis_off()
    shown = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="the JSON that benchmarks.attention wrote")
    parser.add_argument("--plot", type=Path, help="the picture to write; its ending says the format")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    print(table(result))
    if arguments.plot is not None:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
