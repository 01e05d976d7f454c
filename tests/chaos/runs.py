"""Which test files run which functions, so that a planted bug is tried by those that run its line.

    PYTHONPATH=tests python -m chaos.runs                             # all of service and worker, one after another
    PYTHONPATH=tests python -m chaos.runs tests/service/test_new.py   # these alone; the others stay as they are

Writes ``runs.json``. It need not be of the very commit: a file of tests that is not in it is chosen by its words.
"""

import ast
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("runs.json")
SOURCES = ("service/adaspa_jobs", "service/adaspa_service", "worker/adaspa_worker")
OUT = "CHAOS_RUNS_OUT"
"""Variable with the file that a run of tests writes."""

_seen: set[CodeType] = set()


def _note(frame: FrameType, event: str, _: object) -> None:
    if event == "call":
        _seen.add(frame.f_code)


def pytest_sessionstart() -> None:
    """Look at all calls from here on: this module is a plugin of the runs that it starts."""
    sys.setprofile(_note)
    threading.setprofile(_note)


def pytest_sessionfinish() -> None:
    """Write which functions were called."""
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]  None ends it
    found: dict[str, set[str]] = {}
    for code in list(_seen):
        path, name = Path(code.co_filename), code.co_qualname.replace("<locals>.", "")
        inside = path.is_relative_to(ROOT) and str(path.relative_to(ROOT)).startswith(SOURCES)
        if inside and "<" not in name:  # no module, no comprehension
            found.setdefault(str(path.relative_to(ROOT)), set()).add(name)
    Path(os.environ[OUT]).write_text(json.dumps({path: sorted(names) for path, names in found.items()}))


def functions(path: str, lines: Iterable[int]) -> set[str]:
    """Names of the functions of a source file that these lines are in, each by the innermost."""
    found: set[str] = set()
    spans: list[tuple[int, int, str]] = []

    def walk(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = outer
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{outer}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    spans.append((child.lineno, child.end_lineno or child.lineno, name))
            walk(child, name)

    walk(ast.parse((ROOT / path).read_text()), "")
    for line in lines:
        around = [(end - begin, name) for begin, end, name in spans if begin <= line <= end]
        found |= {min(around)[1]} if around else set()
    return found


def running(path: str, lines: Iterable[int]) -> tuple[set[str], set[str]]:
    """Test files that were seen to run any of these lines' functions, and those that were seen to run none.

    A script in Lua is run by those that ask for it. What is in no function, or in one that nobody was seen to run,
    tells of no file.
    """
    known = json.loads(FILE.read_text())
    if path.endswith(".lua"):
        asks = f'"{Path(path).stem}"'
        names = {(each, name) for each in known["ran"] for name in callers(each, asks)}
    else:
        names = {(path, name) for name in functions(path, lines)}
    ran = {known["tests"][number] for each, name in names for number in known["ran"].get(each, {}).get(name, ())}
    return ran, set(known["tests"]) - ran if ran else set()


def callers(path: str, text: str) -> set[str]:
    """Names of the functions of a source file that have this text."""
    source = (ROOT / path).read_text() if (ROOT / path).exists() else ""
    return functions(path, [number for number, line in enumerate(source.splitlines(), 1) if text in line])


def write(found: dict[str, dict[str, list[str]]]) -> None:
    """Keep, of each function, the numbers of the test files that run it.

    Args:
        found: the functions of each source file, by test file.
    """
    tests = sorted(found)
    ran: dict[str, dict[str, list[int]]] = {}
    for number, test in enumerate(tests):
        for path, names in found[test].items():
            for name in names:
                ran.setdefault(path, {}).setdefault(name, []).append(number)
    lines = ",\n".join(
        f"{json.dumps(path)}: {json.dumps(names, sort_keys=True)}" for path, names in sorted(ran.items())
    )
    FILE.write_text(f'{{"tests": {json.dumps(tests)},\n"ran": {{\n{lines}\n}}}}\n')


def read() -> dict[str, dict[str, list[str]]]:
    """What ``write`` was given."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {"tests": [], "ran": {}}
    found: dict[str, dict[str, list[str]]] = {test: {} for test in known["tests"]}
    for path, names in known["ran"].items():
        for name, numbers in names.items():
            for number in numbers:
                found[known["tests"][number]].setdefault(path, []).append(name)
    return found


def main() -> None:
    """Run the test files that are named, or all, and note what they run."""
    places = (ROOT / "tests" / area for area in ("service", "worker"))
    tests = sys.argv[1:] or [
        str(path.relative_to(ROOT)) for place in places for path in sorted(place.glob("test_*.py"))
    ]
    found = {test: ran for test, ran in read().items() if (ROOT / test).exists()}
    for test in tests:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "ran.json"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                "0",
                "-p",
                "chaos.runs",
                "-p",
                "no:cacheprovider",
                test,
            ]
            subprocess.run(command, cwd=ROOT, env=os.environ | {OUT: str(out)}, check=True)
            found[test] = json.loads(out.read_text())
        write(found)


if __name__ == "__main__":
    main()
