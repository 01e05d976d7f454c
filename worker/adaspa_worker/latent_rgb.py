"""A linear map from a VAE's latents to small RGB frames: a preview for a fraction of a decode.

Each latent vector of C channels becomes a tile of PATCH x PATCH pixels: tile = [latent, 1] @ weight. The weight is the
least-squares solution over clips that the VAE has encoded itself. A model's folder may bring its own,
``vae/latent_rgb.safetensors``; any other VAE is fitted to random shapes when the model is loaded, on a GPU, where that
takes no time that matters.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

FILE = "latent_rgb.safetensors"
PATCH = 4
"""Pixels of the preview for a latent, in each direction."""
CLIPS, SIDE = 6, 256
"""Random clips that an unknown VAE is fitted to, and their side in pixels."""
RIDGE = 1e-3


class LatentRGB:
    """Map of one VAE.

    Args:
        weight: [C + 1, 3 * PATCH * PATCH], for latents as the VAE's decoder takes them.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.float()

    @classmethod
    def fit(cls, latents: Tensor, video: Tensor) -> "LatentRGB":
        """Fit the best map for clips.

        Args:
            latents: of the clips, [B, C, T, h, w].
            video: their frames, [B, 3, F, H, W] in [-1, 1].
        """
        known = _with_one(latents.float())
        target = small_frames(video.float(), latents)
        # One weight for all: the solution of (K'K + r) W = K'T, in double precision because channels correlate.
        gram, right = (known.mT @ known).double(), (known.mT @ target).double()
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return cls(torch.linalg.solve(gram + ridge, right))

    @classmethod
    def load(cls, folder: Path) -> "LatentRGB | None":
        """Load the map that a model's folder brings, if it does."""
        path = folder / "vae" / FILE
        return cls(load_file(path)["weight"]) if path.is_file() else None

    def save(self, folder: Path) -> None:
        """Put the map into a model's folder."""
        save_file({"weight": self.weight.cpu().contiguous()}, folder / "vae" / FILE)

    def to(self, device: torch.device) -> "LatentRGB":
        """Copy the map to another device."""
        return LatentRGB(self.weight.to(device))

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Frames of one clip's latents [1, C, T, h, w]: uint8 [T, h * PATCH, w * PATCH, 3]."""
        _, _, frames, height, width = latents.shape
        tiles = _with_one(latents.float()) @ self.weight
        tiles = tiles.view(frames, height, width, PATCH, PATCH, 3).transpose(2, 3)
        pixels = tiles.reshape(frames, height * PATCH, width * PATCH, 3)
        return (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


def small_frames(video: Tensor, latents: Tensor) -> Tensor:
    """Return what each latent is to become: [B * T * h * w, PATCH * PATCH * 3], its frames shrunk and averaged."""
    batch, _, frames, height, width = latents.shape
    size = (frames, height * PATCH, width * PATCH)
    small = F.interpolate(_first_frame_held(video, frames), size=size, mode="area")
    tiles = small.view(batch, 3, frames, height, PATCH, width, PATCH)
    return tiles.permute(0, 2, 3, 5, 4, 6, 1).reshape(-1, PATCH * PATCH * 3)


def _first_frame_held(video: Tensor, frames: int) -> Tensor:
    """Repeat the video's first frame so that each latent frame has the same number of frames.

    The first latent of a causal VAE stands for one frame, the others for several.
    """
    each = -(-video.shape[2] // frames)
    return torch.cat([video[:, :, :1].expand(-1, -1, frames * each - video.shape[2], -1, -1), video], dim=2)


def _with_one(latents: Tensor) -> Tensor:
    rows = latents.permute(0, 2, 3, 4, 1).reshape(-1, latents.shape[1])
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def random_clips(frames: int, device: torch.device) -> Tensor:
    """Smooth backgrounds with a drifting rectangle: [CLIPS, 3, frames, SIDE, SIDE] in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    backgrounds = torch.rand(CLIPS, 3, 4, 4, generator=generator) * 2 - 1
    clips = F.interpolate(backgrounds, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)
    video = clips.unsqueeze(2).repeat(1, 1, frames, 1, 1)
    for clip in video:
        top, left = torch.randint(0, SIDE // 2, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator) * 2 - 1
        for i in range(frames):
            clip[:, i, top : top + SIDE // 3, left + 2 * i : left + 2 * i + SIDE // 3] = colour
    return video.to(device)


@torch.no_grad()
def fit_to(encode: Callable[[Tensor], Tensor], frames: int, device: torch.device) -> LatentRGB:
    """Fit the map of a VAE that nobody has fitted yet.

    Args:
        encode: a clip [1, 3, frames, SIDE, SIDE] to latents [1, C, T, h, w].
        frames: a number of frames that gives the VAE two latent frames at least.
        device: where the VAE is.
    """
    video = random_clips(frames, device)
    latents = torch.cat([encode(clip.unsqueeze(0)) for clip in video])
    return LatentRGB.fit(latents, video)
