"""LTX-2, without its sound."""

from diffusers import LTX2Pipeline

from adaspa_worker.engines.ltx import LTXEngine


class LTX2Engine(LTXEngine):
    """LTX-2 text-to-video pipelines. They denoise a sound beside the video, which the file does not get yet."""

    pipeline = LTX2Pipeline
