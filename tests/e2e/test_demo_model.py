"""The models that ship with the service show what the prompt says, and begin with the image that is given."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from adaspa_client import Video
from adaspa_demo_model import EXAMPLE_IMAGE
from PIL import Image
from service_process import Service, environment


@pytest.fixture(scope="module")
def demo_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as it comes: the built-in catalog."""
    service = Service(tmp_path_factory.mktemp("demo") / "data", environment(None)).start()
    yield service
    service.stop()


def clip_of(service: Service, video: Video, path: Path) -> np.ndarray:
    """The frames of a job's video: int16 [frames, height, width, 3]."""
    assert (video.status, video.num_frames) == ("completed", 33), video.error
    assert video.attention is not None and video.attention.density < 0.7 and video.attention.sparse_steps > 0
    with av.open(str(service.client.download(video.id, path))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = np.stack(frames).astype(np.int16)
    assert clip.shape == (33, 128, 128, 3)
    return clip


def assert_a_yellow_star_moves_right_on_navy(clip: np.ndarray) -> None:
    red, green, blue = np.moveaxis(clip, -1, 0)
    yellow = (red > 150) & (green > 130) & (blue < 130)
    navy = (red < 70) & (green < 80) & (blue > red + 20)
    assert 0.02 < yellow.mean() < 0.3 and navy.mean() > 0.5
    centres = [np.nonzero(mask)[1].mean() for mask in (yellow[0], yellow[16], yellow[32])]
    assert centres[0] + 10 < centres[1] < centres[2] - 10


def test_a_prompt_becomes_a_clip_of_what_it_says(demo_service: Service, tmp_path: Path) -> None:
    """In four steps, with the adapter for that, and without guidance."""
    prompt = "a large yellow star moves right on a navy background"
    video = demo_service.run(prompt, steps=4, guidance_scale=1, loras="four-steps", seed=7)
    assert video.model == "demo" and video.loras is not None
    assert [lora.name for lora in video.loras] == ["four-steps"]
    assert_a_yellow_star_moves_right_on_navy(clip_of(demo_service, video, tmp_path / "video.mp4"))


def test_an_image_becomes_a_clip_that_begins_with_it(demo_service: Service, tmp_path: Path) -> None:
    """The image shows what moves, the prompt says how; a worker of its own serves the model."""
    client = demo_service.client
    models = {model.id: (model.tasks, model.workers) for model in client.models()}
    assert models == {"demo": (["text_to_video"], 1), "demo-image": (["image_to_video"], 1)}
    job = client.create("moves right", model="demo-image", image=EXAMPLE_IMAGE, steps=4, seed=7)
    clip = clip_of(demo_service, client.wait(job.id), tmp_path / "video.mp4")
    with Image.open(EXAMPLE_IMAGE) as image:
        error = float(((clip[0] - np.asarray(image, np.int16)) ** 2).mean())
    assert 10 * np.log10(255**2 / error) > 26, "less than 30 dB: the file's coding costs some"
    assert_a_yellow_star_moves_right_on_navy(clip)
