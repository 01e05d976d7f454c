"""Tables of what `benchmarks.models.steps` measured: seconds by kind of step, and whole denoisings by the schedule."""

from collections.abc import Sequence
from statistics import median
from typing import Any, get_args

from adaspa.config import AdaSpaConfig, Preset

from benchmarks import markdown
from benchmarks.models.totals import SHORT_WARMUP, StepSeconds, total_seconds

Rows = list[dict[str, Any]]
STEPS = 50
FEW = (4, 8)
SET = 0.2  # the density of the few-step totals
ATTENTIONS = {
    "fa3": "FlashAttention-3",
    "sdpa-cudnn": "cuDNN",
    "sdpa-fa2": "FlashAttention-2",
    "diffusers": "diffusers",
    "adaspa": "AdaSpa",
}
KINDS = {
    "unpatched": "dense, as diffusers runs it",
    "dense_with_lse": "dense, AdaSpa's own",
    "search_at_once": "search in the very first step",
    "fused_search": "first search",
    "cached_search": "LSE-cached search, then sparse",
    "sampled_search": "the same, every 4th row scored",
}
REFERENCE = f"dense, {ATTENTIONS['fa3']}"
DENSE = (REFERENCE, *(f"dense, {ATTENTIONS[name]}" for name in ("sdpa-cudnn", "sdpa-fa2")), KINDS["unpatched"])


def by_model(rows: Rows) -> dict[str, Rows]:
    """The rows of each model, in the order they came."""
    models: dict[str, Rows] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    return models


def step_table(rows: Rows) -> str:
    """Seconds of one forward, the kinds of step down and the models across."""
    models = by_model(rows)
    labels = dict.fromkeys(label for row in rows if (label := _label(row)) is not None)
    lines = []
    for label in labels:
        cells = []
        for own in models.values():
            found = [row for row in own if _label(row) == label]
            cells.append(_cell(found[-1]) if found else "")
        lines.append([label, *cells])
    return markdown.table(["one forward, seconds", *models], lines)


def memory_table(rows: Rows) -> str:
    """Peak memory of dense steps and of AdaSpa's, and the bytes of its caches (one guidance branch)."""
    models = by_model(rows)
    dense, ours, share, caches = [], [], [], []
    for own in models.values():
        plain = [row["peak_bytes"] for row in own if row["step"] == "dense" and row.get("peak_bytes")]
        walked = [row for row in own if "cache_bytes" in row]
        peak = max((row["peak_bytes"] or 0 for row in walked), default=0)
        known = bool(plain and peak)
        dense.append(f"{min(plain) / 2**30:.1f}" if plain else "")
        ours.append(f"{peak / 2**30:.1f}" if peak else "")
        share.append(f"{100 * (peak / min(plain) - 1):+.1f} %" if known else "")
        caches.append(f"{max((row['cache_bytes'] for row in walked), default=0) / 1e9:.2f}" if walked else "")
    names = ("peak, dense, GiB", "peak, AdaSpa, GiB", "difference", "caches of one branch, GB")
    table = zip(names, (dense, ours, share, caches), strict=True)
    return markdown.table(["", *models], ([name, *cells] for name, cells in table))


def total_table(rows: Rows, densities: dict[str, Sequence[float]]) -> str:
    """Seconds of whole denoisings, and how many times as fast as dense FlashAttention-3.

    Args:
        densities: by preset, the density behind each of its searches.
    """
    lines = markdown.head([f"{STEPS} steps, all guidance branches, seconds", *(models := by_model(rows))])
    totals = {label: [_dense_total(own, label) for own in models.values()] for label in DENSE}
    configs: dict[str, tuple[AdaSpaConfig, float | Sequence[float]]] = {
        "preset exact": (AdaSpaConfig.preset("exact"), 1.0),
        "the paper's schedule and sparsity, blocks of 128 x 64": (AdaSpaConfig.paper(), 0.2),
    }
    for intent in get_args(Preset):
        if densities.get(intent):
            configs[f"preset {intent}"] = (AdaSpaConfig.preset(intent), densities[intent])
    for label, (config, density) in configs.items():
        totals[label] = [_total(own, config, density) for own in models.values()]
    for label, seconds in totals.items():
        if not any(seconds):
            continue
        lines.append(markdown.line([label, *_with_speed(seconds, totals[REFERENCE])]))
    return "\n".join(lines)


def few_steps_table(rows: Rows) -> str:
    """Seconds of denoisings of few steps at density 0.2, and how many times as fast as dense FlashAttention-3."""
    lines = markdown.head([f"density {SET}, all guidance branches, seconds", *(models := by_model(rows))])
    usual, at_once = (SHORT_WARMUP.replace(few_steps=few_steps) for few_steps in (0, max(FEW)))
    for steps in FEW:
        dense = [_dense_total(own, REFERENCE, steps) for own in models.values()]
        lines.append(markdown.line([f"{steps} steps, {REFERENCE}", *_with_speed(dense, dense)]))
        for label, config in (("a dense step first", usual), (f"`few_steps={max(FEW)}`", at_once)):
            totals = [_total(own, config, SET, steps) for own in models.values()]
            lines.append(markdown.line([f"{steps} steps, {label}", *_with_speed(totals, dense)]))
    return "\n".join(lines)


def blocks_table(rows: Rows) -> str:
    """Models measured by a few of their blocks, a line each: seconds of one forward by kind of step, and totals of 50,
    8 and 4 steps of all guidance branches at density 0.2, with how many times as fast that is as FlashAttention-3.

    What is no video is kept besides, so that a pattern has a density of its own.
    """
    few = SHORT_WARMUP.replace(few_steps=max(FEW))
    schedules = {STEPS: SHORT_WARMUP, **dict.fromkeys(reversed(FEW), few)}
    columns = {
        KINDS["unpatched"]: "diffusers, dense",
        REFERENCE: "FlashAttention-3",
        f"dense, {ATTENTIONS['adaspa']}": "AdaSpa, dense",
        KINDS["fused_search"]: "first search",
        KINDS["cached_search"]: "later search",
        (sparse := f"sparse, scattered, density {SET}"): f"sparse, {SET}",
    }
    totals = [f"{steps} steps, {label}" for steps in schedules for label in ("FlashAttention-3", "AdaSpa")]
    lines = markdown.head(["", "video tokens", *columns.values(), *totals])
    for model, own in by_model(rows).items():
        measured = {label: row for row in own if (label := _label(row)) is not None}
        cells = [f"{own[0]['video_tokens']:,}" if "video_tokens" in own[0] else ""]
        cells += [_cell(measured[label]) if label in measured else "" for label in columns]
        for steps, config in schedules.items():
            dense = [_dense_total(own, REFERENCE, steps)]
            ours = _total(own, config, measured.get(sparse, {}).get("density", SET), steps)
            cells += [*_with_speed(dense, [None]), *_with_speed([ours], dense)]
        lines.append(markdown.line([model, *cells]))
    return "\n".join(lines)


def denoise_line(result: dict[str, Any]) -> str:
    """One sentence on a whole denoising that was run."""
    counts = result["report"]
    peak = f", peak {result['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in result else ""
    density = "" if result["density"] is None else f" at density {result['density']}"
    density += f" ({result['warmup_density']} in its warm-up)" if result.get("warmup_density") else ""
    how = "A whole run" if result["complete"] else f"A run up to step {len(result['rows'])} of {result['steps']}"
    eight = [kind for kind in ("dense", "sparse") if result.get(f"{kind}_precision", "full") != "full"]
    small = [
        "linear layers were in e4m3" if result.get("linears") == "float8" else "",
        f"{' and '.join(eight)} attention was in eight bits" if eight else "",
    ]
    told = " and its ".join(filter(None, small))
    skipped = sum("reused" in row for row in result["rows"])
    cached = f" MagCache {result['step_cache']} skipped {skipped} of the steps." if result.get("step_cache") else ""
    return (
        f"{how}: {result['model']}, {result['config']}{density}, {'compiled blocks, ' if result['compile'] else ''}"
        f"dense steps with {ATTENTIONS[result['attention']]}: {result['seconds']:.0f} s on one {result['device']}\n"
        f"({counts['dense_steps']} dense, {counts['search_steps']} search, {counts['sparse_steps']} sparse steps; "
        f"caches {counts['cache_bytes'] / 1e9:.2f} GB{peak})."
        f"{f' Its {told}.' if told else ''}{cached}{_beside_dense(result)}"
    )


def _beside_dense(result: dict[str, Any]) -> str:
    """50 dense steps, and the paper's schedule by that run's own steps, where it has those kinds of step.

    The dense steps are those of FlashAttention-3 that ran behind, or the run's own in full precision.
    """
    density, steps, behind = result["density"], result["steps"], result.get("dense_rows", [])
    dense, search, sparse = (
        [row["seconds"] for row in result["rows"] if row["kind"] == kind and "reused" not in row]
        for kind in ("dense", "search", "sparse")
    )
    in_eight = result.get("dense_precision", "full") != "full"
    if density is None or not dense or not sparse or (in_eight and not behind):
        return ""
    own, usual = median(dense), median([row["seconds"] for row in behind] or dense)
    beside = (
        f" Dense steps by FlashAttention-3, compiled and in bf16, took {usual:.1f} s in the same run, and "
        f"{max(row['peak_bytes'] for row in behind) / 2**30:.1f} GiB."
        if behind
        else ""
    )
    line = (
        f"\nIts dense steps took {own:.1f} s each, its sparse steps {median(sparse):.1f} s.{beside} At this rate, "
        f"{steps} dense steps take {steps * usual:.0f} s, {steps * usual / result['seconds']:.2f} times as long."
    )
    if len(search) < 2:
        return line
    seconds = StepSeconds(own, search[0], median(search[1:]), density, {density: median(sparse)})
    paper = total_seconds(AdaSpaConfig.paper(), seconds, density, steps)
    return f"{line}\nThe paper's schedule takes {paper:.0f} s ({steps * usual / paper:.2f}x)."


def _with_speed(seconds: Sequence[float | None], reference: Sequence[float | None]) -> list[str]:
    """Cells of seconds, with the speed over the reference behind them."""
    pairs = zip(seconds, reference, strict=True)
    return [
        f"{own:.{0 if own >= 20 else 1}f}" + (f" ({base / own:.2f}x)" if base else "") if own else ""
        for own, base in pairs
    ]


def _dense_total(rows: Rows, label: str, steps: int = STEPS) -> float | None:
    seconds = [row["seconds"] for row in rows if _label(row) == label and "seconds" in row]
    return float(steps * rows[0]["calls"] * seconds[0]) if seconds else None


def _total(rows: Rows, config: AdaSpaConfig, density: float | Sequence[float], steps: int = STEPS) -> float | None:
    """None where the run was cut before every kind of step that the schedule needs was measured."""
    try:
        return float(rows[0]["calls"] * total_seconds(config, StepSeconds.of(rows), density, steps))
    except (KeyError, ValueError):
        return None


def _label(row: dict[str, Any]) -> str | None:
    if row["step"] == "dense":
        return f"dense, {ATTENTIONS[row['attention']]}"
    if row["step"] == "sparse" and row["pattern"] == "searched":
        return "sparse, as searched"
    if row["step"] == "sparse":
        # What was asked, in round numbers: the text adds a little to it.
        return f"sparse, {row['pattern']}, density {row.get('asked', round(row['density'], 2))}"
    return KINDS.get(row["step"])


def _cell(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return row["error"].split(":")[0]
    return f"{row['seconds']:.2f}"
