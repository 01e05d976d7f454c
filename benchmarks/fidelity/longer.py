"""Tables of long-*.json: the presets' candidates on the long demo model, measured by `demo_model.fidelity --length`."""

from statistics import fmean, stdev

from benchmarks import markdown
from benchmarks.fidelity.field import Row, interval
from benchmarks.fidelity.tables import attention_work, choose_presets, cost
from benchmarks.fidelity.unseen import gains

LINE = "blocks of 64 x 64, three dense steps"
"""What others are compared with."""


def of_the_line(row: Row) -> bool:
    """Whether a row has the settings of `balanced`, at any price and with any searches."""
    config = row.get("config", {})
    wanted = {"selection": "marginal_mass", "query_block_size": 64, "share_lists": True, "token_order": "raster"}
    wanted |= {"warmup": 3, "warmup_mass": None}
    put_back = config.get("compensation", "none") != "none"
    return not put_back and all(config.get(name) == value for name, value in wanted.items())


def table(rows: list[Row]) -> str:
    """Each row beside the line at the same cost, clip by clip, the cheapest first."""
    line = [row for row in rows if of_the_line(row)]
    chosen = {row["name"]: preset for preset, row in reversed(choose_presets(rows).items())}
    columns = ["", "density", "attention work", "cost", "PSNR, dB (95 % interval)", "right answers"]
    columns += [f"closer than {LINE}, at that cost", "the rule's choice"]
    return markdown.table(
        columns,
        (
            (
                row["name"],
                f"{row['density']:.3f} ± {stdev(row['clip_densities']):.3f}",
                f"{attention_work(row):.2f}",
                f"{cost(row):.2f}",
                "{:.1f} ({:.1f} to {:.1f})".format(row["psnr"], *interval(row["clips"])),
                f"{100 * row['right']['all_attributes']:.1f} %",
                _beside(row, line),
                f"`{chosen[row['name']]}`" if row["name"] in chosen else "",
            )
            for row in sorted((row for row in rows if "clips" in row and row["groups"] != ["parts"]), key=cost)
        ),
    )


def _beside(row: Row, line: list[Row]) -> str:
    if of_the_line(row):
        return ""
    found = gains(row, line, cost)
    if found is None:
        return "beyond its points"
    low, high = interval(found)
    return f"{fmean(found):+.1f} dB ({low:+.1f} to {high:+.1f})"
