"""Heartbeat file: its age says whether the worker is alive.

Celery's event loop in the parent touches it while the worker is connected, the lease's thread in the child while a
job runs: a worker that is cut off from Redis in the middle of a job goes on with it and is not to be killed.

    python -m adaspa_worker.heartbeat --max-age 60     # a probe: exit status 0 if it is younger, in seconds
"""

import argparse
import os
import time
from pathlib import Path

VARIABLE = "ADASPA_HEARTBEAT_FILE"
EVERY_SECONDS = 5.0


def beat() -> None:
    """Touch the file, if one is named."""
    if path := os.environ.get(VARIABLE):
        Path(path).touch()


def main() -> None:
    """Fail with one line if the file is missing or too old."""
    parser = argparse.ArgumentParser(prog="adaspa_worker.heartbeat", description="Check whether the worker is alive.")
    parser.add_argument("--max-age", type=float, required=True, help="seconds")
    limit = parser.parse_args().max_age
    path = os.environ.get(VARIABLE)
    if not path:
        raise SystemExit(f"{VARIABLE} is not set")
    try:
        age = time.time() - Path(path).stat().st_mtime
    except FileNotFoundError:
        raise SystemExit(f"{path}: no heartbeat yet") from None
    if age > limit:
        raise SystemExit(f"{path}: the last heartbeat was {age:.0f} s ago")
    if age < -limit:  # a clock was set back: a worker that lives has the right time within seconds
        raise SystemExit(f"{path}: the last heartbeat is {-age:.0f} s ahead of the clock")


if __name__ == "__main__":
    main()
