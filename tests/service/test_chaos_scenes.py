"""The audit's scenes of networks, outages, interruptions and starts, and of callers beside each other."""

import json
from pathlib import Path

import pytest
from chaos import by_callers, by_interruptions, by_networks, by_outages, by_starts, by_turns, examine, likely
from chaos.apart import Apart
from chaos.scenes import Scene

PARTS = (by_callers, by_interruptions, by_networks, by_outages, by_starts, by_turns)
SCENES = [scene for part in PARTS for scene in part.SCENES]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_promises_hold_whoever_is_away_or_interrupted(scene: Scene) -> None:
    scene.play(None)  # type: ignore[arg-type]  these need no stage


PATCH = """--- a/worker/adaspa_worker/lease.py
+++ b/worker/adaspa_worker/lease.py
@@ -1,3 +1,3 @@
-            until = min(until, time.monotonic() + STOPPING_SECONDS)
+            until = time.monotonic()
"""


def test_an_audit_begins_with_what_caught_a_bug_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"by hand: a": "STOPPING_SECONDS", "by hand: b": "monotonic", "by hand: c": "nothing", "d": "monotonic"}
    monkeypatch.setattr(likely, "sources", lambda: texts)
    monkeypatch.setattr(likely, "BEGUN", 2)
    monkeypatch.setattr(likely, "KNOWN", tmp_path / "planted.json")
    assert likely.scenes(PATCH, "it", tmp_path) == ["by hand: a", "by hand: b"]
    (tmp_path / "other.patch").write_text(PATCH)
    by = {"audit": {"by": "by hand: both: by hand: c: it hangs"}}
    likely.KNOWN.write_text(json.dumps({"other": by}))
    assert likely.scenes(PATCH, "it", tmp_path) == ["by hand: c", "by hand: a", "by hand: b"]
    likely.KNOWN.write_text(json.dumps({"other": by, "it": {"audit": {"by": "d: AssertionError"}}}))
    assert likely.scenes(PATCH, "it", tmp_path) == ["d"]
    files = likely.test_files(PATCH)
    assert files[0] == "tests/worker/test_worker_by_hand.py" and "tests/worker/test_lease.py" in files


def test_what_is_found_ahead_needs_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Scene):
        name, promise = "by hand: broken", ""

        def play(self, stage: object) -> None:
            raise AssertionError("it is broken")

    class Unseen(Broken):
        name = "by hand: behind it"

    def started(*_: object) -> None:
        raise AssertionError("a service is started")

    monkeypatch.setattr(examine, "running_fleet", started)
    report = examine.examined(1, "", [Broken(), Unseen()])
    assert report["violations"] == ["by hand: broken: it is broken"]
    assert [*report["seconds"]] == ["by hand: broken"]


def test_a_scene_of_a_module_plays_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(likely.ROOT / "tests"))
    (one,) = [scene for scene in Apart("by_networks").each() if scene.name == "by hand: lines of the log"]
    one.play(None)  # type: ignore[arg-type]
    whole = [scene.name for scene in examine.each()]
    assert len({*whole}) == len(whole) and one.name in whole, "two scenes have one name"
