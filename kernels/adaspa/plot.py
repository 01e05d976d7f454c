"""A picture of what AdaSpa did in a request."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaspa.record import RequestRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 4  # layers whose block maps are shown
TICKS = 16  # most ticks of an axis


def plot(record: RequestRecord, path: str | Path) -> None:
    """Draw density and recall of every layer and head, and block maps over the searches.

    The maps need a request that ran with ``record_maps`` in its config; they are means over the heads, the first sample
    of the first CFG branch.

    Args:
        record: ``transformer.adaspa.record``, during a request or after it.
        path: the file to write; its ending says the format: png, svg, pdf.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the record has no sparse step.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("adaspa.plot needs matplotlib: pip install matplotlib") from error
    layers = record.report()["layers"]
    if not layers:
        raise ValueError("record must be of a request with a sparse step, got one without")
    maps = _maps(record)
    shown = _spread(sorted({layer for layer, _ in maps}))
    figure = Figure(figsize=(9, 4 + 2.4 * len(shown)), layout="constrained")
    heights = [4.0, 2.4 * len(shown)] if shown else [4.0]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_heads(parts[0], layers)
    if shown:
        _draw_maps(parts[1], maps, shown)
    figure.savefig(path, dpi=150)


def _draw_heads(figure: Any, layers: list[dict[str, Any]]) -> None:
    """Density and recall as layers x heads."""
    for axes, name in zip(figure.subplots(1, 2), ("density", "recall"), strict=True):
        image = axes.imshow([layer[name] for layer in layers], vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=name, xlabel="head", ylabel="layer")
        for axis, labels in ((axes.xaxis, range(len(layers[0][name]))), (axes.yaxis, [x["layer"] for x in layers])):
            every = -(-len(labels) // TICKS)
            axis.set_ticks(range(0, len(labels), every), labels[::every])
        figure.colorbar(image, ax=axes)


def _draw_maps(figure: "Figure", maps: dict[tuple[int, int], Any], shown: list[int]) -> None:
    """Kept blocks, layers down and searches across."""
    steps = sorted({step for _, step in maps})
    figure.suptitle("kept blocks, mean over the heads (query block down, key block across)", fontsize="medium")
    grid = figure.subplots(len(shown), len(steps), squeeze=False)
    for row, layer in enumerate(shown):
        for column, step in enumerate(steps):
            axes = grid[row][column]
            axes.set_xticks([])
            axes.set_yticks([])
            if (layer, step) in maps:
                image = axes.imshow(maps[layer, step], vmin=0, vmax=1, aspect="equal", interpolation="nearest")
                axes.set_title(f"layer {layer}, step {step}", fontsize="small")
    figure.colorbar(image, ax=grid, label="share of the heads")


def _maps(record: RequestRecord) -> dict[tuple[int, int], Any]:
    """Return the map of the first pattern, by layer and search step."""
    found: dict[tuple[int, int], Any] = {}
    for pattern in record.patterns:
        if pattern.map is not None:
            found.setdefault((pattern.layer, pattern.step), pattern.map.float().mean(0).cpu().numpy())
    return found


def _spread(layers: list[int]) -> list[int]:
    """Return at most MAPS of the layers, from first to last."""
    if len(layers) <= MAPS:
        return layers
    return [layers[round(n * (len(layers) - 1) / (MAPS - 1))] for n in range(MAPS)]
