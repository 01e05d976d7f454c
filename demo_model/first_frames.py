"""Image-to-video for an evaluation: an image for each prompt, and what the weights must reach before they ship."""

import hashlib
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from torch import Tensor, nn

from demo_model.scenes import Scene, draw

FIRST_FRAME_PSNR = 30.0  # dB, the mean over the cases
RIGHT = 0.9  # of the colours, shapes and motions


class FirstFramesPipeline(WanImageToVideoPipeline):
    """Takes an image and a generator for each prompt; diffusers' own has one image for all of them."""

    def prepare_latents(self, image: Tensor, batch_size: int, *args: Any) -> tuple[Tensor, ...]:
        *sizes, generators, latents, last_image = args
        each = [
            super(FirstFramesPipeline, self).prepare_latents(one[None], 1, *sizes, generator, latents, last_image)
            for one, generator in zip(image, generators, strict=True)
        ]
        return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


def first_frame(scene: Scene) -> Tensor:
    """The image that a drawn scene begins with: uint8 [height, width, 3]."""
    video = (draw([scene], frames=1)[0, :, 0] + 1.0) * 127.5
    return video.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def shortfalls(modes: dict[str, dict[str, Any]]) -> list[str]:
    """What the figures of an evaluation's modes lack of what they must reach."""
    short = []
    for mode, figures in modes.items():
        reached = {"first_frame_psnr": (figures["first_frame_psnr"], FIRST_FRAME_PSNR)}
        reached |= {name: (figures["right"][name], RIGHT) for name in ("color", "shape", "motion")}
        short += [f"{mode}: {name} {at:.3g} of {least:g}" for name, (at, least) in reached.items() if at < least]
    return short


def digest(transformer: nn.Module) -> str:
    """The SHA-256 of the weights in half precision, as they ship, by name: whatever files they come in."""
    weights = {name: value.detach().cpu().half() for name, value in transformer.state_dict().items()}
    return digest_of(weights)


def digest_of(weights: dict[str, Tensor]) -> str:
    """The SHA-256 of named tensors, in the order of their names."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode())
        whole.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
