"""CogVideoX and CogVideoX 1.5."""

from typing import Any

import torch
from adaspa_jobs.job import JobParams
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from torch import Tensor

from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.engines.given import Asked


class CogVideoXEngine(DiffusersEngine):
    """CogVideoX text-to-video pipelines. Their latents have the frames before the channels."""

    pipeline = CogVideoXPipeline
    guidance = "batch"

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, (_, rows, columns) = asked.transformer, asked.grid
        along, patch = config.get("patch_size_t") or 1, config["patch_size"]
        frames = -(-((asked.params.num_frames - 1) // config["temporal_compression_ratio"] + 1) // along) * along
        places = frames // along * (rows // patch) * (columns // patch)
        given: dict[str, Any] = {
            "hidden_states": asked.new(frames, config["in_channels"], rows, columns),
            "timestep": asked.new(),
            "encoder_hidden_states": asked.new(config["max_text_seq_length"], config["text_embed_dim"]),
        }
        if config.get("use_rotary_positional_embeddings"):
            table = torch.empty(places, config["attention_head_dim"], device="meta")
            given["image_rotary_emb"] = (table, torch.empty_like(table))
        return given | ({"ofs": asked.new()[:1]} if config.get("ofs_embed_dim") else {})

    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        # CogVideoX 1.5 denoises a whole number of its patches in time; what is too much comes first.
        wanted = (params.num_frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        return latents[:, latents.shape[1] - wanted :].transpose(1, 2) / float(self.pipe.vae_scaling_factor_image)


class CogVideoXImageEngine(CogVideoXEngine):
    """CogVideoX image-to-video pipelines."""

    pipeline = CogVideoXImageToVideoPipeline
