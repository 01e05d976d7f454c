"""A small run of the chaos command: see ``tests/chaos``."""

import secrets

from chaos.run import run


def test_nothing_is_lost_or_doubled_whatever_is_killed() -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    report = run(40, seed, pause=1.0, fsync="everysec", patience=120)
    assert report["violations"] == []
    assert sum(report["ended"].values()) == 40
    assert "failed" not in report["ended"], "the stand-in for a model is whole"
