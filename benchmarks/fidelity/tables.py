"""Table, plot and choice of presets from the fidelity that was measured on the demo model."""

from pathlib import Path
from statistics import fmean
from typing import Any

from adaspa import AdaSpaConfig

from benchmarks import markdown
from benchmarks.fidelity.field import interval

Row = dict[str, Any]
APART = 0.54
"""What a block costs besides in query blocks of 64 that its neighbour does not keep: `apart` of changes-pairs.json."""
ADDED = 0.0025
"""Cost of adding a residual in a sparse step, in dense calls: 0.6 ms (compensation-time.json) of 236 (kernels.json)."""
ACCURACY_LOST = 0.02  # most that a preset may lose of the share of right answers
QUALITY, BALANCED = 50.0, 40.0  # decibels that these presets must reach
SHOWN = ("paper", "presets", "ablations", "curves", "patterns")
"""Groups of rows in the first table."""
USUAL = AdaSpaConfig().to_dict()


def attention_work(row: Row) -> float:
    """The attention of a denoising in multiplications, as a share of the dense one."""
    return float(sum(row["work"].values())) if "work" in row else 1.0


def cost(row: Row) -> float:
    """The same at what a block costs, with the adding of residuals."""
    if "work" not in row:
        return 1.0
    total = attention_work(row) + row["work"]["sparse"] * (price(row) - 1)
    if row.get("config", {}).get("compensation", "none") == "none":
        return total
    steps = [row[f"{kind}_steps"] for kind in ("dense", "search", "sparse")]
    return float(total + ADDED * steps[-1] / sum(steps))


def price(row: Row) -> float:
    """What a kept block costs: two query blocks of 64 load those alone which only one of them keeps."""
    return 1 + APART * (1 - float(row.get("shared_tiles", 1)))


def apart(pairs: list[Row]) -> float:
    """What blocks cost more by their shares that neighbours do not keep, in the kernel for query blocks of 64.

    Against the kernel for query blocks of 128 on patterns of the same density: least squares through no extra cost.
    """
    known = [row for row in pairs if {"now", "128x64"} <= row["ms"].keys()]
    alone = [1 - row["overlap"] for row in known]
    more = [row["ms"]["now"] / row["ms"]["128x64"] - 1 for row in known]
    return float(sum(x * y for x, y in zip(alone, more, strict=True)) / sum(x * x for x in alone))


def table(rows: list[Row]) -> str:
    """The rows but for the presets' candidates, each with its figures against the dense video."""
    return markdown.table(
        ("", "density", "recall", "attention work", "PSNR, dB", "SSIM", "LPIPS", "right answers"),
        (
            (
                row["name"],
                f"{row['density']:.3f}",
                _number(row.get("recall"), 3),
                f"{attention_work(row):.2f}",
                f"{row['psnr']:.2f} ± {row['psnr_error']:.2f}" if "psnr" in row else "",
                _number(row.get("ssim"), 4),
                _number(row.get("lpips"), 4),
                f"{100 * row['right']['all_attributes']:.1f} %",
            )
            for row in rows
            if not set(row["groups"]).isdisjoint(SHOWN)
        ),
    )


def frontier(rows: list[Row]) -> list[Row]:
    """The rows that may be a preset, and the paper's, that no other reaches at less cost, the cheapest first."""
    best, found = 0.0, []
    for row in sorted((row for row in rows if {"grid", "presets", "paper"} & set(row["groups"])), key=cost):
        if row.get("psnr", 0.0) > best:
            best = row["psnr"]
            found.append(row)
    return found


def frontier_table(rows: list[Row]) -> str:
    """The frontier, and beside it the presets and the paper's settings."""
    beside = [row for row in rows if row["name"] == "paper" or ("presets" in row["groups"] and "clips" in row)]
    return _cost_table(list({row["name"]: row for row in (*frontier(rows), *beside)}.values()))


def sets_table(rows: list[Row]) -> str:
    """The rows of `on_all`."""
    return _cost_table([row for row in rows if "clips" in row])


def _cost_table(rows: list[Row]) -> str:
    """Rows by their cost; those of `on_all` with the PSNR on each set."""
    sets = any("sets" in row for row in rows)
    columns = ["", "density", "attention work", "cost", "PSNR, dB (95 % interval)", "worst clip", "right answers"]
    return markdown.table(
        [*columns[:5], *(["each set"] if sets else []), *columns[5:]],
        (
            (
                row["name"],
                f"{row['density']:.3f}",
                f"{attention_work(row):.2f}",
                f"{cost(row):.2f}",
                "{:.1f} ({:.1f} to {:.1f})".format(row["psnr"], *interval(row["clips"])),
                *([", ".join(f"{psnr:.1f}" for psnr in row["sets"])] if sets else []),
                f"{min(row['clips']):.1f}",
                f"{100 * row['right']['all_attributes']:.1f} %",
            )
            for row in sorted(rows, key=cost)
        ),
    )


def plot_grid(rows: list[Row], path: Path) -> None:
    """What the grid's settings cost against their PSNR, by policy, blocks and lists; the presets' and the paper's."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if "grid" in row["groups"]:
            kinds.setdefault(_kind(row["config"]), []).append(row)
    for mark, (kind, found) in zip("osvD^P*Xph<", sorted(kinds.items()), strict=False):
        points = [(cost(row), row["psnr"]) for row in found]
        axes.plot(*zip(*points, strict=True), mark, label=kind, linestyle="", alpha=0.7)
    best = [(cost(row), row["psnr"]) for row in frontier(rows)]
    axes.plot(*zip(*best, strict=True), color="grey", linewidth=1, zorder=0, label="none better at less cost")
    for row in rows:
        if row["name"] == "paper" or ("presets" in row["groups"] and row.get("recall") is not None):
            axes.plot(cost(row), row["psnr"], marker="*", color="black", markersize=10)
            place = (cost(row), row["psnr"])
            axes.annotate(row["name"], place, xytext=(6, -12), textcoords="offset points")
    axes.set(xlabel="attention of the whole denoising at what a block costs (dense = 1)", ylabel="PSNR to dense, dB")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _kind(config: dict[str, Any]) -> str:
    lists = ", shared lists" if config.get("share_lists") else ""
    return (
        f"{config['selection'].replace('_', ' ')}, {config['query_block_size'] or 128} x {config['block_size']}{lists}"
    )


def on_all(sets: list[list[Row]]) -> list[Row]:
    """The rows that were measured on all sets of captions with the same settings, each with all of their clips."""
    named = [{row["name"]: row for row in rows} for rows in sets]
    found = []
    for row in sets[0]:
        same = [rows[row["name"]] for rows in named if row["name"] in rows]
        if len(same) == len(sets) and all(_settings(other) == _settings(row) for other in same):
            found.append(_joined(same))
    return found


def _settings(row: Row) -> dict[str, Any] | None:
    """All settings of a row; one that came later than the row was then as it is by default."""
    return USUAL | row["config"] if "config" in row else None


def _joined(rows: list[Row]) -> Row:
    """Their means, and the clips one behind the other."""
    first = rows[0]
    joined: Row = {key: fmean(row[key] for row in rows) for key in ("density", "psnr", "shared_tiles") if key in first}
    joined["right"] = {"all_attributes": fmean(row["right"]["all_attributes"] for row in rows)}
    if "work" in first:
        joined["work"] = {kind: fmean(row["work"][kind] for row in rows) for kind in first["work"]}
        joined |= {"clips": [clip for row in rows for clip in row["clips"]], "sets": [row["psnr"] for row in rows]}
    return first | joined


def choose_presets(rows: list[Row]) -> dict[str, Row]:
    """For each preset, of the rows that may be one, that of the least cost that keeps the preset's promise.

    ``quality`` reaches 50 dB, ``balanced`` 40 dB, ``fast`` what the paper's settings reach. To reach is that the 95 %
    interval of the mean over the clips lies above, so that other captions reach it too; for ``fast``, the interval of
    the difference to the paper's settings, clip by clip. All keep the right answers within 2 percentage points of dense
    attention. A preset that no row fits is left out.

    Args:
        rows: of `on_all`.
    """
    named = {row["name"]: row for row in rows}
    right, floors = named["dense"]["right"]["all_attributes"], promises(named["paper"]["clips"])
    candidates = [row for row in rows if {"presets", "grid"} & set(row["groups"])]
    chosen = {}
    for preset, floor in floors.items():
        fitting = [
            row
            for row in candidates
            if reaches(row["clips"], floor) and row["right"]["all_attributes"] >= right - ACCURACY_LOST
        ]
        if fitting:
            chosen[preset] = min(fitting, key=cost)
    return chosen


def promises(paper: list[float]) -> dict[str, list[float]]:
    """What each preset must reach, by clip; with the PSNR of each clip by the paper's settings."""
    fixed = {"quality": [QUALITY] * len(paper), "balanced": [BALANCED] * len(paper)}
    return fixed | {"fast": paper}


def reaches(clips: list[float], floors: list[float]) -> bool:
    """Whether the 95 % interval of what clips are above their floors is above zero."""
    return interval([clip - floor for clip, floor in zip(clips, floors, strict=True)])[0] >= 0


def choice(rows: list[Row]) -> str:
    """The presets that the rule chooses, as lines of text."""
    lines = []
    for preset, row in choose_presets(rows).items():
        config = row["config"]
        fields = (
            "selection",
            "price",
            "mass",
            "warmup",
            "warmup_mass",
            "searches",
            "dense_tail",
            "tail_mass",
            "query_block_size",
            "share_lists",
        )
        settings = ", ".join(f"{name}={config[name]!r}" for name in fields if name in config)
        figures = f"{row['psnr']:.2f} dB, density {row['density']:.3f}, work {attention_work(row):.2f}"
        figures += f", cost {cost(row):.2f}"
        lines.append(f"{preset}: {row['name']} ({figures}): {settings}")
    return "\n".join(lines)


def promise_table(rows: list[Row]) -> str:
    """Whether the presets keep their promise on captions that nothing was chosen on."""
    named = {row["name"].removeprefix("preset "): row for row in rows if "clips" in row}
    paper = named["paper"]["clips"]
    words = {
        "quality": f"{QUALITY:g} dB",
        "balanced": f"{BALANCED:g} dB",
        "fast": "the paper's",
    }
    columns = ["", "promise", "density", "attention work", "PSNR, dB (95 % interval)", "above it, dB", "worst clip"]
    lines = markdown.head([*columns, "right answers"])
    for name, floors in (promises(paper) | {"paper": paper}).items():
        if (row := named.get(name)) is None:
            continue
        above = [clip - floor for clip, floor in zip(row["clips"], floors, strict=True)]
        cells = [
            name if name == "paper" else f"`{name}`",
            words.get(name, ""),
            f"{row['density']:.2f}",
            f"{attention_work(row):.2f}",
            "{:.1f} ({:.1f} to {:.1f})".format(row["psnr"], *interval(row["clips"])),
            "{:+.1f} ({:+.1f} to {:+.1f})".format(sum(above) / len(above), *interval(above)) if name in words else "",
            f"{min(row['clips']):.1f}",
            f"{100 * row['right']['all_attributes']:.1f} %",
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


SHORT = 2304
"""Tokens of the small model's clips."""


def longest_densities(results: list[dict[str, Any]], *, priced: bool = True) -> tuple[int, dict[str, list[float]]]:
    """The presets' densities on the longest clips on which all of them were measured, and how many tokens these have.

    Args:
        results: of `demo_model.fidelity`: of the small model, and of lengths of the long one.
    """
    by_tokens = {
        int(result["settings"].get("tokens", SHORT)): preset_densities(result["rows"], priced=priced)
        for result in results
    }
    wanted = {preset for preset, found in by_tokens.get(SHORT, {}).items() if found}
    return max(((tokens, found) for tokens, found in by_tokens.items() if wanted <= found.keys()), default=(SHORT, {}))


def preset_densities(rows: list[Row], *, priced: bool = True) -> dict[str, list[float]]:
    """By preset, the density behind each of its searches; ``priced`` at what a block costs in query blocks of 128."""
    return {
        row["name"].removeprefix("preset "): [
            density * (price(row) if priced else 1) for density in row["density_by_search"]
        ]
        for row in rows
        if "presets" in row["groups"]
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
