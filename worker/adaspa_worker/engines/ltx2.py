"""LTX-2, with its sound."""

from collections.abc import Mapping
from typing import Any

from adaspa_api.words import Role
from adaspa_jobs.job import JobParams
from diffusers import LTX2ConditionPipeline, LTX2ImageToVideoPipeline, LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from torch import Tensor

from adaspa_worker.engines.given import Asked
from adaspa_worker.engines.ltx import LTXEngine
from adaspa_worker.pipeline import Given

SOUND_RATE = 25
"""Rows of sound a second."""


class LTX2Engine(LTXEngine):
    """LTX-2 text-to-video pipelines, which also take a first and a last frame, or a video to continue.

    They always denoise a sound beside the video, even if the file does not get it.
    """

    pipeline = LTX2Pipeline
    with_image: type | None = LTX2ImageToVideoPipeline
    with_last: type | None = LTX2ConditionPipeline
    """Pipeline like ``with_image``, for a job with more than a first frame."""
    vaes = ("vae", "audio_vae")
    schedulers = ("scheduler", "audio_scheduler")
    last_frame_first = False

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any]:
        config, text = asked.transformer, asked.text(1024)
        sound = round(asked.params.num_frames / asked.params.fps * SOUND_RATE)
        texts = {"encoder_hidden_states": asked.new(text, config["caption_channels"])}
        texts |= {"encoder_attention_mask": asked.mask(text)}
        return {
            **super().given(asked),
            **texts,
            **{f"audio_{name}": value for name, value in texts.items()},
            "audio_hidden_states": asked.new(sound, config["audio_in_channels"]),
            "fps": float(asked.params.fps),
            "audio_num_frames": sound,
        }

    def pipeline_with(self, images: Mapping[Role, Given]) -> type | None:
        return self.with_image if set(images) == {Role.first} else self.with_last

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        return super().pictures(params, images) if set(images) <= {Role.first} else conditions(images)

    def waveform(self) -> tuple[Tensor, int]:
        vae, vocoder = self.pipe.audio_vae, self.pipe.vocoder
        ((latents,),) = self._beside
        try:
            spectrograms = vae.decode(latents.to(self.device, vae.dtype), return_dict=False)[0]
            return vocoder(spectrograms)[0].float(), vocoder.config.output_sampling_rate
        finally:
            self.let_go()


class LTX2ImageEngine(LTX2Engine):
    """LTX-2 image-to-video pipelines."""

    pipeline = LTX2ImageToVideoPipeline
    with_image = None


class LTX2ConditionEngine(LTX2Engine):
    """LTX-2 pipelines of text, of a first frame, of a last one, of both, or of a video that goes on."""

    pipeline = LTX2ConditionPipeline
    with_image = None
    with_last = None

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        return conditions(images)


def conditions(images: Mapping[Role, Given]) -> dict[str, Any]:
    """Return the argument of the condition pipeline's call."""
    # The places are among the frames of the latents.
    given = [LTX2VideoCondition(image, -1 if role is Role.last else 0) for role, image in images.items()]
    return {"conditions": given or None}
