"""The audit's scenes of networks, outages, interruptions and starts, and of callers beside each other."""

import pytest
from chaos import by_callers, by_interruptions, by_networks, by_outages, by_starts
from chaos.scenes import Scene

PARTS = (by_callers, by_interruptions, by_networks, by_outages, by_starts)
SCENES = [scene for part in PARTS for scene in part.SCENES]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_promises_hold_whoever_is_away_or_interrupted(scene: Scene) -> None:
    scene.play(None)  # type: ignore[arg-type]  these need no stage
