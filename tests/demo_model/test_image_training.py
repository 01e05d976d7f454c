"""What the image-to-video transformer is trained on is what diffusers gives it, and it begins as the one for text."""

import random

import pytest
import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanPipeline

from demo_model.architecture import CONDITION_CHANNELS, LATENT_CHANNELS, build_image_pipeline
from demo_model.first_frames import FirstFramesPipeline, first_frame
from demo_model.latents import encode_first_frames
from demo_model.scenes import FRAMES, SIDE, brief_caption, draw, sample_scenes
from demo_model.whole_clip import allow_whole_clips


@pytest.fixture(scope="module")
def narrow() -> WanPipeline:
    return WanPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float32, local_files_only=True)


def test_a_wider_input_changes_nothing_before_the_training(narrow: WanPipeline) -> None:
    wide = build_image_pipeline(narrow).transformer
    torch.manual_seed(0)
    latents, condition = torch.randn(1, LATENT_CHANNELS, 2, 4, 4), torch.randn(1, CONDITION_CHANNELS, 2, 4, 4)
    level, text = torch.tensor([500.0]), torch.randn(1, 8, 192)
    with torch.no_grad():
        before = narrow.transformer(latents, level, text, return_dict=False)[0]
        after = wide(torch.cat([latents, condition], dim=1), level, text, return_dict=False)[0]
    torch.testing.assert_close(after, before)


def test_training_gives_the_transformer_what_the_pipeline_gives_it(narrow: WanPipeline) -> None:
    pipe = FirstFramesPipeline(**build_image_pipeline(narrow).components)
    scenes = sample_scenes(random.Random(1), 1)
    images = torch.stack([first_frame(scene) for scene in scenes]).permute(0, 3, 1, 2) / 127.5 - 1.0
    generators, places = [torch.Generator()], (LATENT_CHANNELS, SIDE, SIDE, FRAMES, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        _, given = pipe.prepare_latents(images, 1, *places, generators, None, None)
        allow_whole_clips(pipe.vae)
        trained = encode_first_frames(pipe, scenes, "cpu").float()
    assert torch.equal(trained[:, :4], given[:, :4])
    assert (trained - given).abs().max() < 0.1, "but for the rounding of bfloat16"
    (image, drawn) = images[0], draw(scenes)[0, :, 0]
    assert (image - drawn).abs().max() < 1 / 127, "the first frame of the clip itself"


def test_a_brief_caption_tells_each_motion_in_the_order_of_the_actors() -> None:
    pair = next(scene for scene in sample_scenes(random.Random(1), 50) if len(scene.actors) == 2)
    assert brief_caption(pair) == f"{pair.actors[0].motion} and {pair.actors[1].motion}"
