"""The checker of the chaos run on histories made by hand: what is broken is found, and shown by the fewest entries."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from chaos.checker import check
from chaos.history import Act, Entry, Outcome
from chaos.page import PAGE, made
from chaos.planted import FOLDER, ROOT

A, B = (f"video_{n:032x}" for n in (1, 2))


def entry(at: float, act: Act, target: str = A, outcome: Outcome = "ok", **more: Any) -> Entry:
    """A request of tenant ``a`` that takes half a second; what is no field of the entry is what was seen."""
    known = {name: more.pop(name) for name in list(more) if name in Entry.__dataclass_fields__}
    usual = {"client": "client-0", "tenant": "a", "gateway": "gateway-0", "began": at, "ended": at + 0.5}
    return Entry(**(usual | {"status": 200, "outcome": outcome} | known), act=act, target=target, seen=more)


def create(at: float, *ids: str, key: str = "key", **more: Any) -> Entry:
    return entry(at, "create", key, asked=more.pop("asked", "body"), **({"ids": list(ids)} if ids else {}), **more)


def get(at: float, status: str, attempt: int = 1, progress: int = 0, **more: Any) -> Entry:
    video = {"status": 404 if status == "unknown" else 200, "outcome": "refused" if status == "unknown" else "ok"}
    made = entry(at, "get", **(video | more))
    made.seen |= {"status": status, "attempt": attempt, "progress": progress}
    return made


def events(at: float, *told: tuple[str, int, int], **more: Any) -> Entry:
    names = ("status", "attempt", "progress")
    return entry(at, "events", events=[dict(zip(names, each, strict=True)) for each in told], **more)


def page(at: float, *ids: str, more: bool = False, **rest: Any) -> Entry:
    return entry(at, "list", "walk", ids=list(ids), more=more, **rest)


def cancelled(at: float, stands: str) -> Entry:
    made = entry(at, "cancel")
    made.seen = {"status": stands}
    return made


def deleted(at: float, **more: Any) -> Entry:
    return entry(at, "delete", **more)


REFUSED: dict[str, Any] = {"outcome": "refused", "status": 422}
UNKNOWN: dict[str, Any] = {"outcome": "unknown", "status": None}
QUEUED_AGAIN = events(9, ("queued", 0, 0), ("in_progress", 1, 0), ("queued", 1, 0), ("in_progress", 2, 0))
BROKEN = [
    ("completed, and is in_progress again", [get(0, "completed"), get(1, "in_progress")]),
    ("completed, and is queued again", [get(0, "completed"), get(1, "queued", epoch=1)]),
    ("attempt 2, and is at 1", [get(0, "in_progress", 2), get(1, "in_progress", 1)]),
    ("queued at attempt 1, which its events", [get(0, "queued"), events(1, ("queued", 0, 0), ("in_progress", 1, 0))]),
    ("fell from 50 to 49", [get(0, "in_progress", progress=50), get(1, "in_progress", progress=49)]),
    ("progress 9, then 8", [events(0, ("in_progress", 1, 9), ("in_progress", 1, 8))]),
    ("accepted, and is unknown", [create(0, A), get(1, "unknown", gateway="gateway-1")]),
    ("deleted, and is there again", [deleted(0), get(1, "completed")]),
    ("deleted, and is there again", [deleted(0), page(1, B, A)]),
    ("deleted, and is there again", [deleted(0), create(1, A)]),
    ("acknowledged, and it completed", [cancelled(0, "in_progress"), get(1, "completed", epoch=1)]),
    ("content has changed", [entry(0, "content", sha256="1"), entry(1, "content", sha256="2", epoch=1)]),
    ("another tenant has it", [create(0, A), get(1, "queued", 0, tenant="b")]),
    ("place 0", [get(0, "queued", 0, place=0)]),
    ("accepted twice", [create(0, A), create(1, B)]),
    ("two requests were accepted", [create(0, A), create(1, A, asked="another body")]),
    ("used it for this alone", [create(0, **REFUSED)]),
    ("then", [page(0, A, B)]),
    ("then", [page(0, B, A, more=True), page(1, A)]),
    ("is not shown", [create(0, A), page(1, B)]),
    ("is not shown", [create(0, B, key="other"), page(1, more=True), page(2, A)]),
]
WHOLE = [
    [get(0, "in_progress"), get(1, "queued"), get(2, "in_progress", 2), QUEUED_AGAIN],
    [get(0, "in_progress", progress=50), get(1, "in_progress", 2, progress=0)],
    [get(0, "in_progress", progress=50), get(0.4, "in_progress", progress=49)],
    [get(0, "in_progress", 2), get(1, "queued", 0, epoch=1)],
    [create(0, A), deleted(1, **UNKNOWN), get(2, "unknown")],
    [create(0, A), get(0.2, "unknown")],
    [deleted(0, **UNKNOWN), get(1, "completed"), deleted(0.9), get(1.2, "completed")],
    [cancelled(0, "completed"), get(1, "completed")],
    [entry(0, "cancel", **UNKNOWN), get(1, "completed")],
    [create(0, A), get(1, "unknown", tenant="b"), create(1, B, tenant="b")],
    [create(0, A), deleted(1, **UNKNOWN), create(2, B, asked="another body")],
    [create(0, **UNKNOWN), create(1, A), create(2, asked="another body", **REFUSED)],
    [create(0, A), page(1, B, more=True)],
    [create(0, A), deleted(1.2, **UNKNOWN), page(1, B)],
    [create(0.8, A), page(1, B)],
]


@pytest.mark.parametrize(("what", "history"), BROKEN)
def test_a_broken_promise_is_found_and_shown_by_what_shows_it(what: str, history: list[Entry]) -> None:
    others = [get(20, "in_progress", 3, target=B), entry(21, "content", B, sha256="3"), entry(22, "cancel", **UNKNOWN)]
    found = check([*history, *others])
    assert [violation.shown_by for violation in found] == [history]
    assert what in str(found[0])


@pytest.mark.parametrize("history", WHOLE)
def test_what_may_happen_is_no_violation(history: list[Entry]) -> None:
    assert check(history) == []


def test_of_many_entries_the_fewest_are_shown() -> None:
    def polls() -> Iterator[Entry]:
        for at in range(40):
            yield get(at, "in_progress", progress=at if at < 30 else at - 10)

    (violation,) = check([create(0, A), *polls()])
    assert len(violation.shown_by) == 2
    assert len(str(violation).splitlines()) == 3


def test_the_tables_of_the_page_are_of_the_latest_runs() -> None:
    assert made(PAGE.read_text()) == PAGE.read_text(), "run: PYTHONPATH=tests python -m chaos.page"


def test_every_planted_bug_can_still_be_planted() -> None:
    for patch in sorted(FOLDER.glob("*.patch")):
        tried = subprocess.run(
            ["git", "apply", "--check", patch], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert tried.returncode == 0, f"{patch.stem}: {tried.stderr}"
