"""The command: ``PYTHONPATH=tests python -m chaos --jobs 1000``."""

import argparse
import json
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_service.local.process import tied

from chaos.faults import FAULTS
from chaos.playing import KINDS
from chaos.report import show, together
from chaos.run import run

SCENES_SECONDS = 7200.0
"""Seconds that a share's scenes may take beside its jobs, on a machine however busy."""


def main() -> None:
    """Run, print the figures, and end with status 1 if anything was not as it has to be."""
    parser = argparse.ArgumentParser(prog="chaos", description="Jobs under faults, then an audit.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--pause", type=float, default=3.0, help="longest time between two faults, in seconds")
    parser.add_argument("--faults", type=int, default=len(FAULTS), help="so many at random times, or more; or it fails")
    parser.add_argument("--fsync", choices=["always", "everysec", "no"], default="everysec")
    parser.add_argument("--patience", type=float, default=3600, help="seconds in which every job has to have ended")
    parser.add_argument("--rest", type=float, default=60, help="seconds in which all has to come to rest at the end")
    parser.add_argument("--scenes", default="", help="play only those with this in their name; 'none': none")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="play only those about this")
    parser.add_argument("--at-once", type=int, default=1, help="so many services share jobs, faults and scenes")
    parser.add_argument("--share", type=share, default=(0, 1), help="only this part of them, such as 3/10")
    parser.add_argument("--out", type=Path, help="where the report is written, as JSON")
    parser.add_argument("--logs", type=Path, help="a new folder for the logs of all parts")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    print(f"seed {asked.seed}", flush=True)
    limit = asked.patience + asked.rest + SCENES_SECONDS
    report = shared_out(asked.at_once, asked.seed, asked.logs, limit) if asked.at_once > 1 else one(asked)
    show(report)
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
    raise SystemExit(bool(report["violations"]))


def one(asked: argparse.Namespace) -> dict[str, Any]:
    """Run one service, on its share; the report."""
    scenes = [scene for kind in asked.kinds for scene in KINDS[kind] if asked.scenes in scene.name]
    number, of = asked.share
    return run(
        len(range(number, asked.jobs, of)),
        asked.seed,
        pause=asked.pause,
        faults=len(range(number, asked.faults, of)),
        fsync=asked.fsync,
        patience=asked.patience,
        rest=asked.rest,
        scenes=[] if asked.scenes == "none" else scenes[number::of],
        logs=asked.logs,
    )


def share(text: str) -> tuple[int, int]:
    """Read a part, ``3/10``: which one, counted from 0, and of how many."""
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text} is no part; allowed: from 1/{of} to {of}/{of}")
    return number - 1, of


def shared_out(at_once: int, seed: int, logs: Path | None, limit: float) -> dict[str, Any]:
    """Run several services side by side, each with this command and a seed of its own; one report of all.

    A share that has not ended after ``limit`` seconds is killed and gives no report.
    """
    ends_by = time.monotonic() + limit
    with TemporaryDirectory(prefix="chaos-shares-") as name, ExitStack() as running:
        folder, processes = Path(name), []
        for number in range(at_once):
            own = ["--at-once", "1", "--share", f"{number + 1}/{at_once}", "--seed", str(seed + number)]
            own += ["--out", str(folder / f"{number}.json"), *(["--logs", str(logs / f"{number}")] if logs else [])]
            command = [sys.executable, "-m", "chaos", *sys.argv[1:], *own]
            start = partial(subprocess.Popen, command, stdout=subprocess.DEVNULL)
            processes.append(start(preexec_fn=tied(signal.SIGTERM)))
            running.callback(processes[-1].terminate)
        for number, process in enumerate(processes):
            try:
                process.wait(max(0.0, ends_by - time.monotonic()))
            except subprocess.TimeoutExpired:  # its report is missing, which the whole one tells
                print(f"share {number + 1} of {at_once} hangs: not at its end after {limit:.0f} s", flush=True)
                process.kill()
                process.wait()
            print(f"share {number + 1} of {at_once} has ended with status {process.returncode}", flush=True)
        reports = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
        if not reports:
            raise SystemExit(f"none of the {at_once} shares gave a report")
        report = together([json.loads(path.read_text()) for path in reports])
    report["violations"] += [f"{at_once - len(reports)} shares gave no report"] if len(reports) < at_once else []
    return report


if __name__ == "__main__":
    main()
