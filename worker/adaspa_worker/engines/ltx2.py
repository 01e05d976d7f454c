"""LTX-2, without its sound."""

from diffusers import LTX2ImageToVideoPipeline, LTX2Pipeline

from adaspa_worker.engines.ltx import LTXEngine


class LTX2Engine(LTXEngine):
    """LTX-2 text-to-video pipelines, which take a first frame too. They denoise a sound beside the video, which the
    file does not get yet."""

    pipeline = LTX2Pipeline
    with_image = LTX2ImageToVideoPipeline


class LTX2ImageEngine(LTX2Engine):
    """LTX-2 image-to-video pipelines."""

    pipeline = LTX2ImageToVideoPipeline
