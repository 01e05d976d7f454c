"""A loaded text-to-video pipeline with AdaSpa on its transformer: prompt in, frames out."""

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import adaspa
import diffusers
import numpy as np
import torch
import transformers
from adaspa_service.contract.catalog import ModelSpec
from adaspa_service.contract.job import JobParams, StepKind
from diffusers import WanPipeline

from adaspa_worker.attention import attention_config
from adaspa_worker.source import ModelUnavailable, first_line

log = logging.getLogger(__name__)

StepCallback = Callable[[int, StepKind | None], None]
"""Called after each denoising step with the number of finished steps and the kind of the last one."""


class NotFinite(Exception):
    """The latents hold NaN or infinity: the frames would be black or noise."""


class Engine(Protocol):
    """What running a job needs of a model family; one instance serves one job at a time."""

    def encode_prompt(self, params: JobParams) -> dict[str, torch.Tensor]:
        """Text embeddings, as keyword arguments of ``denoise``."""

    def denoise(
        self,
        params: JobParams,
        embeddings: dict[str, torch.Tensor],
        on_step: StepCallback,
        resume: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Latents of the clip, from step 0 or from a snapshot of the same job.

        An exception out of ``on_step`` ends the denoising and comes through.

        Raises:
            NotFinite: they are no numbers.
        """

    def snapshot(self) -> dict[str, Any] | None:
        """What ``denoise`` needs to go on after its last finished step: ``step``, and the engine's own; None before
        the first step. To be asked in ``on_step``, or after the denoising until ``reset``."""

    def frames(self, latents: torch.Tensor, check: Callable[[], None]) -> Iterator[np.ndarray]:
        """The clip's frames, uint8 RGB [height, width, 3]; ``check`` is called now and then and may raise."""

    def attention(self, params: JobParams) -> dict[str, Any]:
        """The settings of a job's attention, in full."""

    def report(self) -> dict[str, Any]:
        """What AdaSpa did in the last denoising: the fields of the contract's AttentionReport."""

    def reset(self) -> None:
        """Drop every cache of the request that ended."""


class WanEngine:
    """Wan text-to-video pipelines (diffusers ``WanPipeline``).

    Args:
        spec: the catalog entry.
        folder: its diffusers folder. On CUDA the weights are bfloat16 but for the VAE, elsewhere all are float32.

    Raises:
        ModelUnavailable: the folder does not load, or the catalog offers sizes or frames the model cannot make.
    """

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        low = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            self.pipe = WanPipeline.from_pretrained(
                folder,
                dtype={"default": low, "vae": torch.float32},
                use_safetensors=True,
                local_files_only=True,
            )
            self.pipe.to(self.device)
            adaspa.apply(self.pipe.transformer, adaspa.AdaSpaConfig(**spec.attention))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ModelUnavailable(f"{folder}: cannot be loaded ({first_line(error)})") from error
        self.pipe.set_progress_bar_config(disable=True)
        self._finished: tuple[int, torch.Tensor, torch.Generator] | None = None
        self._check_offer()

    def encode_prompt(self, params: JobParams) -> dict[str, torch.Tensor]:
        guided = params.guidance_scale > 1
        extra = {k: v for k, v in self.spec.call.items() if k == "max_sequence_length"}
        with torch.no_grad():
            positive, negative = self.pipe.encode_prompt(
                prompt=params.prompt,
                negative_prompt=params.negative_prompt,
                do_classifier_free_guidance=guided,
                device=self.device,
                **extra,
            )
        return {"prompt_embeds": positive} | ({"negative_prompt_embeds": negative} if guided else {})

    def denoise(
        self,
        params: JobParams,
        embeddings: dict[str, torch.Tensor],
        on_step: StepCallback,
        resume: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        transformer = self.pipe.transformer
        handle = transformer.adaspa
        handle.configure(attention_config(self.spec.attention, params))
        handle.begin()
        generator = torch.Generator().manual_seed(params.seed)
        forward, first = transformer.forward, resume["step"] if resume else 0
        self._finished = None

        def skip(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
            return (torch.zeros_like(hidden_states),)

        def after_step(pipe: WanPipeline, i: int, timestep: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # otherwise the step is only queued, and progress and cancel run ahead of it
            if i + 1 < first:
                return {}
            if resume and i + 1 == first:
                transformer.forward = forward
                generator.set_state(resume["generator"])
                vars(pipe.scheduler).update(resume["scheduler"])
                self._finished = (first, resume["latents"].to(self.device), generator)
                return {"latents": self._finished[1]}
            self._finished = (i + 1, kwargs["latents"], generator)
            on_step(i + 1, handle.step_kind)
            return {}

        # The pipeline has no first step: it walks through those that are done, at no cost, so that its timesteps and
        # the scheduler's place in them are its own, and gets the latents where the work goes on.
        if resume:
            transformer.forward = skip
        try:
            latents = self._call(params, embeddings, generator, after_step)
        finally:
            transformer.forward = forward
        if not latents.isfinite().all():
            raise NotFinite(f"the latents after {params.steps} steps are not finite")
        return latents

    def _call(
        self,
        params: JobParams,
        embeddings: dict[str, torch.Tensor],
        generator: torch.Generator,
        after_step: Callable[..., dict[str, Any]],
    ) -> torch.Tensor:
        return self.pipe(
            height=params.height,
            width=params.width,
            num_frames=params.num_frames,
            num_inference_steps=params.steps,
            guidance_scale=params.guidance_scale,
            generator=generator,
            output_type="latent",
            callback_on_step_end=after_step,
            **embeddings,
            **self.spec.call,
        ).frames

    @torch.no_grad()
    def frames(self, latents: torch.Tensor, check: Callable[[], None]) -> Iterator[np.ndarray]:
        vae = self.pipe.vae
        mean, std = (
            torch.tensor(values, dtype=vae.dtype, device=vae.device).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        # The decoder runs once for each latent frame: the place to hear of a cancel in a long decode.
        hook = vae.decoder.register_forward_pre_hook(lambda *_: check())
        try:
            video = vae.decode(latents.to(vae.device, vae.dtype) * std + mean, return_dict=False)[0]
        finally:
            hook.remove()
            vae.clear_cache()
        for frame in video[0].unbind(dim=1):  # [3, height, width] in [-1, 1]
            scaled = (frame / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
            yield scaled.permute(1, 2, 0).contiguous().cpu().numpy()

    def snapshot(self) -> dict[str, Any] | None:
        if self._finished is None:
            return None
        step, latents, generator = self._finished
        scheduler = {name: value for name, value in vars(self.pipe.scheduler).items() if not name.startswith("_int")}
        return {"step": step, "latents": latents, "generator": generator.get_state(), "scheduler": scheduler}

    def report(self) -> dict[str, Any]:
        return self.pipe.transformer.adaspa.report()

    def reset(self) -> None:
        self._finished = None
        self.pipe.transformer.adaspa.reset()
        gc.collect()  # an exception's traceback cycles may hold the last request's tensors
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def attention(self, params: JobParams) -> dict[str, Any]:
        return asdict(attention_config(self.spec.attention, params))

    def _check_offer(self) -> None:
        """The catalog must offer only what comes out as asked: the pipeline itself rounds silently."""
        patch = self.pipe.transformer.config.patch_size
        every_h, every_w = (self.pipe.vae_scale_factor_spatial * p for p in patch[1:])
        for size in self.spec.sizes:
            width, height = map(int, size.split("x"))
            if height % every_h or width % every_w:
                raise ModelUnavailable(
                    f"{self.spec.id}: size {size} in the catalog is not in steps of {every_w}x{every_h}"
                )
        every = self.pipe.vae_scale_factor_temporal
        for count in self.spec.frames:
            if count % every != 1:
                raise ModelUnavailable(
                    f"{self.spec.id}: {count} frames in the catalog is not a multiple of {every}, plus 1"
                )


ENGINES: dict[str, Callable[[ModelSpec, Path], Engine]] = {"wan": WanEngine}


def load(spec: ModelSpec, folder: Path) -> Engine:
    """Load a model by its catalog entry.

    Raises:
        ModelUnavailable: no adapter for the family, or the model does not load.
    """
    if spec.family not in ENGINES:
        raise ModelUnavailable(f"{spec.id}: no adapter for family {spec.family!r}; there is {', '.join(ENGINES)}")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # it would fill the worker's log
    return ENGINES[spec.family](spec, folder)
