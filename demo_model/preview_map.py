"""Fit the demo VAE's map from latents to preview frames: ``python -m demo_model.preview_map``."""

import random

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_worker.latent_rgb import LatentRGB, small_frames
from diffusers import AutoencoderKLWan

from demo_model.scenes import draw, sample_scenes
from demo_model.whole_clip import allow_whole_clips, encode_clip

FITTED, HELD_OUT = 48, 16
"""Clips that the map is fitted to, and others that it is judged by."""
SEED = 1


@torch.no_grad()
def main() -> None:
    """Fit the map to drawn scenes, print how near it comes on others, and put it beside the VAE."""
    vae = AutoencoderKLWan.from_pretrained(PIPELINE_FOLDER / "vae")
    video = draw(sample_scenes(random.Random(SEED), FITTED + HELD_OUT))
    allow_whole_clips(vae)
    latents = torch.cat([encode_clip(vae, clip.unsqueeze(0))[0] for clip in video])
    latent_rgb = LatentRGB.fit(latents[:FITTED], video[:FITTED])
    latent_rgb.save(PIPELINE_FOLDER)
    print(f"PSNR {psnr(latent_rgb, latents[FITTED:], video[FITTED:]):.1f} dB on {HELD_OUT} clips it was not fitted to")


def psnr(latent_rgb: LatentRGB, latents: torch.Tensor, video: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of previews against the shrunk frames they stand for."""
    shown = torch.cat([latent_rgb(clip.unsqueeze(0)) for clip in latents]).float() / 127.5 - 1
    batch, _, frames, height, width = latents.shape
    patch = shown.shape[1] // height
    wanted = small_frames(video, latents).view(batch * frames, height, width, patch, patch, 3)
    error = (shown - wanted.transpose(2, 3).reshape(shown.shape)).square().mean()
    return float(10 * torch.log10(4 / error))


if __name__ == "__main__":
    main()
