"""Report of a denoising that more than one transformer had a part in."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

BY_KIND = tuple(f"{kind}_{what}" for kind in ("dense", "search", "sparse") for what in ("steps", "seconds"))
SUMMED = ("searches", "shared_list_calls", "compensated_calls", "forwards", "reused_forwards", *BY_KIND)
MEANS = ("density", "recall", "unevenness")
CALLS = ("dense", "search", "sparse", "skipped")


def merged(reports: Sequence[dict[str, Any]], layers: Sequence[int]) -> dict[str, Any]:
    """One report of them all: steps, calls and seconds added up, means weighted by the steps with a pattern.

    The attention work is weighted by the calls: the transformers of a pipeline have the same sequence.

    Args:
        reports: of ``transformer.adaspa.report()``, in the order in which the transformers run.
        layers: how many layers each transformer has; those of a later one are numbered on.
    """
    if len(reports) == 1:
        return reports[0]
    uses = [report["search_steps"] + report["sparse_steps"] for report in reports]
    whole = {name: sum(report[name] for report in reports) for name in SUMMED}
    for name in MEANS:
        weighted = [(r[name], n) for r, n in zip(reports, uses, strict=True) if n and r[name] is not None]
        total = sum(n for _, n in weighted)
        whole[name] = sum(value * n for value, n in weighted) / total if total else None
    whole["density"] = 1.0 if whole["density"] is None else whole["density"]
    calls = [sum(report["attention_calls"].values()) for report in reports]
    work = [(r["attention_work"], n) for r, n in zip(reports, calls, strict=True) if r["attention_work"] is not None]
    whole["attention_work"] = sum(value * n for value, n in work) / sum(n for _, n in work) if work else None
    whole["attention_calls"] = {kind: sum(report["attention_calls"][kind] for report in reports) for kind in CALLS}
    whole["kernels"] = {
        op: dict(sum((Counter(report["kernels"].get(op, {})) for report in reports), Counter()))
        for op in sorted({op for report in reports for op in report["kernels"]})
    }
    whole["kinds"] = {
        kind: _kind([report["kinds"][kind] for report in reports], [n / sum(calls) if sum(calls) else 0 for n in calls])
        for kind in CALLS[:-1]
    }
    whole["recall_is_estimate"] = any(report["recall_is_estimate"] for report in reports)
    whole["fell_back"] = [
        f"transformer {place}: {reason}" for place, report in enumerate(reports, 1) for reason in report["fell_back"]
    ]
    whole["cache_bytes"] = max(report["cache_bytes"] for report in reports)
    starts = [sum(layers[:i]) for i in range(len(reports))]
    whole["layers"] = [
        {**layer, "layer": start + layer["layer"]}
        for start, report in zip(starts, reports, strict=True)
        for layer in report["layers"]
    ]
    return whole


def _kind(parts: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    """One entry of ``kinds``: counts added up, work weighted by ``shares``, density by the calls with a pattern."""
    kernels: Counter[tuple[tuple[str, str], ...]] = Counter()
    for row in (row for part in parts for row in part["kernels"]):
        kernels[tuple((name, value) for name, value in row.items() if name != "calls")] += row["calls"]
    patterns = sum(part["patterns"] for part in parts)
    read = [(part["patterns"] * part["reuse"], part["density"]) for part in parts if part["patterns"]]
    uses = sum(calls for calls, _ in read)
    return {
        "calls": sum(part["calls"] for part in parts),
        "work": sum(part["work"] * share for part, share in zip(parts, shares, strict=True)),
        "kernels": [{**dict(row), "calls": count} for row, count in sorted(kernels.items())],
        "patterns": patterns,
        "density": sum(calls * density for calls, density in read) / uses if uses else None,
        "reuse": uses / patterns if patterns else None,
    }
