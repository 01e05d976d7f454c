"""MiniMax-H3, with its sound: a modular pipeline alone."""

from pathlib import Path
from typing import Any

from adaspa_jobs.job import JobParams
from diffusers import MiniMaxH3ModularPipeline
from torch import Tensor
from transformers import Qwen3VLProcessor

from adaspa_worker.engines.modular import ModularEngine


class ImageProcessor(Qwen3VLProcessor):
    """Processor of the text encoder without its part for videos, which needs torchvision and sees references only."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class MiniMaxH3Engine(ModularEngine):
    """MiniMax-H3 from a text, a first frame, a last one or both. Its guidance is in its weights."""

    pipeline = MiniMaxH3ModularPipeline
    vaes = ("vae", "audio_vae")
    schedulers = ("scheduler", "audio_scheduler")

    def own_components(self, folder: Path) -> dict[str, Any]:
        return {"processor": ImageProcessor.from_pretrained(folder / "processor", local_files_only=True)}

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
