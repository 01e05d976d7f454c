"""What the examination of planted bugs does with a worker's parts: whole, nothing is found."""

import pytest
from chaos import by_attempts, by_failures, by_files, by_model, by_progress
from chaos.scenes import Scene

PARTS = (by_files, by_progress, by_attempts, by_failures, by_model)
SCENES = [scene for part in PARTS for scene in part.SCENES]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_workers_parts_driven_by_hand_keep_their_promises(scene: Scene) -> None:
    scene.play(None)  # type: ignore[arg-type]  these need no stage
