"""The tables of what `benchmarks.models.parallel` measured: one video on several GPUs beside one of them."""

from typing import Any

from benchmarks import markdown
from benchmarks.models.parallel_plan import exchange_seconds

Json = dict[str, Any]
Rows = list[Json]
STEPS = {
    "dense": "dense",
    "first search": "first search",
    "later search": "later search, then sparse",
    "sparse, just dealt": "sparse, heads just dealt",
    "sparse": "sparse",
}
MODES = {"ulysses": "Ulysses", "guidance": "guidance branches"}


def table(rows: Rows) -> str:
    """Seconds on one GPU and on several, and what the ranks exchange, model by model."""
    columns = ["model", "GPUs", "by", "step", "one GPU, s", "all, s", "speed", "exchange", "peak memory"]
    lines = markdown.head(columns)
    for own in _models(rows):
        cases = dict.fromkeys((row["gpus"], row["mode"]) for row in own if row.get("mode") in MODES)
        lines += [line for case in cases for step in STEPS if (line := _line(own, *case, step)) is not None]
    return "\n".join(lines)


def balance_table(rows: Rows) -> str:
    """A sparse step of heads that differ, with as many for each rank and dealt by their cost."""
    lines = markdown.head(["model", "GPUs", "busiest rank over the mean", "dealt by cost", "s", "dealt by cost, s"])
    for own in _models(rows):
        skewed = [row for row in own if row["step"] == "sparse, skewed"]
        for gpus in dict.fromkeys(row["gpus"] for row in skewed):
            by = {row["heads"]: row for row in skewed if row["gpus"] == gpus}
            if len(by) == 2:
                figures = [f"{by['dealt']['even_imbalance']:.3f}", f"{by['dealt']['imbalance']:.3f}"]
                seconds = [f"{by[heads]['seconds']:.2f}" for heads in ("even", "dealt")]
                lines.append(markdown.line([own[0]["model"], gpus, *figures, *seconds]))
    return "\n".join(lines)


def plan_table(rows: Rows) -> str:
    """What one and two GPUs let expect of more; where more were measured, these, and how far off the plan was.

    Args:
        rows: of `parallel_plan.rows`.
    """
    columns = ["model", "GPUs", "by", "step", "planned, s", "speed", "exchange", "peak memory"]
    lines = markdown.head([*columns, "measured, s", "planned over measured"])
    for row in rows:
        cells = [
            row["model"],
            row["gpus"],
            MODES[row["mode"]] + (" and Ulysses" if row["mode"] == "guidance" else ""),
            STEPS[row["step"]],
            f"{row['planned_seconds']:.2f}",
            f"{row['planned_speed']:.2f}x",
            f"{100 * row['planned_exchange_share']:.0f} %",
            f"{row['planned_peak_bytes'] / 2**30:.1f} GiB",
            f"{row['seconds']:.2f}" if "seconds" in row else "",
            f"{100 * row['seconds_error']:+.0f} %" if "seconds" in row else "",
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def _models(rows: Rows) -> list[Rows]:
    return [[row for row in rows if row["model"] == model] for model in dict.fromkeys(row["model"] for row in rows)]


def _line(rows: Rows, gpus: int, mode: str, step: str) -> str | None:
    one, together = (
        next((row for row in rows if (row.get("gpus"), row.get("mode"), row["step"]) == (*case, step)), None)
        for case in ((1, "one"), (gpus, mode))
    )
    if one is None or together is None:
        return None
    share = exchange_seconds(rows, mode, gpus) / together["seconds"]
    memory = [row["peak_bytes"] / 2**30 for row in (one, together)]
    cells = [
        rows[0]["model"],
        gpus,
        MODES[mode] + (" and Ulysses" if mode == "guidance" and gpus > 2 else ""),
        STEPS[step],
        f"{one['seconds']:.2f}",
        f"{together['seconds']:.2f}",
        f"{one['seconds'] / together['seconds']:.2f}x",
        f"{100 * share:.0f} %" if share else "",
        f"{memory[1]:.1f} of {memory[0]:.1f} GiB" if memory[0] else "",
    ]
    return markdown.line(cells)
