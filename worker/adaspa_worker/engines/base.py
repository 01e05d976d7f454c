"""Parts that all families share: encoding, denoising, decoding and previews of a loaded pipeline with AdaSpa."""

import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from adaspa.parallel import guidance
from adaspa_api.words import Role
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.step_cache import StepCache
from torch import Tensor

from adaspa_worker.attention import attention_config
from adaspa_worker.engines import in_groups, own_call, step_cache, tiles
from adaspa_worker.engines.ahead import ahead
from adaspa_worker.engines.decoding import decoding, frames_of, placed, watched
from adaspa_worker.engines.encodings import Encodings
from adaspa_worker.engines.given import Asked
from adaspa_worker.engines.loaded import LoadedModel
from adaspa_worker.engines.memory import Memory
from adaspa_worker.engines.reports import merged
from adaspa_worker.engines.rounding import rounding_in
from adaspa_worker.engines.steps import Denoising, Step
from adaspa_worker.engines.weights import by_type
from adaspa_worker.failure import NotLoaded
from adaspa_worker.hub import first_line
from adaspa_worker.latent_rgb import LatentRGB, fit_to
from adaspa_worker.pipeline import Encoded, Given, NotFinite, StepCallback
from adaspa_worker.preview import MAX_FRAMES
from adaspa_worker.schedulers import shifted
from adaspa_worker.sound import Sound
from adaspa_worker.source import ModelUnavailable

log = logging.getLogger(__name__)

IMAGES = {Role.first: "image", Role.last: "last_image"}
"""Names that diffusers' pipelines give to the images of a job."""


class DiffusersEngine(LoadedModel, ABC):
    """A family's pipeline: ``Engine`` by its own call."""

    with_image: type | None = None
    """Pipeline class for a job with images, if that is another one, made of the same parts."""
    with_image_options: Mapping[str, Any] = MappingProxyType({})
    """Arguments of its own."""
    image_rows = 0
    """Rows of an image in front of a text's own, in what the pipeline encodes of the two."""
    vaes: tuple[str, ...] = ("vae",)
    """Parts of the pipeline that decode, in their order."""
    schedulers: tuple[str, ...] = ("scheduler",)
    """Parts that say what a step is, where the pipeline has them, that of the video first."""
    guidance: Literal["forwards", "batch", "input"] = "forwards"
    """Way of the two guidance branches through the transformer: two forwards, one batch, or one input."""
    decodes_alike_after: int | None = None
    """Latent frames after which a VAE that decodes part by part has all its caches, and does the same from then on."""

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.encodings = Encodings()
        self._scheduler = self.pipe.scheduler
        self._denoising: Denoising | None = None
        self._params: JobParams | None = None
        self._images: Mapping[Role, Given] = {}
        self._decode_with: list[Tensor] = []
        self._beside: list[tuple[Tensor, ...]] = []
        """Latents for the other VAEs."""
        self._latent_rgb = self._find_latent_rgb(folder)
        self._memory = Memory(spec, folder, self.device)

    # What a family has of its own

    @abstractmethod
    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        """Latents of a step as the VAE has them, [1, C, T, h, w], for a preview."""

    @classmethod
    def given(cls, asked: Asked) -> dict[str, Any] | None:
        """Arguments of one forward of the transformer, on meta tensors; None of a family of which they are not told."""
        return None

    @classmethod
    def simplify(cls, model: torch.nn.Module) -> None:
        """Make a transformer or a VAE on meta tensors do what AdaSpa has it do, as far as memory is concerned."""
        return

    def arguments(self, params: JobParams) -> dict[str, Any]:
        """Further keyword arguments of the pipeline's call; they win over the catalog's ``call``."""
        return {"guidance_scale": params.guidance_scale}

    def shape(self, params: JobParams) -> dict[str, int]:
        """Return the clip's size and length as the pipeline's call has them."""
        return {"height": params.height, "width": params.width, "num_frames": params.num_frames}

    def for_vae(self, clip: Tensor) -> Tensor:
        """A clip [1, 3, frames, height, width] in [-1, 1] as the VAE encodes it."""
        return clip

    def pixels(self, frame: Tensor) -> Tensor:
        """A frame [3, height, width] as the VAE decodes it, black at 0 and white at 1."""
        return frame / 2 + 0.5

    def decodes_in_parts(self) -> bool:
        """Tell whether the VAE's decoder makes the clip part by part, and the parts in a row are the whole."""
        return False

    def part(self, output: Tensor) -> Tensor:
        """Decode one part with such a decoder, as frames [1, 3, frames, height, width] that the VAE would give."""
        return output

    @torch.no_grad()
    def sound(self, params: JobParams) -> Sound | None:
        """Implement ``Engine``."""
        if not self.spec.gives_sound(params):
            return None
        waveform, rate = self.waveform()
        if not waveform.isfinite().all():
            raise NotFinite("the decoded sound is not finite")
        return Sound(waveform.clamp(-1, 1).cpu().numpy(), rate)

    def waveform(self) -> tuple[Tensor, int]:
        """Return the decoded sound of the job, fp32 ``[channels, samples]``, and its rate."""
        raise NotImplementedError

    def pipeline_with(self, images: Mapping[Role, Given]) -> type | None:
        """Return the pipeline's class for a job with these images, or this video; None if it is the model's own."""
        return self.with_image

    def pipe_with(self, images: Mapping[Role, Given]) -> Any:
        """Return the pipeline for a job with these images, maybe none; it shares all parts of ``pipe``."""
        other = self.pipeline_with(images) if images else None
        if other is None:
            return self.pipe
        pipe = other(**self.pipe.components, **self.with_image_options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def pictures(self, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
        """A job's images, or its video, as the pipeline's call has them."""
        return {IMAGES[role]: image for role, image in images.items()}

    # The engine

    def encode_prompt(self, params: JobParams, images: Mapping[Role, Given] = MappingProxyType({})) -> Encoded:
        self._memory.begin(params)
        pipe = self.pipe_with(images)
        call = partial(self._call, pipe, params, images, torch.Generator())
        encoded = own_call.encode(pipe, call, own_call.texts(params), self.encodings, self.image_rows)
        return replace(encoded, images=images)

    def denoise(
        self,
        params: JobParams,
        encoded: Encoded,
        on_step: StepCallback,
        resume: dict[str, Any] | None = None,
    ) -> Tensor:
        known = {lora.name for lora in self.spec.loras}
        for use in params.loras or []:
            if use.scale and use.name not in known:
                why = "the job needs it, but the catalog does not have it"
                raise NotLoaded from ModelUnavailable(f"catalog: model {self.spec.id}: loras: {use.name}: {why}")
        if self._loras:
            try:
                self._loras.use(params.loras or [])
            except ModelUnavailable as error:
                raise NotLoaded from error
        handles = [transformer.adaspa for transformer in self.transformers]
        for handle in handles:
            handle.configure(attention_config(self.spec.attention, params))
            handle.begin()
        generator = torch.Generator().manual_seed(params.seed)

        def after_step(step: Step) -> None:
            on_step(step.number, max(handles, key=lambda handle: -1 if handle.step is None else handle.step).step_kind)

        self._params, self._images = params, encoded.images
        own, shift = self._scheduler, params.flow_shift
        self.pipe.scheduler = own if shift is None else shifted(own, shift)
        pipe = self.pipe_with(encoded.images)
        if self._shared is not None and self._shared.guidance > 1:
            guidance.go_by(pipe, self.transformers)
        named = (self.schedulers, self.vaes)
        schedulers, vaes = ([part for name in names if (part := getattr(pipe, name, None))] for names in named)
        denoising = self._denoising = Denoising(schedulers, self.transformers, generator, resume, after_step)
        cache = self._cache(params)
        done = resume["step"] if resume else 0
        settings = None if cache is None or done == params.steps else step_cache.config(cache, params.steps, done)
        with (
            step_cache.cached(self.transformers, settings),
            denoising,
            self.goes_on(pipe, params, encoded, generator) as call,
        ):
            (latents, *self._decode_with), *self._beside = own_call.denoise(vaes, call)
        if not latents.isfinite().all():
            raise NotFinite(f"the latents after {params.steps} steps are not finite")
        return latents

    @contextmanager
    def goes_on(
        self, pipe: Any, params: JobParams, encoded: Encoded, generator: torch.Generator
    ) -> Iterator[Callable[[], None]]:
        """Within the block, what makes the pipeline denoise and decode what is encoded."""
        with own_call.encoded_before(pipe, encoded):
            yield partial(self._call, pipe, params, encoded.images, generator)

    def _call(self, pipe: Any, params: JobParams, images: Mapping[Role, Given], generator: torch.Generator) -> None:
        """Call a pipeline as anyone would for this job."""
        asked = {"negative_prompt": params.negative_prompt, "guidance_scale_2": params.guidance_scale_2}
        given = {name: value for name, value in asked.items() if value is not None}  # few pipelines have both
        pipe(
            prompt=params.prompt,
            num_inference_steps=params.steps,
            generator=generator,
            output_type="pt",
            **self.shape(params),
            **self.pictures(params, images),
            **self.spec.call | self.arguments(params) | given,
        )

    @contextmanager
    def checked(self, check: Callable[[], None]) -> Iterator[None]:
        encoders = [part for name, part in self.pipe.components.items() if name.startswith(in_groups.ENCODERS) and part]
        lists = [part for encoder in encoders for part in encoder.modules() if isinstance(part, torch.nn.ModuleList)]
        hooks = [layer.register_forward_pre_hook(lambda *_: check()) for layers in lists for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def decode_for(
        self, rank: int, size: int, latents: Tensor, given: list[Any], send: Callable[[tiles.Place, Tensor], None]
    ) -> None:
        """Decode a process's tiles of a clip, and send them."""
        vae = self.pipe.vae
        following = tiles.Following(rank, size, lambda place, part: send(place, part.cpu()))
        with decoding(vae, in_tiles=False), tiles.dealt(vae.decoder, following):
            vae.decode(latents.to(self.device, vae.dtype), *placed(given, self.device), return_dict=False)

    def decode_with(self) -> list[Any]:
        """Return what the VAE is to be given beside the latents of the job."""
        return placed(self._decode_with, torch.device("cpu"))

    def frames(self, latents: Tensor, check: Callable[[], None]) -> Generator[np.ndarray]:
        return ahead(partial(self._decode, latents, check))

    @torch.no_grad()
    def _decode(self, latents: Tensor, check: Callable[[], None], hand_on: Callable[[np.ndarray], None]) -> None:
        """Decode a clip, and hand on its frames: part by part where the VAE decodes it so."""
        vae = self.pipe.vae
        for transformer in self.transformers:
            transformer.adaspa.reset()  # no step needs the caches any more, whose room the decoding can use
        self._memory.tiled = vae.use_tiling or self._memory.needs_tiles

        def show(video: Tensor) -> None:
            for frame in frames_of(video, self.pixels):
                hand_on(frame)

        try:
            with decoding(vae, in_tiles=self._memory.tiled):
                in_parts = self.decodes_in_parts()  # which may depend on the tiles
                on_part = (lambda output: show(self.part(output))) if in_parts else None
                with watched(vae.decoder, check, on_part):
                    video = vae.decode(latents.to(self.device, vae.dtype), *self._decode_with, return_dict=False)[0]
        finally:
            self.let_go()
        if not in_parts:
            show(video)

    @torch.no_grad()
    def preview(self) -> np.ndarray | None:
        if self._latent_rgb is None or self._denoising is None or self._denoising.last is None:
            return None
        assert self._params is not None
        try:
            latents = self.to_vae(self._denoising.last.clean(), self._params)
            frames = latents.shape[2]
            if not frames:  # a clip of its given first frame alone
                return None
            some = torch.linspace(0, frames - 1, min(frames, MAX_FRAMES)).round().long()
            shown: np.ndarray = self._latent_rgb(latents[:1, :, some.to(latents.device)]).cpu().numpy()
        except torch.OutOfMemoryError as error:  # the job has just enough for itself
            log.warning("no preview: %s", first_line(error))
            return None
        return shown

    def snapshot(self) -> dict[str, Any] | None:
        return self._denoising.snapshot() if self._denoising else None

    def attention(self, params: JobParams) -> dict[str, Any]:
        settings = attention_config(self.spec.attention, params).to_dict()
        cache = self._cache(params)
        return settings if cache is None else {**settings, "step_cache": cache.model_dump(exclude_none=True)}

    def _cache(self, params: JobParams) -> StepCache | None:
        """Return the step cache that a job runs with."""
        cache = self.spec.cache
        return cache if cache is not None and cache.serves(params.quality) else None

    def report(self) -> dict[str, Any]:
        reports = [transformer.adaspa.report() for transformer in self.transformers]
        whole = merged(reports, [transformer.config.num_layers for transformer in self.transformers])
        cache = self._cache(self._params) if self._params is not None else None
        parts = {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}
        return whole | {
            "step_cache": cache.kind if cache is not None else None,
            "parallelism": self._shared.model_dump() if self._shared is not None else {},
            "weights": {name: by_type(part) for name, part in parts.items()},
            "quantization": self.spec.memory.quantization,
            "rounding_layers": sum(map(rounding_in, self.transformers)),
            "memory": self._memory.report(),
        }

    def reset(self) -> None:
        self._denoising = self._params = None
        self._images, self._decode_with, self._beside = {}, [], []
        for transformer in self.transformers:
            transformer.adaspa.reset()
        gc.collect()  # an exception's traceback cycles may hold the last request's tensors
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _find_latent_rgb(self, folder: Path) -> LatentRGB | None:
        if brought := LatentRGB.load(folder):
            return brought.to(self.device)
        if self.device.type == "cpu":
            log.info(
                "%s: no previews, because its folder has no preview map and fitting one on a CPU takes too long",
                self.spec.id,
            )
            return None
        start = time.monotonic()
        fitted = self._fit_latent_rgb()
        log.info("%s: fitted the preview map in %.1f s", self.spec.id, time.monotonic() - start)
        return fitted

    def _fit_latent_rgb(self) -> LatentRGB:
        vae = self.pipe.vae

        def encode(clip: Tensor) -> Tensor:
            given = self.for_vae(clip.to(self.device))
            latents: Tensor = vae.encode(given.to(vae.dtype)).latent_dist.mode()
            return latents.float()

        return fit_to(encode, self.limits.first + self.limits.every, self.device)
