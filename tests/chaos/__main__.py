"""The command: ``PYTHONPATH=tests python -m chaos --jobs 1000``."""

import argparse
import json
import secrets
import signal
import sys
from pathlib import Path

from chaos.faults import FAULTS
from chaos.playing import KINDS
from chaos.report import show
from chaos.run import run


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
    parser.add_argument("--out", type=Path, help="where the report is written, as JSON")
    parser.add_argument("--logs", type=Path, help="a new folder for the logs of all parts")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    print(f"seed {asked.seed}", flush=True)
    scenes = [scene for kind in asked.kinds for scene in KINDS[kind] if asked.scenes in scene.name]
    report = run(
        asked.jobs,
        asked.seed,
        pause=asked.pause,
        faults=asked.faults,
        fsync=asked.fsync,
        patience=asked.patience,
        rest=asked.rest,
        scenes=[] if asked.scenes == "none" else scenes,
        logs=asked.logs,
    )
    show(report)
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
    raise SystemExit(bool(report["violations"]))


if __name__ == "__main__":
    main()
