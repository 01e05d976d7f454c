"""The model that ships with the service shows what the prompt says."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from service_process import Service, environment


@pytest.fixture(scope="module")
def demo_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as it comes: the built-in catalog."""
    service = Service(tmp_path_factory.mktemp("demo") / "data", environment(None)).start()
    yield service
    service.stop()


def test_a_prompt_becomes_a_clip_of_what_it_says(demo_service: Service, tmp_path: Path) -> None:
    video = demo_service.run("a large yellow star moves right on a navy background", steps=12, seed=7)
    assert (video.status, video.model, video.num_frames) == ("completed", "demo", 33), video.error
    assert video.attention is not None and video.attention.density < 0.7 and video.attention.sparse_steps > 0
    with av.open(str(demo_service.client.download(video.id, tmp_path / "video.mp4"))) as container:
        clip = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.int16)
    assert clip.shape == (33, 128, 128, 3)
    red, green, blue = np.moveaxis(clip, -1, 0)
    yellow = (red > 150) & (green > 130) & (blue < 130)
    navy = (red < 70) & (green < 80) & (blue > red + 20)
    assert 0.02 < yellow.mean() < 0.3 and navy.mean() > 0.5
    centres = [np.nonzero(mask)[1].mean() for mask in (yellow[0], yellow[16], yellow[32])]
    assert centres[0] + 10 < centres[1] < centres[2] - 10
