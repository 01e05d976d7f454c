"""LTX-2, with its sound."""

import torch
from adaspa_jobs.job import JobParams
from diffusers import LTX2ImageToVideoPipeline, LTX2Pipeline

from adaspa_worker.engines.ltx import LTXEngine
from adaspa_worker.pipeline import NotFinite
from adaspa_worker.sound import Sound


class LTX2Engine(LTXEngine):
    """LTX-2 text-to-video pipelines, which take a first frame too. They denoise a sound beside the video, whether the
    file gets it or not."""

    pipeline = LTX2Pipeline
    with_image: type | None = LTX2ImageToVideoPipeline
    vaes = ("vae", "audio_vae")

    @torch.no_grad()
    def sound(self, params: JobParams) -> Sound | None:
        if not self.spec.gives_sound(params):
            return None
        vae, vocoder = self.pipe.audio_vae, self.pipe.vocoder
        ((latents,),) = self._beside
        try:
            spectrograms = vae.decode(latents.to(self.device, vae.dtype), return_dict=False)[0]
            waveform = vocoder(spectrograms)[0].float()
        finally:
            self.let_go()
        if not waveform.isfinite().all():
            raise NotFinite("the decoded sound is not finite")
        return Sound(waveform.clamp(-1, 1).cpu().numpy(), vocoder.config.output_sampling_rate)


class LTX2ImageEngine(LTX2Engine):
    """LTX-2 image-to-video pipelines."""

    pipeline = LTX2ImageToVideoPipeline
    with_image = None
