"""Registry of model families: the engine of each, found by its pipeline's class, and what it can make.

All of it comes from the configurations in the model's folder alone: importing a pipeline takes many seconds.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaspa_api.words import Task

from adaspa_worker.hub import first_line, index_of, unused
from adaspa_worker.source import ModelUnavailable

Config = Mapping[str, Any]
Tasks = frozenset[Task]
TRANSFORMERS = ("transformer", "transformer_2", "transformer_ref")
"""Names that diffusers' pipelines give to the transformers of a job, in the order in which they run."""
TEXT, IMAGE = frozenset({Task.text_to_video}), frozenset({Task.image_to_video})
IMAGES = IMAGE | {Task.first_last_frame}
INPUTS = IMAGES | {Task.video_continuation}
"""Tasks of a text, of a first frame, of one frame or two, and of those or a video."""


@dataclass(frozen=True)
class Limits:
    """Limits of what a model can make.

    Args:
        side: height and width are multiples of it, in pixels.
        every, first: the number of frames is ``first`` and a multiple of ``every``.
        each, last: latent frames that ``every`` frames become, and ``first``.
        least: the fewest frames.
        width, height, frames: at most.
        fps: the one number of frames a second that it makes.
        only_size: the one that there is, as WIDTHxHEIGHT.
        text: the one length that encoded texts may have, in tokens.
        steps: the fewest denoising steps.
        guided: whether a guidance scale has an effect.
        distilled: whether that is an input of the model, so that a negative prompt needs a ``true_cfg_scale``.
    """

    side: int
    every: int
    first: int = 1
    each: int = 1
    last: int = 1
    least: int = 1
    width: float = math.inf
    height: float = math.inf
    frames: float = math.inf
    fps: int | None = None
    only_size: str | None = None
    text: int | None = None
    steps: int = 1
    guided: bool = True
    distilled: bool = False


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        engine: its class, after its module in ``engines``.
        transformer: its class of diffusers.
        limits: of a model, by the configurations of its VAE and its transformer.
        tasks: what it can be asked for; if models differ, by the configurations of the pipeline and the transformer.
        compiles: whether diffusers knows which blocks of its transformer to compile.
        own_schedule: whether the pipeline gives the scheduler its noise levels, which no shift is to move.
        sound: whether it makes a sound beside the video.
        branches: whether its two guidance branches can be computed side by side.
    """

    engine: str
    transformer: str
    limits: Callable[[Config, Config], Limits]
    tasks: Tasks | Callable[[Config, Config], Tasks] = TEXT
    compiles: bool = True
    own_schedule: bool = False
    sound: bool = False
    branches: bool = False

    def tasks_of(self, pipeline: Config, transformer: Config) -> Tasks:
        """Return what a model with these configurations can be asked for."""
        return self.tasks(pipeline, transformer) if callable(self.tasks) else self.tasks


def wan(vae: Config, transformer: Config) -> Limits:
    patch_frames, patch, _ = transformer["patch_size"]
    side, every = vae.get("scale_factor_spatial", 8) * patch, vae.get("scale_factor_temporal", 4)
    places = transformer["rope_max_seq_len"]  # of the rotary positions, along each axis
    return Limits(
        side, every, width=places * side, height=places * side, frames=(places * patch_frames - 1) * every + 1
    )


def frames_or_references(pipeline: Config, transformer: Config) -> Tasks:
    references = {Task.reference_to_video, Task.reference_audio_to_video} if "transformer_ref" in pipeline else set()
    return TEXT | IMAGES | references


def wan_text_tasks(pipeline: Config, transformer: Config) -> Tasks:
    with_image: Tasks = IMAGE if pipeline.get("expand_timesteps") else frozenset()  # the 5B
    return TEXT | with_image


def wan_image_tasks(pipeline: Config, transformer: Config) -> Tasks:
    # Where an encoder sees the image, the transformer has to know places for a second one.
    one = transformer.get("image_dim") is not None and transformer.get("pos_embed_seq_len") is None
    return IMAGE if one or pipeline.get("expand_timesteps") else IMAGES


def hunyuan_video_image_tasks(pipeline: Config, transformer: Config) -> Tasks:
    return IMAGE if transformer.get("image_condition_type") else frozenset()


def hunyuan_video(vae: Config, transformer: Config) -> Limits:
    side = vae["spatial_compression_ratio"] * transformer["patch_size"]
    guided = transformer.get("guidance_embeds", True)
    return Limits(side, vae["temporal_compression_ratio"], guided=guided, distilled=True)


def hunyuan_video15(vae: Config, transformer: Config) -> Limits:
    return Limits(vae["spatial_compression_ratio"] * transformer["patch_size"], vae["temporal_compression_ratio"])


def cogvideox(vae: Config, transformer: Config) -> Limits:
    pixels = 2 ** (len(vae["block_out_channels"]) - 1)
    side = pixels * transformer["patch_size"]
    # The VAE decodes latent frames in pairs, and gives one frame for the first only where it has no partner.
    every = 2 * int(vae["temporal_compression_ratio"])
    width, height = (pixels * transformer[name] for name in ("sample_width", "sample_height"))
    text = transformer["max_text_seq_length"]
    if transformer.get("use_learned_positional_embeddings"):
        return Limits(side, every, only_size=f"{width}x{height}", text=text)
    if transformer.get("patch_size_t"):  # CogVideoX 1.5 has its positions cut out of those that it was trained with
        return Limits(side, every, width=width, height=height)
    return Limits(side, every, text=None if transformer.get("use_rotary_positional_embeddings") else text)


def ltx(vae: Config, transformer: Config) -> Limits:
    halved = 2 ** sum(vae["spatio_temporal_scaling"])
    side = vae.get("spatial_compression_ratio") or vae["patch_size"] * halved
    every = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * halved
    return Limits(side * transformer["patch_size"], every * transformer["patch_size_t"])


def minimax_h3(vae: Config, transformer: Config) -> Limits:
    side = math.prod(vae["spatial_downsample_factors"]) * transformer["patch_size"][-1]
    clip = vae["clip_length"]  # frames that become one group of latents; behind the last there is a rest of them
    rest = math.ceil(clip / math.prod(vae["temporal_downsample_factors"]))
    fps, seconds = 24, (5, 15)  # the pipeline has these written down
    least, most = (time * fps for time in seconds)
    behind = {"first": rest, "each": rest, "last": rest - vae["token_drop"]}
    return Limits(side, clip, **behind, least=least, frames=most, fps=fps, guided=False, distilled=True)


def mochi(vae: Config, transformer: Config) -> Limits:
    # The pipeline has the first two written down, and its schedule divides by half the steps, rounded down.
    return Limits(side=16, every=6, steps=2)


FAMILIES = {
    "CogVideoXImageToVideoPipeline": Family(
        "cogvideox.CogVideoXImageEngine", "CogVideoXTransformer3DModel", cogvideox, IMAGE, compiles=False
    ),
    "CogVideoXPipeline": Family("cogvideox.CogVideoXEngine", "CogVideoXTransformer3DModel", cogvideox, compiles=False),
    "HunyuanVideo15ImageToVideoPipeline": Family(
        "hunyuan_video15.HunyuanVideo15ImageEngine", "HunyuanVideo15Transformer3DModel", hunyuan_video15, IMAGE
    ),
    "HunyuanVideo15Pipeline": Family(
        "hunyuan_video15.HunyuanVideo15Engine", "HunyuanVideo15Transformer3DModel", hunyuan_video15
    ),
    "HunyuanVideoImageToVideoPipeline": Family(
        "hunyuan_video.HunyuanVideoImageEngine",
        "HunyuanVideoTransformer3DModel",
        hunyuan_video,
        hunyuan_video_image_tasks,
    ),
    "HunyuanVideoPipeline": Family("hunyuan_video.HunyuanVideoEngine", "HunyuanVideoTransformer3DModel", hunyuan_video),
    "LTX2ConditionPipeline": Family(
        "ltx2.LTX2ConditionEngine", "LTX2VideoTransformer3DModel", ltx, TEXT | INPUTS, sound=True
    ),
    "LTX2ImageToVideoPipeline": Family("ltx2.LTX2ImageEngine", "LTX2VideoTransformer3DModel", ltx, INPUTS, sound=True),
    "LTX2Pipeline": Family("ltx2.LTX2Engine", "LTX2VideoTransformer3DModel", ltx, TEXT | INPUTS, sound=True),
    "LTXConditionPipeline": Family(
        "ltx.LTXConditionEngine", "LTXVideoTransformer3DModel", ltx, TEXT | INPUTS, own_schedule=True
    ),
    "LTXImageToVideoPipeline": Family("ltx.LTXImageEngine", "LTXVideoTransformer3DModel", ltx, IMAGE, branches=True),
    "LTXPipeline": Family("ltx.LTXEngine", "LTXVideoTransformer3DModel", ltx, TEXT | IMAGE, branches=True),
    "MiniMaxH3ModularPipeline": Family(
        "minimax_h3.MiniMaxH3Engine", "MiniMaxH3Transformer3DModel", minimax_h3, frames_or_references, sound=True
    ),
    "MochiPipeline": Family("mochi.MochiEngine", "MochiTransformer3DModel", mochi, compiles=False),
    "WanImageToVideoPipeline": Family(
        "wan.WanImageEngine", "WanTransformer3DModel", wan, wan_image_tasks, branches=True
    ),
    "WanModularPipeline": Family("wan_modular.WanModularEngine", "WanTransformer3DModel", wan),
    "WanPipeline": Family("wan.WanEngine", "WanTransformer3DModel", wan, wan_text_tasks, branches=True),
    "WanVACEPipeline": Family(
        "wan_vace.WanVACEEngine", "WanVACETransformer3DModel", wan, TEXT | {Task.reference_to_video}
    ),
}
"""Families by the diffusers class of their pipeline, which a model's folder names."""


def pipeline_of(folder: Path) -> str:
    """Return the pipeline's class of a model's folder, one of ``FAMILIES``. Raises ModelUnavailable."""
    try:
        name = read(index_of(folder)).get("_class_name")
    except (OSError, ValueError, TypeError) as error:
        raise ModelUnavailable(f"{folder}: cannot be loaded ({first_line(error)})") from error
    if name not in FAMILIES:
        raise ModelUnavailable(f"{folder}: contains a {name}, which is not supported; allowed: {', '.join(FAMILIES)}")
    return str(name)


def limits_of(folder: Path) -> Limits:
    """Return what the model in a folder can make. Raises KeyError where its configurations lack something."""
    limits = FAMILIES[pipeline_of(folder)].limits
    return limits(read(folder / "vae" / "config.json"), transformer_of(folder))


def transformer_of(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model's first transformer; that of a second one is the same."""
    return read(next(file for name in TRANSFORMERS if (file := folder / name / "config.json").is_file()))


def transformers_of(folder: Path, tasks: Sequence[Task]) -> list[str]:
    """Return the names of the transformers in a model's folder that run its tasks."""
    left_out = unused(read(index_of(folder)), tasks)
    return [name for name in TRANSFORMERS if (folder / name).is_dir() and name != left_out]


def read(file: Path) -> dict[str, Any]:
    """Return a JSON file's object."""
    found = json.loads(file.read_text())
    if not isinstance(found, dict):
        raise TypeError(f"{file} is not a JSON object")
    return found
