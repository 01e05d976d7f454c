"""Formats, presets, remixes and recipes through real processes: a file tells how to make it again."""

from pathlib import Path

import pytest
from adaspa_api.words import OutputFormat
from adaspa_worker.recipe import read_recipe
from clips import frames_of
from service_process import Service


@pytest.mark.parametrize("output", OutputFormat)
def test_a_file_of_each_format_tells_how_to_make_it_again(service: Service, tmp_path: Path, output: str) -> None:
    video = service.run("a blue square", output_format=output, quality="fast", negative_prompt="red", steps=3)
    assert (video.status, video.content_type) == ("completed", OutputFormat(output).content_type), video.error
    path = service.client.download(video.id, tmp_path / f"out.{output}")
    assert len(frames_of(path)) == video.num_frames
    recipe = read_recipe(path)
    assert (recipe["attention"]["selection"], recipe["attention"]["block_size"]) == ("marginal_mass", 16)
    size = f"{recipe['width']}x{recipe['height']}"
    asked = {name: recipe[name] for name in ("negative_prompt", "seed", "steps", "guidance_scale", "num_frames", "fps")}
    again = service.run(
        recipe["prompt"], model=recipe["model"], size=size, quality="fast", output_format=output, **asked
    )
    assert service.client.download(again.id, tmp_path / f"again.{output}").read_bytes() == path.read_bytes()


def test_a_remix_runs_and_a_batch_differs_by_seed(service: Service, tmp_path: Path) -> None:
    first, second = (service.client.wait(v.id) for v in service.client.create_batch("a red circle", 2, seed=3, steps=3))
    remix = service.client.wait(service.client.remix(second.id, "a red circle").id)
    assert (remix.seed, remix.steps, remix.remixed_from_video_id) == (4, 3, second.id)
    contents = [service.client.download(video.id, tmp_path / video.id).read_bytes() for video in (first, second, remix)]
    assert contents[1] == contents[2] != contents[0]


def test_an_adapter_is_in_its_own_videos_alone_and_in_record_and_recipe(service: Service, tmp_path: Path) -> None:
    (offer,) = service.client.models()[0].loras
    asked = [{}, {"loras": "ink"}, {}, {"loras": [{"name": "ink", "scale": 0.7}]}]
    videos = [service.run("a red circle", seed=3, steps=3, output_format="webp", **loras) for loras in asked]
    videos.append(service.client.wait(service.client.remix(videos[1].id, "a red circle").id))
    plain, ink, plain_again, ink_again, remix = (
        service.client.download(video.id, tmp_path / f"{video.id}.webp").read_bytes() for video in videos
    )
    assert plain == plain_again != ink == ink_again == remix
    wanted = {"name": "ink", "scale": 0.7, "sha256": offer.sha256}
    assert videos[0].loras is None and [use.model_dump() for use in videos[4].loras or []] == [wanted]
    assert read_recipe(tmp_path / f"{videos[1].id}.webp")["loras"] == [wanted]
