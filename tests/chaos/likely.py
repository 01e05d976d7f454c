"""What most likely notices a planted bug: test files that run its line, and scenes of the audit to begin with."""

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from chaos import runs
from chaos.runs import ROOT

KNOWN = ROOT / "docs" / "planted.json"
"""What caught which bug before."""
TRIED = 12
"""Test files of a patch that names none."""
BEGUN = 4
"""Scenes of either kind to begin with."""
BY_ITSELF = "by hand"
"""How names of scenes begin that have parts of their own, and need no service."""
BY_HAND = ("test_chaos_watch.py", "test_drawn_requests.py", "test_worker_by_hand.py")
HUNK = re.compile(r"^@@ -(?P<begin>\d+).*\n(?P<lines>(?:[-+ ].*\n?)+)", re.M)
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")


def module_of(patch: str) -> Path:
    """The module that a patch is for."""
    return Path(path_of(patch)).with_suffix("")


def words_of(patch: str) -> set[str]:
    """What stands in and around the lines that it changes, and in the name of their module."""
    module = module_of(patch)
    lines = patch.partition("--- a/")[2].splitlines()[2:]
    return set(WORD.findall("\n".join(line for line in lines if not line.startswith("+")))) | {
        module.stem,
        *module.stem.split("_"),
    }


def shared(patch: str, texts: Mapping[str, str]) -> dict[str, float]:
    """By text, how many words it shares with a patch; rare ones count more."""
    words = words_of(patch)
    share = {word: sum(word in text for text in texts.values()) for word in words}
    return {name: sum(1 / share[word] for word in words if word in text) for name, text in texts.items()}


def test_files(patch: str) -> list[str]:
    """Test files that most likely run its line: what is driven by hand, and others that share rare words.

    Those that were seen not to run its function are out of the question.
    """
    module = module_of(patch)
    area = "worker" if module.parts[0] == "worker" else "service"
    ran, idle = runs.running(path_of(patch), changed(patch))
    here = [path for place in (area, "e2e") for path in sorted(ROOT.glob(f"tests/{place}/test_*.py"))]
    paths = {*here, *(ROOT / name for name in ran if (ROOT / name).exists())}
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}
    own = shared(patch, texts)

    def score(name: str) -> float:
        stem = Path(name).stem
        named = [part for part in (*module.parent.parts[1:], *module.stem.split("_")) if part.rstrip("s") in stem]
        return own[name] + 2 * len(named) + 2 * (".".join(module.parts[1:]) in texts[name]) + 2 * (name in ran)

    by_hand = [str(path.relative_to(ROOT)) for path in here if path.name in BY_HAND]
    others = [name for name in texts if name not in (*by_hand, *idle)]
    return [*by_hand, *sorted(others, key=score, reverse=True)[:TRIED]]


def path_of(patch: str) -> str:
    """The file that a patch is for."""
    return patch.partition("--- a/")[2].split()[0]


def changed(patch: str) -> list[int]:
    """Numbers, in the file as it is now, of the lines that a patch removes and of those before which it adds some."""
    source = (ROOT / path_of(patch)).read_text().splitlines()
    found: list[int] = []
    for hunk in HUNK.finditer(patch):
        lines = hunk["lines"].splitlines()
        old = [line[1:] for line in lines if line[0] != "+"]
        places = [at for at in range(len(source)) if source[at : at + len(old)] == old]
        at = min(places, key=lambda place: abs(place + 1 - int(hunk["begin"])), default=int(hunk["begin"]) - 1)
        for line in lines:
            found += [at + 1] * (line[0] != " ")
            at += line[0] != "+"
    return found


def scenes(patch: str, name: str, folder: Path) -> list[str]:
    """Names of the scenes to begin with.

    That is the one that caught the bug before. If none did, it is a few of those that need no service: they caught
    other bugs of its module, or their own lines share rare words with it.

    Args:
        patch: its text.
        name: of the bug.
        folder: where patches lie whose catches are known.
    """
    texts = sources()
    known: dict[str, Any] = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    own = caught_by(known.get(name, {}), texts)
    if own:
        return [own]
    by_hand = {name: text for name, text in texts.items() if name.startswith(BY_ITSELF)}
    alike = [
        found
        for path in sorted(folder.glob("*.patch"))
        if module_of(path.read_text()) == module_of(patch) and (found := caught_by(known.get(path.stem, {}), by_hand))
    ]
    scores = shared(patch, by_hand)
    return list(dict.fromkeys([*dict.fromkeys(alike)][:BEGUN] + sorted(by_hand, key=lambda one: -scores[one])[:BEGUN]))


def caught_by(results: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The scene that a bug's result names."""
    said = str(results.get("audit", {}).get("by", ""))
    return max((name for name in names if f"{name}: " in said), key=len, default=None)


@cache
def sources() -> dict[str, str]:
    """The lines of each scene by its name."""
    from chaos.examine import each  # noqa: PLC0415  seconds, which other ways go without

    return {scene.name: source_of(scene) for scene in each()}


def source_of(scene: Any) -> str:
    from chaos.apart import Apart, scenes_of  # noqa: PLC0415

    if isinstance(scene, Apart):
        (scene,) = [one for name in scene.modules for one in scenes_of(name) if one.name == scene.only]
    return inspect.getsource(type(scene))
