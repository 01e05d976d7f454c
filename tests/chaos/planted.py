"""Planted bugs: how many of them the chaos audit, the simulation, and the tests that run their lines catch.

    PYTHONPATH=tests python -m chaos.planted audit --out docs/planted.json
    PYTHONPATH=tests python -m chaos.planted simulation --out docs/planted.json
    PYTHONPATH=tests python -m chaos.planted suite --out docs/planted.json

Each ``mutants/*.patch`` breaks one line of the service. Its head says what is broken, and names the test files that run
that line; of a patch without that, those are tried that most likely do. A patch that does not apply fails the command,
and so does a service without any that is not found whole, or a test that fails without the bug, too. ``--folder`` takes
patches from elsewhere.
"""

import argparse
import json
import os
import re
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

from rich.console import Console

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).with_name("mutants")
PACKAGES = ("tests", "service", "service/client", "worker", "kernels", "demo_model/weights")
SIMULATED_MINUTES = 1.0
TRIED = 12
"""Test files of a patch that names none."""
BY_HAND = ("test_chaos_watch.py", "test_worker_by_hand.py")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")
LIMIT_SECONDS = 900.0
"""A run that has not ended by then is broken off; what it would have found is not known, and counts for nothing."""


@dataclass
class Mutant:
    """One planted bug."""

    path: Path
    what: str
    tests: list[str]

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        """Read a patch, with or without a head."""
        head, _, rest = path.read_text().partition("--- a/")
        said = [each.strip() for each in head.split("\n\n") if each.strip() and not each.startswith("diff ")]
        named = [each.removeprefix("Tests:").split() for each in said if each.startswith("Tests:")]
        what = next((each for each in said if not each.startswith("Tests:")), path.stem)
        return cls(path.resolve(), what, (named[0] if named else []) or likely(f"--- a/{rest}"))

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


def likely(patch: str) -> list[str]:
    """Test files that most likely run the line of a patch: what is driven by hand, and those that share rare words."""
    module = Path(patch.splitlines()[0].removeprefix("--- a/")).with_suffix("")
    area = "worker" if module.parts[0] == "worker" else "service"
    texts = {
        path: path.read_text() for place in (area, "e2e") for path in sorted(ROOT.glob(f"tests/{place}/test_*.py"))
    }
    hunk = "\n".join(line for line in patch.splitlines()[2:] if not line.startswith("+"))
    words = set(WORD.findall(hunk)) | {module.stem, *module.stem.split("_")}
    share = {word: sum(word in text for text in texts.values()) for word in words}

    def score(path: Path) -> float:
        own = sum(1 / share[word] for word in words if word in texts[path])
        named = [part for part in (*module.parent.parts[1:], *module.stem.split("_")) if part.rstrip("s") in path.stem]
        return own + 2 * len(named) + 2 * (".".join(module.parts[1:]) in texts[path])

    ranked = [path for path in sorted(texts, key=score, reverse=True) if path.name not in BY_HAND]
    return [str(path.relative_to(ROOT)) for path in (*(p for p in texts if p.name in BY_HAND), *ranked[:TRIED])]


def audit(tree: Tree, _: Mutant | None) -> str:
    """What an examination of the running service finds first, or nothing."""
    report = tree.folder / "report.json"
    report.unlink(missing_ok=True)
    status, output = tree.run("-m", "chaos.examine", "--seed", "1", "--out", str(report))
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
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON that the results are added to")
    asked = parser.parse_args()
    mutants = [Mutant.read(path) for path in sorted(asked.folder.glob("*.patch")) if asked.only in path.stem]
    with TemporaryDirectory(prefix="planted-") as name:
        trees: Queue[Tree] = Queue()
        for number in range(asked.at_once):
            (Path(name) / str(number)).mkdir()
            trees.put(Tree(Path(name) / str(number)))
        run_all(mutants, trees, asked.by, asked.out)


def run_all(mutants: list[Mutant], trees: "Queue[Tree]", by: str, out: Path | None) -> None:
    """Plant one bug after another, and print what is caught."""
    console, find = Console(), BY[by]
    first = trees.get()
    if broken := [f"{mutant.name}: {wrong}" for mutant in mutants if (wrong := first.apply(mutant, "--check"))]:
        raise SystemExit("\n".join(["these do not apply:", *broken]))
    trees.put(first)
    wrong, seconds = on_a_tree(trees, find, None)
    if wrong:
        raise SystemExit(f"without any planted bug: {wrong}")
    console.print(f"without any planted bug: {seconds:.0f} s")

    lock = Lock()

    def one(mutant: Mutant) -> bool:
        found, seconds = on_a_tree(trees, find, mutant)
        console.print(f"{mutant.name}: {found or 'NOT CAUGHT'} ({seconds:.0f} s)", highlight=False, markup=False)
        if out:
            with lock:
                note(out, mutant, by, found, seconds)
        return bool(found)

    with ThreadPoolExecutor(trees.qsize()) as pool:
        caught = list(pool.map(one, mutants))
    console.print(f"{by}: {sum(caught)} of {len(caught)} caught")


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
