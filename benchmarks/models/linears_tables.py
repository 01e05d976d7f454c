"""Tables of what `benchmarks.models.linears` measured: where a step's time goes, whole denoisings, and errors."""

from typing import Any

from adaspa.config import AdaSpaConfig

from benchmarks import markdown
from benchmarks.models.tables import ATTENTIONS, STEPS, by_model
from benchmarks.models.totals import SHORT_WARMUP, StepSeconds, total_seconds

Rows = list[dict[str, Any]]
LINEARS = {"bfloat16": "bf16", "float8": "e4m3"}
WAYS = {
    "linear layers in bf16": ("bfloat16", ("full",)),
    "in e4m3": ("float8", ("full",)),
    "in e4m3, dense attention in eight bits": ("float8", ("full", "int8_fp8")),
}
"""By column, the linear layers, and the precisions whose rows count: those of a later one replace an earlier one's."""
SCHEDULES = {"paper": AdaSpaConfig.paper(), "three dense steps": SHORT_WARMUP}


def share_table(rows: Rows) -> str:
    """Seconds of one forward, its speed over FlashAttention-3's, and seconds of its blocks' kernels by their part."""
    columns = ["model", "video tokens", "step", "linear layers in", "one forward, s"]
    lines = markdown.head([*columns, "attention", "linear layers", "rest"])
    for model, own in by_model(rows).items():
        tokens = next((f"{row['video_tokens']:,}" for row in own if row["step"] == "size"), "")
        base = 0.0
        for row in own:
            if "shares" not in row or row.get("attention") == "adaspa":
                continue
            if row["step"] == "dense":
                base = row["seconds"]
            step = f"dense, {ATTENTIONS[row['attention']]}" if row["step"] == "dense" else f"sparse, {row['asked']}"
            parts = [f"{row['shares'][part]:.2f}" for part in ("attention", "linears", "rest")]
            forward = f"{row['seconds']:.2f}" + (f" ({base / row['seconds']:.2f}x)" if base else "")
            lines.append(markdown.line([model, tokens, step, LINEARS[row["linears"]], forward, *parts]))
    return "\n".join(lines)


def total_table(rows: Rows) -> str:
    """Seconds of whole denoisings, all guidance branches, and how many times as fast as FlashAttention-3."""
    lines = markdown.head([f"{STEPS} steps, s", "schedule", "dense, FlashAttention-3", *WAYS])
    for model, own in by_model(rows).items():
        dense = next((row for row in own if row.get("attention") == "fa3" and "seconds" in row), None)
        if dense is None:
            continue
        base = STEPS * dense["calls"] * dense["seconds"]
        for name, config in SCHEDULES.items():
            cells = []
            for way in WAYS:
                seconds = total(own, way, config)
                cells.append("" if seconds is None else f"{seconds:.0f} ({base / seconds:.2f}x)")
            lines.append(markdown.line([model, name, f"{base:.0f}", *cells]))
    return "\n".join(lines)


def total(rows: Rows, way: str, config: AdaSpaConfig) -> float | None:
    """Seconds of one model's denoising in one of `WAYS`; None where a kind of step was not measured."""
    linears, precisions = WAYS[way]
    measured = [
        row
        for precision in precisions
        for row in rows
        if (row.get("linears"), row.get("dense_precision")) == (linears, precision) and "seconds" in row
    ]
    measured.sort(key=lambda row: row.get("pattern") == "scattered")  # the last of a density stands for it
    sparse = next((row for row in reversed(measured) if row["step"] == "sparse"), None)
    dense = {row["dense_precision"] for row in measured if row["step"] == "dense_with_lse"}
    if sparse is None or not dense.issuperset(precisions):
        return None
    try:
        return float(rows[0]["calls"] * total_seconds(config, StepSeconds.of(measured), sparse["density"], STEPS))
    except (KeyError, ValueError):
        return None


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
