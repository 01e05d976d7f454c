"""What all families share: loading, denoising, decoding and previews of a diffusers pipeline with AdaSpa on it."""

import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import adaspa
import numpy as np
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from torch import Tensor

from adaspa_worker.attention import attention_config, operator_config
from adaspa_worker.engines.reports import merged
from adaspa_worker.engines.steps import Denoising, Step
from adaspa_worker.latent_rgb import LatentRGB, fit_to
from adaspa_worker.pipeline import NotFinite, StepCallback
from adaspa_worker.preview import MAX_FRAMES
from adaspa_worker.source import ModelUnavailable, first_line

log = logging.getLogger(__name__)


class DiffusersEngine(ABC):
    """A family's text-to-video pipeline.

    Args:
        spec: the catalog entry.
        folder: its diffusers folder. On CUDA the weights are bfloat16, elsewhere float32, unless ``spec.memory`` names
            another type.

    Raises:
        ModelUnavailable: the folder does not load, or the catalog offers sizes or frames the model cannot make, or has
            it compiled, which it cannot be.
    """

    pipeline: type
    """The class of diffusers."""
    vae_in_float32 = False
    """Whether the VAE needs full precision on a GPU too."""

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.pipe = self._load(folder)
            self.transformers: list[Any] = [
                part
                for name in ("transformer", "transformer_2")
                if (part := getattr(self.pipe, name, None)) is not None
            ]
            for transformer in self.transformers:
                adaspa.apply(transformer, operator_config(spec.attention))
            self._place()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ModelUnavailable(f"{folder}: cannot be loaded ({first_line(error)})") from error
        if spec.compile:
            self._compile()
        self.pipe.set_progress_bar_config(disable=True)
        self._denoising: Denoising | None = None
        self._params: JobParams | None = None
        self._check_offer()
        self._latent_rgb = self._find_latent_rgb(folder)

    # What a family has of its own

    @abstractmethod
    def encode_prompt(self, params: JobParams) -> dict[str, Tensor]:
        """Text embeddings, as keyword arguments of the pipeline."""

    @abstractmethod
    def to_vae(self, latents: Tensor, params: JobParams) -> Tensor:
        """The pipeline's latents as the VAE's decoder takes them, [1, C, T, h, w]."""

    @abstractmethod
    def multiples(self) -> tuple[int, int]:
        """What height and width are multiples of, and the number of frames less one."""

    def arguments(self, params: JobParams) -> dict[str, Any]:
        """Further keyword arguments of the pipeline's call."""
        return {"guidance_scale": params.guidance_scale}

    def text_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the pipeline's ``encode_prompt`` beside the texts."""
        length = {name: value for name, value in self.spec.call.items() if name == "max_sequence_length"}
        return {"device": self.device, **length}

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [1, 3, F, H, W] in [-1, 1] of ``to_vae``'s latents."""
        decoded: Tensor = self.pipe.vae.decode(latents, return_dict=False)[0]
        return decoded

    # The engine

    @torch.no_grad()
    def denoise(
        self,
        params: JobParams,
        embeddings: dict[str, Tensor],
        on_step: StepCallback,
        resume: dict[str, Any] | None = None,
    ) -> Tensor:
        handles = [transformer.adaspa for transformer in self.transformers]
        for handle in handles:
            handle.configure(attention_config(self.spec.attention, params))
            handle.begin()
        generator = torch.Generator().manual_seed(params.seed)

        def after_step(step: Step) -> None:
            on_step(step.number, max(handles, key=lambda handle: -1 if handle.step is None else handle.step).step_kind)

        self._params = params
        denoising = self._denoising = Denoising(self.pipe.scheduler, self.transformers, generator, resume, after_step)
        with denoising:
            self.pipe(
                height=params.height,
                width=params.width,
                num_frames=params.num_frames,
                num_inference_steps=params.steps,
                generator=generator,
                output_type="latent",
                **self.arguments(params),
                **embeddings,
                **self.spec.call,
            )
        assert denoising.last is not None
        latents = denoising.last.result[0]
        if not latents.isfinite().all():
            raise NotFinite(f"the latents after {params.steps} steps are not finite")
        return self.to_vae(latents, params)

    @contextmanager
    def checked(self, check: Callable[[], None]) -> Iterator[None]:
        encoders = [part for name, part in self.pipe.components.items() if name.startswith("text_encoder") and part]
        lists = [part for encoder in encoders for part in encoder.modules() if isinstance(part, torch.nn.ModuleList)]
        hooks = [layer.register_forward_pre_hook(lambda *_: check()) for layers in lists for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def frames(self, latents: Tensor, check: Callable[[], None]) -> Iterator[np.ndarray]:
        vae = self.pipe.vae
        # The decoder runs once for each latent frame, or tile: the place to hear of a cancel in a long decode.
        hook = vae.decoder.register_forward_pre_hook(lambda *_: check())
        try:
            video = self.decode(latents.to(self.device, vae.dtype))
        finally:
            hook.remove()
            if clear := getattr(vae, "clear_cache", None):
                clear()
            self.pipe.maybe_free_model_hooks()
        for frame in video[0].unbind(dim=1):  # [3, height, width] in [-1, 1]
            scaled = (frame.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
            yield scaled.permute(1, 2, 0).contiguous().cpu().numpy()

    @torch.no_grad()
    def preview(self) -> np.ndarray | None:
        if self._latent_rgb is None or self._denoising is None or self._denoising.last is None:
            return None
        assert self._params is not None
        try:
            latents = self.to_vae(self._denoising.last.clean(), self._params)
            frames = latents.shape[2]
            some = torch.linspace(0, frames - 1, min(frames, MAX_FRAMES)).round().long()
            shown: np.ndarray = self._latent_rgb(latents[:1, :, some.to(latents.device)]).cpu().numpy()
        except torch.OutOfMemoryError as error:  # the job has just enough for itself
            log.warning("no preview: %s", first_line(error))
            return None
        return shown

    def snapshot(self) -> dict[str, Any] | None:
        return self._denoising.snapshot() if self._denoising else None

    def attention(self, params: JobParams) -> dict[str, Any]:
        return attention_config(self.spec.attention, params).to_dict()

    def report(self) -> dict[str, Any]:
        reports = [transformer.adaspa.report() for transformer in self.transformers]
        return merged(reports, [transformer.config.num_layers for transformer in self.transformers])

    def reset(self) -> None:
        self._denoising = self._params = None
        for transformer in self.transformers:
            transformer.adaspa.reset()
        gc.collect()  # an exception's traceback cycles may hold the last request's tensors
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, folder: Path) -> Any:
        low = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        if (named := self.spec.memory.dtype) is not None:
            low = getattr(torch, named)
        dtype = {"default": low, "vae": torch.float32 if self.vae_in_float32 else low}
        return self.pipeline.from_pretrained(  # type: ignore[attr-defined]
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )

    def _place(self) -> None:
        if self.spec.memory.vae_tiling:
            self.pipe.vae.enable_tiling()
        if self.spec.memory.cpu_offload and self.device.type == "cuda":
            self.pipe.enable_model_cpu_offload(device=self.device)
        else:
            self.pipe.to(self.device)

    def _compile(self) -> None:
        for transformer in self.transformers:
            try:
                # Not dynamic=False: every size and length would compile again, up to PyTorch's limit for one function,
                # and those after that would run uncompiled. By default what turns out to change becomes a variable:
                # the first size has a graph of its own, and after a few others one serves them all.
                transformer.compile_repeated_blocks()
            except ValueError as error:
                raise ModelUnavailable(
                    f"{self.spec.id}: compile in the catalog must be false: "
                    f"diffusers names no blocks of {type(transformer).__name__} to compile"
                ) from error

    def _check_offer(self) -> None:
        """The catalog must offer only what comes out as asked: the pipelines themselves round silently."""
        side, every = self.multiples()
        for size in self.spec.sizes:
            if any(int(pixels) % side for pixels in size.split("x")):
                raise ModelUnavailable(f"{self.spec.id}: size {size} in the catalog is not in steps of {side}x{side}")
        for count in self.spec.frames:
            if (count - 1) % every:
                raise ModelUnavailable(
                    f"{self.spec.id}: {count} frames in the catalog is not a multiple of {every}, plus 1"
                )

    def _find_latent_rgb(self, folder: Path) -> LatentRGB | None:
        if brought := LatentRGB.load(folder):
            return brought.to(self.device)
        if self.device.type == "cpu":
            log.info("%s: no previews: its folder brings no map, and fitting one takes a CPU too long", self.spec.id)
            return None
        start = time.monotonic()
        fitted = self._fit_latent_rgb()
        log.info("%s: fitted the map for previews in %.1f s", self.spec.id, time.monotonic() - start)
        return fitted

    def _fit_latent_rgb(self) -> LatentRGB:
        vae = self.pipe.vae

        def encode(clip: Tensor) -> Tensor:
            latents: Tensor = vae.encode(clip.to(self.device, vae.dtype)).latent_dist.mode()
            return latents.float()

        return fit_to(encode, 1 + self.multiples()[1], self.device)
