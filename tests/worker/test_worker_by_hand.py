"""What the examination of planted bugs does with a worker's parts: whole, nothing is found."""

import pytest
from chaos.by_worker import SCENES
from chaos.scenes import Scene


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_workers_parts_driven_by_hand_keep_their_promises(scene: Scene) -> None:
    scene.play(None)  # type: ignore[arg-type]  these need no stage
