"""What the examination of a service looks at: whole, nothing is found; broken, it is."""

import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_service import views
from chaos import by_answers, by_cuts, by_documents, by_ends, by_hand, by_keeping, by_parts, by_requests
from chaos.__main__ import share, shared_out
from chaos.apart import Apart
from chaos.audit import Audit
from chaos.by_hand import Bench, bench
from chaos.by_reference import OUTSIDE, Drawn, own_store
from chaos.planted import ROOT
from chaos.playing import play
from chaos.report import fault, together
from chaos.run import lacking
from chaos.scenes import Scene
from chaos.sightings import Sightings, alone
from chaos.watch import between, look, violations

SLOW = (by_parts.Films,)
"""Scenes that start many processes; other tests look at what they do."""
PARTS = (by_hand, by_requests, by_answers, by_keeping, by_ends, by_cuts, by_documents, by_parts)
SCENES = [scene for part in PARTS for scene in part.SCENES if not isinstance(scene, SLOW)]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_parts_driven_by_hand_keep_their_promises(scene: Scene) -> None:
    scene.play(None)  # type: ignore[arg-type]  these need no stage


def test_a_store_asked_in_a_drawn_order_is_as_the_reference_says() -> None:
    """The same order each time; the audit draws others."""
    with own_store() as client:
        Drawn(client, 2).play(700)


def test_a_store_that_holds_something_else_than_the_reference_is_found() -> None:
    with own_store() as client:
        drawn = Drawn(client, 1)
        drawn.play(60)
        for key in client.keys("adaspa:*"):  # type: ignore[union-attr]
            name, kept, lasts = key.decode().removeprefix("adaspa:"), client.dump(key), client.pttl(key)
            if name.partition(":")[0] in (*OUTSIDE, "events"):
                continue
            client.delete(key)
            with pytest.raises(AssertionError, match=re.escape(name.rpartition(":")[2] + ": ")):
                drawn.compare()
            client.restore(key, max(0, lasts), kept)
        drawn.compare()


def test_shares_of_a_run_are_all_of_it_and_their_reports_one() -> None:
    parts = [share(f"{number}/3") for number in (1, 2, 3)]
    assert sorted(each for number, of in parts for each in [*range(10)][number::of]) == [*range(10)]
    for wrong in ("0/3", "4/3"):
        with pytest.raises(ArgumentTypeError, match="is no part; allowed: from 1/3 to 3/3"):
            share(wrong)

    def report(seed: int, **own: Any) -> dict[str, Any]:
        counts = dict.fromkeys(("jobs", "attempts", "resumed_from_a_checkpoint", "requests_repeated_by_clients"), 2)
        usual = counts | {"machine": {}, "service": {}, "lost": 0, "doubled": 0, "violations": [], "measured": {}}
        usual |= {"ended": {"completed": 1}, "webhooks": {"taken": 1}, "seed": seed, "seconds": 9.0 + seed}
        return usual | own

    first = report(1, faults={"a": fault(2, [1.0, 4.0])}, scenes={"s": {"outcome": "held"}})
    second = report(2, faults={"a": fault(1, [2.0]), "b": fault(1, [])}, scenes={"t": {}}, violations=["x"], lost=1)
    whole = together([first, second])
    assert (whole["jobs"], whole["lost"], whole["seconds"], whole["ended"]) == (4, 1, 11.0, {"completed": 2})
    assert whole["violations"] == ["seed 2: x"] and whole["scenes"].keys() == {"s", "t"}
    assert whole["faults"]["a"] == fault(3, [1.0, 2.0, 4.0]) and whole["faults"]["b"]["count"] == 1
    assert whole["faults"]["a"]["recovery_seconds"]["p50"] == 2.0 and whole["service"]["services"] == 2


def test_a_run_whose_shares_give_no_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos", "--jobs", "many"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with pytest.raises(SystemExit, match="none of the 2 shares gave a report"):
        shared_out(2, 1, None, limit=600)


def test_a_scene_apart_is_found_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "from chaos.scenes import Scene\nclass Broken(Scene):\n    name, promise = 'b', ''\n"
    (tmp_path / "chaos").mkdir()
    (tmp_path / "chaos/by_broken.py").write_text(
        f"{told}    def play(self, stage):\n        assert False, 'as it was told'\nSCENES = [Broken()]\n"
    )
    (tmp_path / "sitecustomize.py").write_text(f"import chaos\nchaos.__path__.append({str(tmp_path / 'chaos')!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'tests'}")
    with pytest.raises(AssertionError, match="b: as it was told"):
        Apart("by_broken").play(None)  # type: ignore[arg-type]


def test_a_scene_whose_assertion_says_nothing_is_broken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Scene):
        name, promise = "silent", ""

        def play(self, stage: object) -> None:
            raise AssertionError

    monkeypatch.setattr("chaos.playing.Stage", lambda *_: "a stage")
    (played,) = play([Silent()], None, None, None).scenes  # type: ignore[arg-type]
    assert "raise AssertionError" in played.broken


def test_a_run_with_less_than_was_asked_for_complains() -> None:
    assert lacking(3, 3, 2, 2) == [] == lacking(9, 3, 2, 2)
    assert lacking(2, 3, 2, 2) == ["2 faults came at random times, and not 3 as asked"]
    assert lacking(3, 3, 1, 2) == ["1 scenes were played, and not 2 as asked"]


def test_an_audit_that_cannot_read_a_record_says_so() -> None:
    with bench() as found:
        whole, broken = found.admit(), found.admit()
        found.client.hset(f"adaspa:job:{broken}", "status", "of a later version")
        nobody: Any = SimpleNamespace(asks=[], history=None)
        audit = Audit(SimpleNamespace(client=lambda: found.client), nobody, nobody, 0.0)  # type: ignore[arg-type]
        audit._load()
        assert list(audit.jobs) == [whole]
        assert audit.violations == [f"{broken}: its record cannot be read"]


def test_a_bug_that_cannot_be_planted_ends_the_command(tmp_path: Path) -> None:
    patch = (
        "--- a/service/adaspa_jobs/store.py\n+++ b/service/adaspa_jobs/store.py\n@@ -1,1 +1,1 @@\n-no such line\n+x\n"
    )
    (tmp_path / "none.patch").write_text(patch)
    command = [sys.executable, "-m", "chaos.planted", "suite", "--folder", tmp_path, "--at-once", "1"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "these do not apply:\nnone: error: " in done.stderr


@pytest.fixture(scope="module")
def at() -> Iterator[tuple[Bench, dict[str, str]]]:
    with bench() as found:
        ended, running, waiting = found.admit(webhook_url="http://a/"), found.admit(), found.admit()
        found.store.request_cancel(ended)
        found.claim()
        yield found, {"ended": ended, "running": running, "waiting": waiting}


BROKEN: list[tuple[tuple[str, ...], str]] = [
    (("ZREM", "leases", "running"), "is not in leases"),
    (("ZREM", "running:played", "running"), "is not in running:played"),
    (("ZREM", "waiting:played", "waiting"), "is not in waiting:played"),
    (("ZADD", "waiting:played", "1", "running"), "is in waiting:played"),
    (("ZREM", "expiry", "ended"), "is not in expiry"),
    (("ZREM", "jobs:a", "waiting"), "is not in jobs:a"),
    (("SREM", "unfinished:a", "waiting"), "is not in unfinished:a"),
    (("SADD", "unfinished:a", "ended"), "is in unfinished:a"),
    (("HINCRBY", "owned:played", "a", "1"), "are counted by owner"),
    (("HSET", "backlog", "played", "7"), "a backlog of 7"),
    (("HSET", "leases_by_worker", "another", "running"), "worker another holds it"),
    (("HSET", "job:running", "attempt", "2"), "has the token"),
    (("HSET", "job:waiting", "cancel_requested", "1"), "waits, though cancelled or deleted"),
    (("HSET", "job:running", "lost_attempts", "6"), "lost 6"),
    (("HSET", "job:ended", "status", "completed"), "its last event is"),
    (("HSET", "preview:ended", "step", "1"), "has a preview"),
    (("HSET", "idempotency:a:key", "id", "gone"), "stands for gone"),
    (("SADD", "inputs:folder", "running"), "which are not its own"),
    (("ZREM", "webhooks", "ended"), "its webhook waits (False)"),
    (("ZADD", "webhooks", "1", "running"), "a webhook is due that is not there"),
]


@pytest.mark.parametrize(("command", "what"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_agree_in_the_store_is_found(
    at: tuple[Bench, dict[str, str]], command: tuple[str, ...], what: str
) -> None:
    made, ids = at
    assert [*violations(look(made.client))] == []
    name, key, *rest = command
    for short, job_id in ids.items():
        key = key.replace(short, job_id) if key.endswith(f":{short}") else key
    key, saved = f"adaspa:{key}", made.client.dump(f"adaspa:{key}")
    made.client.execute_command(name, key, *(ids.get(each, each) for each in rest))
    found = [*violations(look(made.client))]
    made.client.delete(key)
    if saved:
        made.client.restore(key, 0, saved)
    assert any(what in each for each in found), found


def test_what_may_not_become_of_a_job_is_found(at: tuple[Bench, dict[str, str]]) -> None:
    made, ids = at
    before = look(made.client)
    for job_id, name, value, what in (
        (ids["running"], "attempt", "0", "was at attempt 1, and is at 0"),
        (ids["running"], "token", "1-another", "has two tokens"),
        (ids["ended"], "completed_at", "1", "its completed_at was"),
        (ids["waiting"], "cost", "9", "its cost changed"),
    ):
        after = look(made.client)
        after.jobs[job_id][name] = value
        assert any(what in each for each in between(before, after)), what
    assert [*between(before, look(made.client))] == []


def test_videos_that_are_shown_differently_are_found(at: tuple[Bench, dict[str, str]]) -> None:
    made, ids = at
    sightings = Sightings()
    shown: dict[str, Any] = {}
    for name, job_id in ids.items():
        found = made.store.look(job_id)
        assert found is not None
        place = None if found.position is None else views.QueuePosition(found.position, None, 0)
        shown[name] = views.video(found.job, place).model_dump(mode="json")
        sightings.see(shown[name], name)
    assert sightings.broken == []
    for name, changes in (
        ("ended", {"error": {"code": "x", "message": "x"}}),
        ("ended", {"completed_at": None}),
        ("ended", {"progress": 100}),
        ("ended", {"expires_at": 1}),
        ("running", {"attempt": 0}),
        ("running", {"phase": "queued"}),
        ("running", {"queue_position": 1}),
        ("waiting", {"queue_position": 0}),
        ("waiting", {"step": 99}),
    ):
        assert [*alone(shown[name] | changes)], changes
    sightings.see(shown["ended"] | {"completed_at": 2, "expires_at": 2 + 7 * 86400}, "another route")
    assert "completed_at is 2, and was" in sightings.broken[0]
    sightings.see({"object": "list", "data": [shown["waiting"] | {"seed": 2}], "first_id": ids["waiting"]}, "a list")
    assert any("seed is 2, and was 1" in each for each in sightings.broken)
