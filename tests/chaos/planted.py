"""Planted bugs: how many of them the chaos audit, the simulation, and the tests that run their lines catch.

    PYTHONPATH=tests python -m chaos.planted audit --out docs/planted.json
    PYTHONPATH=tests python -m chaos.planted simulation --out docs/planted.json
    PYTHONPATH=tests python -m chaos.planted suite --out docs/planted.json

Each ``mutants/*.patch`` breaks one line of the service. Its head says what is broken, and names the test files that run
that line; of a patch without that, those are tried that most likely do. The audit begins with the scenes that most
likely notice the bug, and goes on with all others. A patch that does not apply fails the command, and so does a service
without any that is not found whole, or a test that fails without the bug, too. ``--folder`` takes patches from
elsewhere.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from shutil import copy2
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from chaos import likely
from chaos.likely import ROOT

FOLDER = Path(__file__).with_name("mutants")
PACKAGES = ("tests", "service", "service/client", "worker", "kernels", "demo_model/weights")
SIMULATED_MINUTES = 1.0
GIB_AT_ONCE = 1.5
"""Memory of a service that is examined, at most."""
LIMIT_SECONDS = 1800.0
"""A run that has not ended by then is broken off; what it would have found is not known, and counts for nothing."""


@dataclass
class Mutant:
    """One planted bug."""

    path: Path
    what: str
    patch: str
    tests: list[str]

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        """Read a patch, with or without a head."""
        head, _, rest = path.read_text().partition("--- a/")
        said = [each.strip() for each in head.split("\n\n") if each.strip() and not each.startswith("diff ")]
        named = [each.removeprefix("Tests:").split() for each in said if each.startswith("Tests:")]
        what = next((each for each in said if not each.startswith("Tests:")), path.stem)
        patch = f"--- a/{rest}"
        return cls(path.resolve(), what, patch, (named[0] if named else []) or likely.test_files(patch))

    @property
    def name(self) -> str:
        return self.path.stem


class Tree:
    """A copy of the checkout, as it is now, into which bugs are planted one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                copy2(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # for tests that list the checkout's files

    def apply(self, mutant: Mutant, *options: str) -> str:
        """Apply its patch; what is wrong with it, or nothing."""
        return subprocess.run(
            ["git", "apply", *options, mutant.path],
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)},
        ).stderr.strip()

    @contextmanager
    def planted(self, mutant: Mutant | None) -> Any:
        """With a bug for the length of a block."""
        assert mutant is None or not self.apply(mutant)
        yield
        assert mutant is None or not self.apply(mutant, "--reverse")

    def run(self, *command: str) -> tuple[int, str]:
        """The status and the output of a command on this tree; a status of -1: it was ended."""
        own = (str(self.folder / package) for package in PACKAGES)
        path = os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])
        with (self.folder / "run.log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=log,
                stderr=log,
            )
            try:
                status = process.wait(LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
                status = -1
            log.seek(0)
            return status, log.read()


def audit(tree: Tree, mutant: Mutant | None) -> str:
    """What an examination of the running service finds first, or nothing."""
    report = tree.folder / "report.json"
    report.unlink(missing_ok=True)
    first = likely.scenes(mutant.patch, mutant.name, FOLDER) if mutant else []
    begun = [option for name in first for option in ("--first", name)]
    status, output = tree.run("-m", "chaos.examine", "--seed", "1", "--out", str(report), *begun)
    if report.exists():
        violations: list[str] = json.loads(report.read_text())["violations"]
        return violations[0] if violations else ""
    return f"the run broke off ({status}): {last_line(output)}"


def simulation(tree: Tree, _: Mutant | None) -> str:
    """What breaks in some drawn order, or nothing."""
    status, output = tree.run("-m", "chaos.simulate", "--minutes", f"{SIMULATED_MINUTES}", "--as-drawn", "--seed", "1")
    return "" if status in (0, -1) else (output.strip().splitlines() or [""])[-1 if "Traceback" in output else 1]


def suite(tree: Tree, mutant: Mutant | None) -> str:
    """The first test that fails of those that run the line, or nothing."""
    for test in mutant.tests if mutant else ["tests/service/test_store.py"]:
        status, output = tree.run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "300", test)
        assert status in (0, 1, -1), output[-2000:]
        failed = [line for line in output.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
        if status == 1:
            if mutant:
                assert_whole(tree, mutant, failed[0])
            return failed[0]
    return ""


def assert_whole(tree: Tree, mutant: Mutant, failed: str) -> None:
    """Run a test that failed without the bug. Raises SystemExit: it fails there, too, so it caught nothing."""
    test = failed.partition(" ")[2].split(" - ")[0]
    assert not tree.apply(mutant, "--reverse")
    status, _ = tree.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300", test)
    assert not tree.apply(mutant)
    if status:
        raise SystemExit(f"without any planted bug, as with {mutant.name}: {failed}")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


BY: dict[str, Callable[[Tree, Mutant | None], str]] = {"audit": audit, "simulation": simulation, "suite": suite}


def main() -> None:
    """Run one of them over all mutants; status 1 if a patch does not apply, or the service is not whole."""
    parser = argparse.ArgumentParser(prog="chaos.planted", description="Planted bugs, and what catches them.")
    parser.add_argument("by", choices=sorted(BY))
    parser.add_argument("--only", default="", help="mutants with this in their name")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they lie")
    parser.add_argument("--at-once", type=int, default=at_once(), help="bugs (default: what this machine holds)")
    parser.add_argument("--out", type=Path, help="JSON that the results are added to")
    asked = parser.parse_args()
    mutants = [Mutant.read(path) for path in sorted(asked.folder.glob("*.patch")) if asked.only in path.stem]
    with TemporaryDirectory(prefix="planted-") as name:
        trees: Queue[Tree] = Queue()
        for number in range(asked.at_once):
            (Path(name) / str(number)).mkdir()
            trees.put(Tree(Path(name) / str(number)))
        run_all(mutants, trees, asked.by, asked.out)


def at_once() -> int:
    """How many services this machine holds, by its processors and its memory."""
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return max(1, min(len(os.sched_getaffinity(0)), int(int(free.split()[1]) / 2**20 / GIB_AT_ONCE)))


def run_all(mutants: list[Mutant], trees: "Queue[Tree]", by: str, out: Path | None) -> None:
    """Plant one bug after another, and print what is caught; beside them, the service without any is tried."""
    find = BY[by]
    first = trees.get()
    if broken := [f"{mutant.name}: {wrong}" for mutant in mutants if (wrong := first.apply(mutant, "--check"))]:
        raise SystemExit("\n".join(["these do not apply:", *broken]))
    trees.put(first)
    if by == "audit":
        likely.sources()
    lock, wrong = Lock(), list[str]()

    def whole() -> None:
        found, seconds = on_a_tree(trees, find, None)
        if found:
            wrong.append(found)
        print(f"without any planted bug: {found or 'whole'} ({seconds:.0f} s)", flush=True)

    def one(mutant: Mutant) -> bool:
        if wrong:
            return False
        found, seconds = on_a_tree(trees, find, mutant)
        print(f"{mutant.name}: {' '.join(found.split()) or 'NOT CAUGHT'} ({seconds:.0f} s)", flush=True)
        if out:
            with lock:
                note(out, mutant, by, found, seconds)
        return bool(found)

    began = time.monotonic()
    with ThreadPoolExecutor(trees.qsize()) as pool:
        without = pool.submit(whole)
        caught = list(pool.map(one, mutants))
        without.result()  # or what it ended with would be lost
    if wrong:
        raise SystemExit(f"without any planted bug: {wrong[0]}")
    print(f"{by}: {sum(caught)} of {len(caught)} caught, in {(time.monotonic() - began) / 60:.0f} minutes")


def note(out: Path, mutant: Mutant, by: str, found: str, seconds: float) -> None:
    """Add one result to those that are known: a run that is broken off keeps what it had."""
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    told = {"caught": bool(found), "by": found.splitlines()[0][:200] if found else "", "seconds": round(seconds)}
    known.setdefault(mutant.name, {})["what"] = mutant.what
    known[mutant.name][by] = told
    out.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def on_a_tree(
    trees: "Queue[Tree]", find: Callable[[Tree, Mutant | None], str], mutant: Mutant | None
) -> tuple[str, float]:
    """What is found with a bug, and in how many seconds."""
    tree, began = trees.get(), time.monotonic()
    try:
        with tree.planted(mutant):
            return find(tree, mutant), time.monotonic() - began
    finally:
        trees.put(tree)


if __name__ == "__main__":
    main()
