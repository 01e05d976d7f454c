"""The long demo model: its pipeline, and videos of any of its lengths."""

from pathlib import Path

import torch
import torch.nn.functional as F
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor

from demo_model.architecture import TEXT_LENGTHS
from demo_model.first_frames import digest
from demo_model.long_clips import SHORT, Length, place_tokens
from demo_model.whole_clip import allow_whole_clips, decode_clip

DECODED = 4
"""Clips that are decoded together."""


def load(transformer: Path, device: torch.device, dtype: str) -> WanPipeline:
    """The demo pipeline with the transformer of a folder in `dtype`, the rest in float32; it draws whole clips."""
    weights = WanTransformer3DModel.from_pretrained(transformer, dtype=getattr(torch, dtype), local_files_only=True)
    pipe = WanPipeline.from_pretrained(PIPELINE_FOLDER, transformer=weights, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    allow_whole_clips(pipe.vae)
    return pipe.to(device)


def digest_of(transformer: Path) -> str:
    """The digest of a transformer's weights as its folder has them."""
    return digest(WanTransformer3DModel.from_pretrained(transformer, dtype=torch.float32, local_files_only=True))


@torch.no_grad()
def draw(
    pipe: WanPipeline, texts: list[str], seeds: list[int], steps: int, guidance: float, *, length: Length
) -> Tensor:
    """Videos of `texts`, each from the noise of its own seed: uint8 [len(texts), frames, side, side, 3] on the CPU."""
    place_tokens(pipe.transformer, length)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=length.shift)
    latents = pipe(
        prompt=texts,
        height=length.side,
        width=length.side,
        num_frames=length.frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        max_sequence_length=TEXT_LENGTHS[0],
        output_type="latent",
    ).frames
    return torch.cat([_decode(pipe, part) for part in latents.split(DECODED)])


def _decode(pipe: WanPipeline, latents: Tensor) -> Tensor:
    config = pipe.vae.config
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    video = decode_clip(pipe.vae, latents.float() * std + mean).clamp(-1.0, 1.0)
    return ((video + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu()


def as_short(videos: Tensor) -> Tensor:
    """`videos` [B, frames, side, side, 3] at the size and the number of frames of the small model's: uint8."""
    kept = torch.linspace(0, videos.shape[1] - 1, SHORT.frames).round().long()
    frames = videos[:, kept].flatten(0, 1).permute(0, 3, 1, 2).float()
    reduced = F.interpolate(frames, (SHORT.side, SHORT.side), mode="area").round().to(torch.uint8)
    return reduced.permute(0, 2, 3, 1).unflatten(0, (len(videos), SHORT.frames))
