"""`python loading.py CATALOG`: bytes that this process takes beside mapped files while it loads a model, and keeps.

The catalog's first model is loaded before, with all that has to be imported; the second one is looked at.
"""

import json
import sys
import threading
from pathlib import Path

from adaspa_jobs.catalog import Catalog
from adaspa_worker.pipeline import load


def held() -> int:
    """Bytes of memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    first, second = Catalog.load(Path(sys.argv[1])).models.values()
    load(first, Path(first.source))
    before, seen, loaded = held(), [0], threading.Event()

    def look() -> None:
        while not loaded.wait(0.002):
            seen.append(held())

    looker = threading.Thread(target=look)
    looker.start()
    try:
        engine = load(second, Path(second.source))
    finally:
        loaded.set()
        looker.join()
    kept = held()
    print(json.dumps({"most": max(*seen, kept) - before, "kept": kept - before, "device": str(engine.device)}))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
