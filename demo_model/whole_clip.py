"""The demo VAE on whole clips at once: what `AutoencoderKLWan.encode` and `decode` compute, in a few large kernels.

Diffusers walks a clip in chunks of four frames and carries each causal convolution's last frames along, which bounds
the memory of a long clip and launches thousands of small kernels for a short one. Every convolution is causal, so one
pass over the whole clip computes the same; only the temporal resampling has to know that the first frame stands alone.
"""

from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from torch import Tensor


def allow_whole_clips(vae: AutoencoderKLWan) -> None:
    """Make `encode_clip` and `decode_clip` work on `vae`; its own `encode` and `decode` stay as they are."""
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample, module)


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the latents, each [B, 16, 1 + (F - 1) / 4, H / 8, W / 8], of `video` [B, 3, F, H, W]."""
    mean, log_variance = vae.quant_conv(vae.encoder(patchify(video, vae.config.patch_size))).chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video [B, 3, F, H, W] of `latents`, not clamped to -1..1: the training's loss needs the gradient beyond."""
    return unpatchify(vae.decoder(vae.post_quant_conv(latents)), vae.config.patch_size)


def _resample(self: Any, x: Tensor, feat_cache: list[Any] | None = None, feat_idx: list[int] | None = None) -> Tensor:
    """`WanResample.forward`; without a cache `x` [B, C, F, H, W] is a whole clip."""
    if feat_cache is not None:
        return WanResample.forward(self, x, feat_cache, feat_idx)
    if self.mode == "upsample3d" and x.shape[2] > 1:
        first, rest = x[:, :, :1], x[:, :, 1:]
        pairs = self.time_conv(rest).unflatten(1, (2, -1))  # two frames for one
        x = torch.cat([first, torch.stack([pairs[:, 0], pairs[:, 1]], dim=3).flatten(2, 3)], dim=2)
    frames = x.shape[2]
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, frames)).transpose(1, 2)
    if self.mode == "downsample3d" and frames > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
    return x
