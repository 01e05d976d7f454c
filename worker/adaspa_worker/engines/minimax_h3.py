"""MiniMax-H3, with its sound: a modular pipeline alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from adaspa_api.words import Role, Task
from adaspa_jobs.job import JobParams
from diffusers import MiniMaxH3ModularPipeline
from diffusers.modular_pipelines.minimax_h3 import (
    MiniMaxH3AudioReference,
    MiniMaxH3ImageReference,
)
from diffusers.modular_pipelines.minimax_h3.modular_pipeline import MINIMAX_H3_AUDIO_CHANNELS, audio_latent_num_frames
from diffusers.modular_pipelines.minimax_h3.references import MiniMaxH3Reference
from torch import Tensor
from transformers import Qwen3VLProcessor

from adaspa_worker.engines.given import Asked
from adaspa_worker.engines.modular import ModularEngine
from adaspa_worker.pipeline import Given
from adaspa_worker.sound import Sound

TEXT = 1024
"""Rows of a prompt, which is cut off nowhere and is hardly ever longer."""
IMAGES = {Task.image_to_video: 1, Task.first_last_frame: 2}
"""Images of a task's requests at most."""
TIMESTEPS = 4
"""Different ones in a forward at most: those of the video, of the sound, of given images and of given sound."""
META = torch.device("meta")


class ImageProcessor(Qwen3VLProcessor):
    """Processor of the text encoder without its part for videos, which needs torchvision and sees references only."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class MiniMaxH3Engine(ModularEngine):
    """MiniMax-H3 from a text, a first frame, a last one or both; or with references, by a transformer for these.

    Its guidance is in its weights.
    """

    pipeline = MiniMaxH3ModularPipeline
    vaes = ("vae", "audio_vae")
    schedulers = ("scheduler", "audio_scheduler")
    guidance = "input"
    decodes_alike_after = 12  # two parts that overlap

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, (frames, rows, columns) = asked.transformer, asked.grid
        along, down, across = config["patch_size"]
        place = (rows // down) * (columns // across)
        images = place * max(IMAGES.get(task, 0) for task in asked.spec.tasks)
        if any(Role.reference in task.roles for task in asked.spec.tasks):
            images = seen(asked)
        video = frames // along * place + images
        text = TEXT + images  # its encoder sees the images, too
        sound = MINIMAX_H3_AUDIO_CHANNELS * audio_latent_num_frames(asked.params.num_frames)
        sound *= 2 if any(Role.audio in task.roles for task in asked.spec.tasks) else 1
        rows_of = {"video": video, "audio": sound, "text": text}
        length = sum(rows_of.values())
        return {
            "hidden_states": asked.new(video, config["in_channels"] * along * down * across),
            "audio_hidden_states": asked.new(sound, config["audio_in_channels"]),
            "encoder_hidden_states": asked.new(text, config["text_dim"]),
            "timestep": torch.empty(TIMESTEPS, device=META),
            "position_ids": torch.empty(length, 3, dtype=torch.float64, device=META),
            "timestep_indices": places(length),
            "token_tags": places(length),
            **{f"{name}_indices": places(count) for name, count in rows_of.items()},
        }

    def own_components(self, folder: Path) -> dict[str, Any]:
        return {"processor": ImageProcessor.from_pretrained(folder / "processor", local_files_only=True)}

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        if Role.reference not in images:
            return super().pictures(params, images)
        return {"references": [self.reference(images[role]) for role in (Role.reference, Role.audio) if role in images]}

    def reference(self, given: Given) -> MiniMaxH3Reference:
        """Return an image or a sound as the pipeline has it; the sound at the rate of its VAE."""
        if not isinstance(given, Sound):
            return MiniMaxH3ImageReference(given)
        rate = self.pipe.audio_sampling_rate
        return MiniMaxH3AudioReference(torch.from_numpy(given.at(rate).samples), rate)

    def arguments(self, params: JobParams) -> dict[str, Any]:
        # It counts the noise levels, the last of which, none, is no step.
        return {"num_inference_steps": params.steps + 1}

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        sizes = (self.state.get(name) for name in ("num_latent_frames", "latent_height", "latent_width"))
        grid = (size // patch for size, patch in zip(sizes, self.pipe.patch_size, strict=True))
        patches = latents.view(*grid, -1, *self.pipe.patch_size)
        whole = patches.permute(3, 0, 4, 1, 5, 2, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2).unsqueeze(0)
        config = self.pipe.vae.config
        mean, std = (whole.new_tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
        return whole * std + mean

    def for_vae(self, clip: Tensor) -> Tensor:
        mean, std = (clip.new_tensor(each).view(3, 1, 1, 1) for each in (self.pipe.pixel_mean, self.pipe.pixel_std))
        return (clip / 2 + 0.5 - mean) / std

    def pixels(self, frame: Tensor) -> Tensor:
        mean, std = (frame.new_tensor(each).view(3, 1, 1) for each in (self.pipe.pixel_mean, self.pipe.pixel_std))
        return frame * std + mean

    def waveform(self) -> tuple[Tensor, int]:
        ((latents,),) = self._beside  # a channel of the sound each
        decoded = self.pipe.audio_vae.decode(latents.to(self.device), return_dict=False)[0]
        return decoded.float()[:, 0], self.pipe.audio_sampling_rate


def seen(asked: Asked) -> int:
    """Count the rows of a reference image: of the job's, or else of one of the clip's shape."""
    given = next((each for each in asked.params.inputs if each.role is Role.reference), asked.params)
    assert given.width is not None and given.height is not None
    scale = asked.index.get("reference_image_short_edge", 2048) / min(given.width, given.height)
    return math.prod(max(1, round(side * scale / asked.limits.side)) for side in (given.width, given.height))


def places(count: int) -> Tensor:
    """Make numbers ``[count]`` of rows, on the meta device."""
    return torch.empty(count, dtype=torch.long, device=META)
