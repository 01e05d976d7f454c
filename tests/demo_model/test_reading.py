"""Reading the demo model's videos back, on videos drawn from scenes: what is shown is known exactly."""

import random
from dataclasses import replace

import pytest
import torch

from demo_model.reading import read_video
from demo_model.scenes import (
    COLORS,
    MOTIONS,
    SHAPES,
    Actor,
    Scene,
    caption,
    draw,
    is_held_out,
    sample_scene,
)

ACTOR = Actor("square", "red", "medium", "moves left", True, 0.1, -0.1, 0.1, 0.3)


def film(scene: Scene) -> torch.Tensor:
    """The scene as uint8 [33, 128, 128, 3]."""
    video = draw([scene])[0].permute(1, 2, 3, 0)
    return ((video + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def with_noise(video: torch.Tensor, levels: float) -> torch.Tensor:
    """The video with normal noise of that many grey levels."""
    noise = levels * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    return (video + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, torch.Tensor]]:
    """Scenes with their videos."""
    rng = random.Random(7)
    return [(scene, film(scene)) for scene in (sample_scene(rng) for _ in range(30))]


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_drawn_videos_read_as_what_was_drawn(drawn: list[tuple[Scene, torch.Tensor]], noise: float) -> None:
    marks: dict[str, list[bool]] = {}
    for scene, video in drawn:
        for name, right in read_video(with_noise(video, noise), scene).judge(scene).items():
            marks.setdefault(name, []).extend(right)
    shares = {name: sum(right) / len(right) for name, right in marks.items()}
    assert set(shares) == {"color", "shape", "motion", "background"}
    assert min(shares.values()) >= 0.97, shares


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_from_the_others(shape: str) -> None:
    scene = Scene((replace(ACTOR, shape=shape),), "white", True)
    assert read_video(film(scene), scene).actors[0].shape == shape


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_is_told_from_the_others(motion: str) -> None:
    scene = Scene((replace(ACTOR, motion=motion),), "navy", True)
    assert read_video(film(scene), scene).actors[0].motion == motion


@pytest.mark.parametrize("change", [{"shape": s} for s in SHAPES[:1] + SHAPES[2:]] + [{"motion": "moves right"}])
def test_a_caption_that_asks_for_something_else_is_wrong_in_that_alone(change: dict[str, str]) -> None:
    asked = Scene((replace(ACTOR, **change),), "black", True)
    marks = read_video(film(Scene((ACTOR,), "black", True)), asked).judge(asked)
    wrong = {name for name, right in marks.items() if not all(right)}
    assert wrong == set(change)


@pytest.mark.parametrize("color", [color for color in COLORS if color != "red"])
@pytest.mark.parametrize("background", ["black", "white", "brown"])
def test_another_colour_is_wrong(color: str, background: str) -> None:
    asked = Scene((replace(ACTOR, color=color),), background, True)
    marks = read_video(film(Scene((ACTOR,), background, True)), asked).judge(asked)
    assert marks["color"] == [False]
    assert marks["background"] == [True]


def test_a_missing_second_actor_is_wrong() -> None:
    other = replace(ACTOR, color="cyan", shape="circle", motion="bounces")
    asked = Scene((ACTOR, other), "gray", True)
    marks = read_video(film(Scene((ACTOR,), "gray", True)), asked).judge(asked)
    assert marks["color"] == [True, False]
    assert marks["shape"] == [True, False]
    assert marks["motion"] == [True, False]


def test_an_actor_that_was_not_asked_for_makes_a_smaller_asked_one_wrong() -> None:
    small = replace(ACTOR, size="small", shape="ring", x=-0.5, y=-0.5, motion="stays still")
    intruder = replace(ACTOR, color="purple", x=0.5, y=0.5, motion="stays still")
    asked = Scene((small,), "white", True)
    assert read_video(film(Scene((small, intruder), "white", True)), asked).judge(asked)["color"] == [False]


def test_another_background_is_wrong_and_one_not_named_is_not_judged() -> None:
    video = film(Scene((ACTOR,), "brown", True))
    asked = Scene((ACTOR,), "gray", True)
    assert read_video(video, asked).judge(asked)["background"] == [False]
    assert read_video(video, asked).judge(replace(asked, background_named=False))["background"] == []


def test_a_video_of_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="video must be uint8"):
        read_video(torch.zeros(2, 8, 8, 3), Scene((ACTOR,), "black", True))


def test_a_tenth_of_the_captions_is_held_out_whatever_their_size_words() -> None:
    rng = random.Random(3)
    scenes = [sample_scene(rng) for _ in range(4000)]
    assert 0.08 < sum(is_held_out(scene) for scene in scenes) / len(scenes) < 0.12
    for scene in scenes[:100]:
        named = replace(scene, actors=tuple(replace(actor, size_named=True) for actor in scene.actors))
        unnamed = replace(scene, actors=tuple(replace(actor, size_named=False) for actor in scene.actors))
        assert caption(named) != caption(unnamed)
        assert is_held_out(named) == is_held_out(unnamed)
