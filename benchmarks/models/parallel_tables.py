"""The tables of what `benchmarks.models.parallel` measured: one video on several GPUs beside one of them."""

from typing import Any

from benchmarks import markdown

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


def table(result: Json) -> str:
    """Seconds on one GPU and on all, and what the ranks exchange, model by model."""
    gpus = f"{result['gpus']} GPUs"
    lines = markdown.head(
        ["model", f"{gpus} by", "step", "one GPU, s", f"{gpus}, s", "speed", "exchange", "peak memory"]
    )
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        for mode in dict.fromkeys(row["mode"] for row in rows if row.get("mode") in MODES):
            lines += [line for step in STEPS if (line := _line(model, mode, step, rows)) is not None]
    return "\n".join(lines)


def balance_table(rows: Rows) -> str:
    """A sparse step of heads that differ, with as many for each rank and dealt by their cost."""
    lines = markdown.head(["model", "busiest rank over the mean", "dealt by cost", "s", "dealt by cost, s"])
    skewed = [row for row in rows if row["step"] == "sparse, skewed"]
    for model in dict.fromkeys(row["model"] for row in skewed):
        by = {row["heads"]: row for row in skewed if row["model"] == model}
        if len(by) == 2:
            figures = [f"{by['dealt']['even_imbalance']:.3f}", f"{by['dealt']['imbalance']:.3f}"]
            seconds = [f"{by[heads]['seconds']:.2f}" for heads in ("even", "dealt")]
            lines.append(markdown.line([model, *figures, *seconds]))
    return "\n".join(lines)


def _line(model: str, mode: str, step: str, rows: Rows) -> str | None:
    one, together = (
        next((row for row in rows if row.get("mode") == own and row["step"] == step and "seconds" in row), None)
        for own in ("one", mode)
    )
    if one is None or together is None:
        return None
    share = _exchange_seconds(rows) / together["seconds"] if mode == "ulysses" else None
    memory = [row["peak_bytes"] / 2**30 for row in (one, together)]
    cells = [
        model,
        MODES[mode],
        STEPS[step],
        f"{one['seconds']:.2f}",
        f"{together['seconds']:.2f}",
        f"{one['seconds'] / together['seconds']:.2f}x",
        "" if share is None else f"{100 * share:.0f} %",
        f"{memory[1]:.1f} of {memory[0]:.1f} GiB" if memory[0] else "",
    ]
    return markdown.line(cells)


def _exchange_seconds(rows: Rows) -> float:
    """Of all layers in a denoising step, with nothing else going on."""
    size, exchange = (next((row for row in rows if row["step"] == step), {}) for step in ("blocks", "exchange"))
    layer = exchange.get("mixed_to_heads_ms", 0) + exchange.get("mixed_to_tokens_ms", 0)
    return float(layer * size["of"] * size["calls"] / 1000)
