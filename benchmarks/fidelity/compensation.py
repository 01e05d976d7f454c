"""Table of compensation.json: sparse attention with what its search saw it lose, beside the same without.

`demo_model.fidelity --groups compensation` measured it. Of a clip, a difference is between two videos of the same
caption and noise, each against the same dense video.
"""

from benchmarks import markdown
from benchmarks.fidelity.field import Row, interval, mean, worst_tenth
from benchmarks.fidelity.tables import attention_work, choose_presets, on_all, sets_table
from benchmarks.fidelity.unseen import at

COMPENSATED = ", residual"
"""What the method of a compensated row ends with; the rest is the line that it is compared with."""


def table(rows: list[Row]) -> str:
    """Each compensated row beside the line without, at the same attention work and as it is with the same setting."""
    beside = "without: work, PSNR", "closer at equal work, by", "worst tenth without", "clips that are closer"
    lines = markdown.head(
        ["", "density", "attention work", "PSNR, dB (95 % interval)", "worst tenth", "right answers", *beside]
    )
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        method = row["method"].removesuffix(COMPENSATED)
        if method == row["method"]:
            continue
        plain = by_name[row["name"].removesuffix(COMPENSATED)]
        line = [other for other in rows if other["method"] == method]
        cells = [
            plain["name"],
            f"{row['density']:.2f}",
            f"{attention_work(row):.2f}",
            "{:.1f} ({:.1f} to {:.1f})".format(mean(row["clips"]), *interval(row["clips"])),
            f"{worst_tenth(row['clips']):.1f}",
            f"{100 * row['right']['all_attributes']:.1f} %",
            f"{attention_work(plain):.2f}, {mean(plain['clips']):.1f} dB",
            *_at_equal_work(row, line),
        ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def _at_equal_work(row: Row, line: list[Row]) -> tuple[str, str, str]:
    other = at(line, attention_work(row))
    if other is None:
        return "beyond its points", "", ""
    gains = [a - b for a, b in zip(row["clips"], other, strict=True)]
    low, high = interval(gains)
    won = sum(gain > 0 for gain in gains) / len(gains)
    return f"{mean(gains):+.1f} dB ({low:+.1f} to {high:+.1f})", f"{worst_tenth(other):.1f}", f"{100 * won:.0f} %"


def presets_table(sets: list[list[Row]], put_back: list[list[Row]]) -> str:
    """The presets and the paper's settings beside compensated ones, on all sets, by their cost.

    Args:
        sets: rows without compensation, those of each set of captions.
        put_back: compensated ones of the same sets.
    """
    rows = on_all([[*plain, *more] for plain, more in zip(sets, put_back, strict=True)])
    shown = [row for row in rows if row["name"] == "paper" or {"presets", "compensation"} & set(row["groups"])]
    return sets_table(shown)


def choice_with(sets: list[list[Row]], put_back: list[list[Row]]) -> dict[str, Row]:
    """What the presets' rule would choose if compensated settings could be chosen, too."""
    candidates = [[{**row, "groups": ["grid"]} for row in more] for more in put_back]
    return choose_presets(on_all([[*plain, *more] for plain, more in zip(sets, candidates, strict=True)]))


def errors_table(rows: list[Row]) -> str:
    """What the error of attention is like in two sparse steps, and how close the videos come, of field-errors.json."""
    columns = ("work", "error of the output", "shared by 64 tokens", "differs between them", "longer by", "PSNR, dB")
    lines = markdown.head(["", *columns])
    for row in rows:
        found = {name: mean(values) for name, values in row["by_clip"].items()}
        sizes = [f"{found[name]:.3f}" for name in ("error", "shared_error", "private_error")]
        seen = [*sizes, f"{100 * found['stretch']:+.1f} %"] if row["group"] != "schedule" else [""] * 4
        name = row["name"].replace("error of nothing", "only the plain lists' error")
        lines.append(markdown.line([name, f"{mean(row['work']):.2f}", *seen, f"{mean(row['psnr']):.1f}"]))
    return "\n".join(lines)


def lasting_table(rows: list[Row]) -> str:
    """What is left of the error at the search some steps later, of lasting.json."""
    parts = {"shared by 64": "shared by 64 tokens", "private": "differs between them"}
    told = [(row["setting"], part) for row in rows for part in parts]
    lines = markdown.head(["steps later", *(f"{setting}: {parts[part]}" for setting, part in told)])
    last = len(rows[0]["private"]["lasts"]) - 1
    for later in (1, *range(5, last, 5), last):
        left = [row[part]["lasts"][later] for row in rows for part in parts]
        lines.append(markdown.line([later, *(f"{100 * share:.0f} %" for share in left)]))
    return "\n".join(lines)
