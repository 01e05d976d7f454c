"""A small run of the chaos command: see ``tests/chaos``."""

import secrets

from chaos.playing import ALL
from chaos.run import run
from waiting import PATIENCE

PLAYED = (
    *("cancelled: completing", "deleted: step-6", "one request", "gateway killed: answered"),
    *("storage took a file: keep a", "power cut: cancel"),
)


def test_nothing_is_lost_or_doubled_whatever_is_killed() -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    scenes = [scene for scene in ALL if scene.name.startswith(PLAYED)]
    report = run(15, seed, pause=1.0, faults=3, fsync="everysec", patience=PATIENCE, scenes=scenes)
    assert report["violations"] == []
    assert sum(report["ended"].values()) == report["jobs"]
    assert "failed" not in report["ended"], "the stand-in for a model is whole"
    assert len(report["scenes"]) == len(scenes)
