"""The tiles of a VAE's decoding, dealt to several processes: the clip, seams and all, is that of one of them."""

from typing import Any

import pytest
import torch
from adaspa_worker.engines.tiles import Following, Leading, Place, dealt
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo
from tiny_wan import make_vae

TILE = 32
"""Pixels."""


def wan() -> Any:
    """It decodes each tile frame by frame."""
    made = make_vae()
    made.enable_tiling(TILE, TILE, TILE // 2, TILE // 2)
    return made


def cogvideox() -> Any:
    """It decodes each tile some frames at a time, with a cache from one call to the next."""
    made = AutoencoderKLCogVideoX(latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=4)
    made.enable_tiling(TILE, TILE, 0.5, 0.5)
    return made


def hunyuan_video() -> Any:
    """Its tiles are in time, too."""
    made = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=4
    )
    made.enable_tiling(TILE, TILE, 8, TILE // 2, TILE // 2, 4)
    return made


@pytest.mark.parametrize(("build", "processes"), [(wan, 2), (cogvideox, 3), (hunyuan_video, 3)])
@torch.no_grad()
def test_tiles_that_several_processes_decode_make_the_clip_of_one(build: Any, processes: int) -> None:
    torch.manual_seed(0)
    vae = build().eval()
    latents = torch.randn(1, 4, 3, 7, 6)
    whole = vae.decode(latents, return_dict=False)[0]
    sent: dict[Place, torch.Tensor] = {}
    counts = []

    def send(place: Place, part: torch.Tensor) -> None:
        sent[place] = part.clone()  # blending writes over it

    for rank in range(1, processes):
        with dealt(vae.decoder, Following(rank, processes, send)):
            vae.decode(latents, return_dict=False)
        counts.append(len({place.tile for place in sent}))
    with dealt(vae.decoder, Leading(processes, sent.pop)):
        torch.testing.assert_close(vae.decode(latents, return_dict=False)[0], whole, rtol=0, atol=0)
    assert not sent and counts[0] >= 2, "all that was sent was used, and each had tiles to decode"
    torch.testing.assert_close(vae.decode(latents, return_dict=False)[0], whole, rtol=0, atol=0)
