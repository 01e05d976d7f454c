"""The long demo model: a small clip's tokens stand where diffusers puts them, a larger one's between them."""

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanTransformer3DModel
from torch import Tensor

from demo_model.architecture import build_transformer
from demo_model.long_clips import LENGTHS, LONG, MIDDLE, SHORT, Length, place_tokens


def positions(length: Length, latent_frames: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Rotary tables as the transformer uses them, [frames, height, width, 64]."""
    transformer = build_transformer()
    place_tokens(transformer, length, latent_frames)
    grid = (len(latent_frames) if latent_frames else length.grid[0], *length.grid[1:])
    cos, sin = transformer.rope(torch.zeros(1, 16, *grid))
    return cos.view(*grid, -1), sin.view(*grid, -1)


def test_lengths_are_what_their_names_say() -> None:
    assert {name: length.tokens for name, length in LENGTHS.items()} == {"short": 2304, "middle": 9216, "long": 21504}
    assert SHORT.shift == 3.0
    assert MIDDLE.shift == 6.0


def test_the_small_models_clips_have_diffusers_own_positions() -> None:
    transformer = WanTransformer3DModel.from_pretrained(PIPELINE_FOLDER / "transformer", local_files_only=True)
    before = [transformer.rope.freqs_cos.clone(), transformer.rope.freqs_sin.clone()]
    place_tokens(transformer, SHORT)
    torch.testing.assert_close([transformer.rope.freqs_cos, transformer.rope.freqs_sin], before)


def test_every_other_row_of_a_larger_clip_stands_where_a_row_of_the_small_one_stood() -> None:
    torch.testing.assert_close(
        [table[:, ::2, ::2] for table in positions(MIDDLE)], list(positions(SHORT)), rtol=1e-6, atol=1e-6
    )


def test_shown_latent_frames_stay_at_their_places() -> None:
    whole, some = positions(LONG), positions(LONG, [0, 7, 20])
    for table, shown in zip(whole, some, strict=True):
        torch.testing.assert_close(shown, table[[0, 7, 20]])
