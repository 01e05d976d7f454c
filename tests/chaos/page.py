"""Brings the tables of ``docs/chaos.md`` up to the figures of the latest runs.

PYTHONPATH=tests python -m chaos.page
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, RUN, PLANTED, SOAK, GPU_SOAK = (
    ROOT / "docs" / name for name in ("chaos.md", "chaos.json", "planted.json", "soak.json", "gpu_soak.json")
)
BEGIN, END = "<!-- {}: made by python -m chaos.page -->", "<!-- end of {} -->"


def scenes(run: dict[str, Any]) -> Iterator[str]:
    """By promise, what was done to it and what came of it."""
    yield "| promise | attacked by | times | outcome |"
    yield "|---|---|---|---|"
    grouped = defaultdict(list)
    for name, played in run["scenes"].items():
        grouped[played["promise"], name.partition(": ")[0], played["outcome"]].append(name.partition(": ")[2])
    for (promise, fault, outcome), points in grouped.items():
        where = f" ({', '.join(points)})" if any(points) else ""
        yield f"| {promise} | {fault}{where} | {len(points)} | {outcome} |"


def faults(run: dict[str, Any]) -> Iterator[str]:
    """What was done at random times, and how long it took to recover."""
    yield "| fault | times | recovered p50 | p99 |"
    yield "|---|---|---|---|"
    for name, found in run["faults"].items():
        recovered = (f"{seconds} s" if seconds else "" for seconds in found["recovery_seconds"].values())
        yield f"| {name} | {found['count']} | {' | '.join(recovered)} |"


def planted(results: dict[str, Any]) -> Iterator[str]:
    """Which planted bugs were caught."""
    ways = [way for way in ("audit", "simulation", "suite") if any(way in each for each in results.values())]
    yield f"| planted bug | {' | '.join(ways)} |"
    yield f"|---|{'---|' * len(ways)}"
    for found in results.values():
        caught = ("" if way not in found else "caught" if found[way]["caught"] else "**missed**" for way in ways)
        yield f"| {found['what']} | {' | '.join(caught)} |"
    sums = (sum(found.get(way, {}).get("caught", False) for found in results.values()) for way in ways)
    of = (sum(way in found for found in results.values()) for way in ways)
    yield f"| all | {' | '.join(f'{caught} of {all_}' for caught, all_ in zip(sums, of, strict=True))} |"


def unseen(results: dict[str, Any]) -> Iterator[str]:
    """What was caught at the first try of bugs by somebody who had not seen the checks."""
    yield "| round | bugs | audit | suite |"
    yield "|---|---|---|---|"
    tries = [found["first_try"] for found in results.values() if "first_try" in found]
    for number in sorted({each["round"] for each in tries}):
        own = [each for each in tries if each["round"] == number]
        caught = (
            sum(each[way] for each in own) if all(way in each for each in own) else "" for way in ("audit", "suite")
        )
        yield f"| {number} | {len(own)} | {' | '.join(map(str, caught))} |"


def soak(run: dict[str, Any]) -> Iterator[str]:
    """What grew while the service worked, and what did not."""
    yield "| figure, in the second half | mean | growth an hour, 95 % interval | |"
    yield "|---|---|---|---|"
    for name, found in run["trends"].items():
        scale = 1e6 if "memory" in name or name in ("Redis bytes", "bytes in storage") else 1
        mean = f"{found['mean'] / scale:,.1f}{' MB' if scale > 1 else ''}" if "mean" in found else ""
        between = "{:+.1f} to {:+.1f} %".format(*found["interval"]) if "interval" in found else ""
        yield f"| {name} | {mean} | {between} | {found['verdict']} |"


def gpu_soak(run: dict[str, Any]) -> Iterator[str]:
    """What a GPU's worker needed in each half of the run."""
    yield "| figure | first half | second half | growth | |"
    yield "|---|---|---|---|---|"
    for name, found in run["trends"].items():
        shown = [
            f"{found[half]}" if name.startswith("files") else f"{found[half] / 1e6:,.1f} MB"
            for half in ("first", "second")
        ]
        growth = f"{found['percent']:+.1f} %" if "percent" in found else ""
        yield f"| {name} | {' | '.join(shown)} | {growth} | {found['verdict']} |"


def made(page: str) -> str:
    """The page with its tables as the runs' figures have them."""
    run = json.loads(RUN.read_text())
    tables = {"scenes": scenes(run), "faults": faults(run)}
    if PLANTED.exists():
        results = json.loads(PLANTED.read_text())
        tables |= {"unseen": unseen(results), "planted": planted(results)}
    if SOAK.exists():
        tables["soak"] = soak(json.loads(SOAK.read_text()))
    if GPU_SOAK.exists():
        tables["gpu_soak"] = gpu_soak(json.loads(GPU_SOAK.read_text()))
    for name, rows in tables.items():
        before, begin, rest = page.partition(BEGIN.format(name))
        assert begin, f"docs/chaos.md has no place for {name}"
        page = (
            "\n".join([f"{before}{begin}", "", *rows, "", f"{END.format(name)}"]) + rest.partition(END.format(name))[2]
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text()))
