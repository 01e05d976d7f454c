"""The table of jobs by group offload, from what `benchmarks.models.offload` measured."""

from collections.abc import Sequence
from typing import Any

from benchmarks import markdown

GB = 1e9
STEPS = ("dense", "search", "sparse")
Row = dict[str, Any]


def table(results: Sequence[dict[str, Any]]) -> str:
    """What whole jobs took, the models across; in brackets what the worker predicted."""
    columns = [_cells(result["size"], result["rows"]) for result in results]
    lines = ([name, *(cells[name] for cells in columns)] for name in columns[0])
    return markdown.table(["", *(result["model"] for result in results)], lines)


def _cells(size: str, rows: Sequence[Row]) -> dict[str, str]:
    load, flight = (next(row for row in rows if row["part"] == part) for part in ("load", "preflight"))
    steps = [row for row in rows if row["part"] == "step"]
    tiles, whole = (row for row in rows if row["part"] == "decode")
    peak, predicted = max(row["peak_bytes"] for row in steps), flight["predicted_bytes"]["denoising"]
    seconds = {kind: [row["seconds"] for row in steps if row["kind"] == kind] for kind in STEPS}
    return {
        "size, frames": size,
        "weights in host memory, GB": f"{load['weights_bytes'] / GB:.1f}",
        "the process's host memory at most, GB": f"{max(row.get('host_peak_bytes', 0) for row in rows) / GB:.1f}",
        "GPU memory, denoising, GB": f"{peak / GB:.1f} ({predicted / GB:.1f})",
        "GPU memory, decoding in tiles, GB": _decoding(tiles),
        "GPU memory, decoding as a whole, GB": _decoding(whole),
        **{f"{kind} step, seconds": _range(seconds[kind]) for kind in STEPS},
        "decoding in tiles, as a whole, seconds": f"{tiles['seconds']:.1f}, {whole['seconds']:.1f}",
    }


def _decoding(row: Row) -> str:
    return f"{row['peak_bytes'] / GB:.1f} ({row['predicted_bytes'] / GB:.1f})"


def _range(seconds: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.1f}" for value in sorted(seconds)))
