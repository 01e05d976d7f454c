"""LTX-2, with its sound."""

from collections.abc import Mapping
from typing import Any

from adaspa_api.words import Role
from adaspa_jobs.job import JobParams
from diffusers import LTX2ConditionPipeline, LTX2ImageToVideoPipeline, LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from PIL.Image import Image
from torch import Tensor

from adaspa_worker.engines.ltx import LTXEngine


class LTX2Engine(LTXEngine):
    """LTX-2 text-to-video pipelines, which also take a first and a last frame.

    They always denoise a sound beside the video, even if the file does not get it.
    """

    pipeline = LTX2Pipeline
    with_image: type | None = LTX2ImageToVideoPipeline
    with_last: type | None = LTX2ConditionPipeline
    """Pipeline like ``with_image``, for a job with a last frame."""
    vaes = ("vae", "audio_vae")
    schedulers = ("scheduler", "audio_scheduler")
    last_frame_first = False

    def pipeline_with(self, images: Mapping[Role, Image]) -> type | None:
        return self.with_last if Role.last in images else self.with_image

    def pictures(self, params: JobParams, images: Mapping[Role, Image]) -> dict[str, Any]:
        return conditions(images) if Role.last in images else super().pictures(params, images)

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
    """LTX-2 pipelines of text, of a first frame, of a last one or of both."""

    pipeline = LTX2ConditionPipeline
    with_image = None
    with_last = None

    def pictures(self, params: JobParams, images: Mapping[Role, Image]) -> dict[str, Any]:
        return conditions(images)


def conditions(images: Mapping[Role, Image]) -> dict[str, Any]:
    """The argument of the condition pipeline's call."""
    places = {Role.first: 0, Role.last: -1}  # among the frames of the latents
    return {"conditions": [LTX2VideoCondition(image, places[role]) for role, image in images.items()] or None}
