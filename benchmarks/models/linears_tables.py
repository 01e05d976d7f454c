"""Tables of what `benchmarks.models.linears` measured: where a step's time goes, whole denoisings, and errors."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from adaspa.config import AdaSpaConfig

from benchmarks import markdown
from benchmarks.models.tables import ATTENTIONS, STEPS, by_model
from benchmarks.models.totals import SHORT_WARMUP, StepSeconds, total_seconds

Rows = list[dict[str, Any]]
LINEARS = {"bfloat16": "bf16", "float8": "e4m3"}
FULL, DENSE_EIGHT, ALL_EIGHT = ("full", "full"), ("int8_fp8", "full"), ("int8_fp8", "int8_fp8")
"""Precisions of dense and of sparse attention."""
WAYS = {
    "sparse, not compiled": ("bfloat16", False, (FULL,)),
    "compiled": ("bfloat16", True, (FULL,)),
    "and linear layers in e4m3": ("float8", True, (FULL,)),
    "and dense attention in eight bits": ("float8", True, (FULL, DENSE_EIGHT)),
    "and sparse attention too": ("float8", True, (FULL, DENSE_EIGHT, ALL_EIGHT)),
}
"""By column, the linear layers, whether blocks are compiled, and the precisions whose rows count: those of a later one
replace an earlier one's."""
KINDS_OF_STEPS = {
    "dense_with_lse": "dense, AdaSpa",
    "fused_search": "first search",
    "two_pass_search": "first search",
    "cached_search": "later search",
    "sparse": "sparse",
}
SET = 0.2
"""Density of the totals, as asked for."""
PAPER = "paper-128"
"""The paper's settings in blocks of 128 x 64, as `demo_model.caches` names them."""
SMALL = 64
"""Query block of the presets; the totals are in blocks of 128 x 64."""
SCHEDULES = {"paper": AdaSpaConfig.paper(), "three dense steps": SHORT_WARMUP}


def share_table(rows: Rows) -> str:
    """Seconds of one forward, its speed over FlashAttention-3's, and seconds of its blocks' kernels by their part."""
    columns = ["model", "video tokens", "step", "linear layers in", "one forward, s"]
    lines = markdown.head([*columns, "attention", "linear layers", "rest"])
    for model, own in by_model(rows).items():
        tokens = next((f"{row['video_tokens']:,}" for row in own if row["step"] == "size"), "")
        base = 0.0
        for row in own:
            if "shares" not in row:
                continue
            if row.get("attention") == "fa3":
                base = row["seconds"]
            step = f"dense, {ATTENTIONS[row['attention']]}" if row["step"] == "dense" else f"sparse, {row['asked']}"
            step += f", blocks of {block} x 64" if (block := row.get("query_block", 128)) != 128 else ""
            step += ", eight bits" if row["dense_precision"] != "full" else ""
            parts = [f"{row['shares'][part]:.2f}" for part in ("attention", "linears", "rest")]
            forward = f"{row['seconds']:.2f}" + (f" ({base / row['seconds']:.2f}x)" if base else "")
            lines.append(markdown.line([model, tokens, step, LINEARS[row["linears"]], forward, *parts]))
    return "\n".join(lines)


def whole_table(rows: Rows) -> str:
    """Seconds of whole steps by what their kernels do, at which clock and power."""
    groups = list(dict.fromkeys(group for row in rows for group in row.get("groups", ())))
    lines = markdown.head(["model", "rounding", "attention in", "one step, s", *groups, "between kernels", "GHz", "W"])
    for row in rows:
        if "groups" not in row:
            continue
        parts = [f"{row['groups'].get(group, 0):.2f}" for group in groups]
        card = [f"{row['ghz']:.2f}", f"{row['watts']:.0f}"] if "ghz" in row else ["", ""]
        attention = "bf16" if row.get("sparse_precision", "full") == "full" else "eight bits"
        line = [
            row["model"],
            row["rounding"],
            attention,
            f"{row['seconds']:.2f}",
            *parts,
            f"{row['between']:.2f}",
            *card,
        ]
        lines.append(markdown.line(line))
    return "\n".join(lines)


def paper_table(rows: Rows) -> str:
    """Seconds of the paper's steps, whole and in a row, by what their kernels do, at which clock, power and peak of
    memory."""
    base = fa3_seconds(rows)
    groups = list(dict.fromkeys(group for row in rows for group in row.get("groups", ())))
    lines = markdown.head(["step", "linear layers in", "attention in", "seconds", *groups, "GHz", "W", "peak, GiB"])
    for row in rows:
        eight = row.get("sparse_precision", "full") != "full" and row["step"] != "fused_search"
        step = f"dense, {ATTENTIONS[row['attention']]}" if row["step"] == "dense" else KINDS_OF_STEPS[row["step"]]
        step += ", with the residual" if "compensation" in row else ""
        cells = [step, LINEARS[row["linears"]], "eight bits" if eight else "bf16"]
        cells.append(f"{row['seconds']:.2f} ({base / row['seconds']:.2f}x)")
        cells += [f"{row['groups'].get(group, 0):.2f}" if "groups" in row else "" for group in groups]
        cells += [f"{row['ghz']:.2f}", f"{row['watts']:.0f}"] if "ghz" in row else ["", ""]
        cells.append(f"{row['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in row else "")
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def paper_total(rows: Rows) -> tuple[float, float]:
    """Seconds of 50 steps by the paper's schedule with everything on, and of as many dense ones by
    FlashAttention-3."""
    ours = [row for row in rows if precisions_of(row) == ALL_EIGHT and "compensation" not in row]
    density = next(row["density"] for row in ours if row["step"] == "sparse")
    return total_seconds(AdaSpaConfig.paper(), StepSeconds.of(ours), density, STEPS), STEPS * fa3_seconds(rows)


def fa3_seconds(rows: Rows) -> float:
    """Mean seconds of the dense steps by FlashAttention-3."""
    return mean(row["seconds"] for row in rows if row.get("attention") == "fa3")


def total_table(rows: Rows) -> str:
    """Seconds of whole denoisings, all guidance branches, and how many times as fast as FlashAttention-3."""
    models = by_model(rows)
    measured = {(row.get("linears"), row.get("compiled"), precisions_of(row)) for row in rows if "seconds" in row}
    tried = [way for way, (*told, precisions) in WAYS.items() if (*told, precisions[-1]) in measured]
    lines = markdown.head([f"{STEPS} steps, s", "schedule", "dense, FlashAttention-3", *tried])
    for model, own in models.items():
        dense = next((row for row in own if row.get("attention") == "fa3" and "seconds" in row), None)
        if dense is None:
            continue
        base = STEPS * dense["calls"] * dense["seconds"]
        for name, config in SCHEDULES.items():
            cells = []
            for way in tried:
                seconds = total(own, way, config)
                cells.append("" if seconds is None else f"{seconds:.0f} ({base / seconds:.2f}x)")
            lines.append(markdown.line([model, name, f"{base:.0f}", *cells]))
    return "\n".join(lines)


def total(rows: Rows, way: str, config: AdaSpaConfig) -> float | None:
    """Seconds of one model's denoising in one of `WAYS`; None where a kind of step was not measured."""
    measured = rows_of(rows, way)
    precisions = WAYS[way][-1]
    sparse = next((row for row in reversed(measured) if row["step"] == "sparse"), None)
    dense = {precisions_of(row) for row in measured if row["step"] == "dense_with_lse"}
    if sparse is None or not dense.issuperset(precisions):
        return None
    try:
        return float(rows[0]["calls"] * total_seconds(config, StepSeconds.of(measured), sparse["density"], STEPS))
    except (KeyError, ValueError):
        return None


def preset_table(rows: Rows, videos: Rows, densities: dict[str, Sequence[float]]) -> str:
    """Whole denoisings with everything on, without and with a step cache: how many times as fast as FlashAttention-3,
    beside the PSNR to dense videos on the demo model, in bf16 and so.

    A step that the cache skips is counted as a sparse step saved: it skips none at the beginning.

    Args:
        videos: rows of `demo_model.caches`.
        densities: by preset, the density behind each of its searches.
    """
    models = by_model(rows)
    named = ["settings", "step cache", "steps skipped", "PSNR in bf16, dB", "PSNR with everything on, dB"]
    lines = markdown.head([*named, *models])
    plain = {at(video): f"{video['psnr']:.1f}" for video in videos if video.get("linears") == "bfloat16"}
    for video in videos:
        name = video["attention"]
        if video["linears"] != "float8" or (name != PAPER and name not in densities):
            continue
        share = video["attention_calls"]["skipped"] / sum(video["attention_calls"].values())
        cells = []
        for own in models.values():
            dense = next((row["seconds"] for row in own if row.get("attention") == "fa3" and "seconds" in row), None)
            precision = video.get("sparse_precision", "full")
            seconds = seconds_with_everything(own, name, densities.get(name, SET), share, precision)
            cells.append("" if dense is None or seconds is None else f"{STEPS * dense / seconds:.2f}x")
        psnr = [plain.get(at(video), ""), f"{video['psnr']:.1f}"]
        lines.append(markdown.line([name, video["cache"], f"{100 * share:.0f} %", *psnr, *cells]))
    return "\n".join(lines)


def presets_sentence(videos: Rows) -> str:
    """What of the rows of `preset_table` is in eight bits, and whose PSNR is of another price than the speed."""
    shown = [video for video in videos if video["linears"] == "float8" and video["attention"] != "dense"]
    full = {video["attention"] for video in shown if video.get("sparse_precision", "full") == "full"}
    names = list(dict.fromkeys(f"`{video['attention']}`" for video in shown if video["attention"] in full))
    text = "With everything on: linear layers in e4m3 and attention in eight bits"
    text += f", of {' and '.join(names)} the dense one alone." if names else "."
    prices = {video["attention"]: video["price"] for video in shown if "price" in video}
    for name, measured in prices.items():
        present = getattr(AdaSpaConfig.preset(name).selection, "price", None)
        if measured != present:
            text += f"\nThe PSNR of `{name}` is of its earlier price of {measured}, its speed of the present {present}."
    return text


def at(video: dict[str, Any]) -> tuple[str, str]:
    """Settings and step cache."""
    return video["attention"], video["cache"]


def seconds_with_everything(
    rows: Rows, name: str, density: float | Sequence[float], skipped: float, precision: str
) -> float | None:
    """Seconds of one branch's denoising by a preset with sparse attention in this precision, or by `PAPER`, with a
    share of its steps skipped; None where a kind of step is missing."""
    try:
        if name == PAPER:
            if ALL_EIGHT not in map(precisions_of, rows):
                return None
            config, seconds = AdaSpaConfig.paper(), StepSeconds.of(rows_of(rows, list(WAYS)[-1]))
            density = seconds.searched_at
        else:
            config = AdaSpaConfig.preset(name)  # type: ignore[arg-type]
            seconds = in_small_blocks(rows, list(WAYS)[-1], precision)
        last = density if isinstance(density, float) else density[-1]
        return float(total_seconds(config, seconds, density, STEPS) - skipped * STEPS * seconds.sparse_at(last))
    except (KeyError, StopIteration, ValueError):
        return None


def in_small_blocks(rows: Rows, way: str, precision: str) -> StepSeconds:
    """Seconds of one model's steps with sparse attention in the presets' blocks of 64 x 64, in one precision.

    Raises:
        KeyError: a kind of step was not measured.
        ValueError: sparse steps were measured at one density alone.
    """
    seconds = StepSeconds.of(rows_of(rows, way))
    small = [row for row in rows_of(rows, way, query_block=SMALL) if precisions_of(row)[1] == precision]
    own = replace(seconds, sparse={round(row["density"], 2): row["seconds"] for row in small})
    if len(own.sparse) < 2:
        raise ValueError(f"sparse steps in blocks of {SMALL} must have been measured at two densities")
    sparse = own.sparse_at(seconds.searched_at)
    sampled = None if seconds.sampled_search is None else seconds.scoring(4) + sparse
    return replace(own, cached_search=seconds.scoring(1) + sparse, sampled_search=sampled)


def rows_of(rows: Rows, way: str, query_block: int = 128) -> Rows:
    """The rows of one model that count in one of `WAYS`, those with a pattern that was not searched last."""
    linears, compiled, precisions = WAYS[way]
    wanted = [(linears, compiled, each) for each in precisions]
    found = [
        row
        for each in wanted
        for row in rows
        if (row.get("linears"), row.get("compiled"), precisions_of(row)) == each
        and "seconds" in row
        and row.get("query_block", 128) == query_block
    ]
    return sorted(found, key=lambda row: row.get("pattern") == "scattered")


def precisions_of(row: dict[str, Any]) -> tuple[str | None, str]:
    """Precisions of dense and of sparse attention."""
    return row.get("dense_precision"), row.get("sparse_precision", "full")


def error_table(rows: Rows) -> str:
    """Relative errors of a block's output."""
    lines = markdown.head(
        ["model", "block", "of the output, bf16", "e4m3", "of what the block adds, bf16", "e4m3"],
    )
    for model, own in by_model(rows).items():
        errors = {(row["block"], row["relative"]): row["errors"] for row in own if "errors" in row}
        for block in dict.fromkeys(block for block, _ in errors):
            cells = [errors[block, name][kind] for name in ("of_output", "of_added") for kind in LINEARS]
            lines.append(markdown.line([model, block, *(f"{100 * error:.2f} %" for error in cells)]))
    return "\n".join(lines)


def video_table(rows: Rows) -> str:
    """PSNR of the demo model's videos by setting, and the share of what the captions ask for that they show."""
    names = {"float32": "float32", **LINEARS}
    lines = markdown.head(["setting", "linear layers in", "PSNR to dense, dB", "to the same in bf16, dB", "right, %"])
    for row in rows:
        cells = [
            f"{row[name]['psnr']:.1f} ± {row[name]['psnr_error']:.1f}" if name in row else ""
            for name in ("to_dense", "to_own")
        ]
        lines.append(markdown.line([row["setting"], names[row["linears"]], *cells, f"{100 * row['right']:.1f}"]))
    return "\n".join(lines)
