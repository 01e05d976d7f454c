"""The steps of one denoising, taken at the scheduler: every pipeline asks it once a step, whatever else it offers."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """A finished denoising step.

    Args:
        number: how many are finished.
        result: what the scheduler gave to the pipeline; the first are the latents.
        clean: what the model takes the finished latents to be, from this step's view.
    """

    number: int
    result: tuple[Tensor, ...]
    clean: Callable[[], Tensor]


class Denoising:
    """Stands between a pipeline and its scheduler while the pipeline runs: tells of each step, and can begin at a later
    one.

    The pipelines have no first step. A resumed one walks through the steps that are done, at no cost, so that its
    timesteps are its own, and gets the latents where the work goes on.

    Args:
        scheduler: the pipeline's.
        transformers: all of the pipeline's; they are not run in the steps that are done.
        generator: the pipeline's, for what the scheduler draws.
        resume: of ``snapshot``, or None to begin at the beginning.
        on_step: called after each step that is done here; an exception ends the denoising and comes through.
    """

    def __init__(
        self,
        scheduler: Any,
        transformers: Sequence[torch.nn.Module],
        generator: torch.Generator,
        resume: dict[str, Any] | None,
        on_step: Callable[[Step], None],
    ) -> None:
        self.scheduler, self.transformers, self.generator = scheduler, transformers, generator
        self.resume, self.on_step = resume, on_step
        self.last: Step | None = None
        self._number = 0

    def __enter__(self) -> "Denoising":
        self._original = partial(type(self.scheduler).step, self.scheduler)
        self._signature = inspect.signature(self._original)

        def step(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return self._step(*args, **kwargs)

        # Pipelines look at what it takes: a generator, for one.
        step.__signature__ = self._signature  # type: ignore[attr-defined]
        self.scheduler.step = step
        self._forwards = [transformer.forward for transformer in self.transformers]
        if self.resume:
            for transformer in self.transformers:
                transformer.forward = _no_forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        vars(self.scheduler).pop("step", None)
        if self.resume and self._number < self.resume["step"]:
            self._run_transformers()

    def snapshot(self) -> dict[str, Any] | None:
        """What a later denoising needs to go on after the last step; None before the first."""
        if self.last is None:
            return None
        own = {n: value for n, value in vars(self.scheduler).items() if n != "step" and not n.startswith("_int")}
        return {
            "step": self.last.number,
            "result": list(self.last.result),
            "generator": self.generator.get_state(),
            "scheduler": own,
        }

    def _step(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        given = self._signature.bind(*args, **kwargs).arguments
        self._number += 1
        if self.resume and self._number <= self.resume["step"]:
            return self._walk(given["sample"])
        result: tuple[Tensor, ...] = self._original(*args, **kwargs)
        if result[0].device.type == "cuda":
            torch.cuda.synchronize()  # otherwise the step is only queued, and progress and cancel run ahead of it
        index = getattr(self.scheduler, "step_index", None)
        clean = _Clean(self.scheduler, given, result, None if index is None else index - 1)
        self.last = Step(self._number, result, clean)
        self.on_step(self.last)
        return result

    def _walk(self, sample: Tensor) -> tuple[Tensor, ...]:
        """A step that was done before; after the last of them everything is as it was then."""
        assert self.resume is not None
        result = tuple(each.to(sample.device) for each in self.resume["result"])
        if self._number == self.resume["step"]:
            self._run_transformers()
            self.generator.set_state(self.resume["generator"])
            vars(self.scheduler).update(self.resume["scheduler"])
            self.last = Step(self._number, result, lambda: result[0])
        return result

    def _run_transformers(self) -> None:
        for transformer, forward in zip(self.transformers, self._forwards, strict=True):
            transformer.forward = forward


@dataclass(frozen=True)
class _Clean:
    """The latents that a step's output points to, by what the scheduler takes that output for."""

    scheduler: Any
    given: dict[str, Any]
    result: tuple[Tensor, ...]
    index: int | None

    def __call__(self) -> Tensor:
        config, sample, output = self.scheduler.config, self.given["sample"], self.given["model_output"]
        if len(self.result) > 1:  # CogVideoX's DPM scheduler gives it
            return self.result[1]
        kept = getattr(self.scheduler, "model_outputs", None)
        if kept and (config.get("predict_x0") or "++" in config.get("algorithm_type", "")):
            return kept[-1]
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            sigmas = self.scheduler.sigmas.to(sample.device, torch.float32)
            return sample + (sigmas[-1] - sigmas[self.index]) * output
        if config.get("prediction_type") == "v_prediction":
            share = self.scheduler.alphas_cumprod[int(self.given["timestep"])].to(sample)
            return share.sqrt() * sample - (1 - share).sqrt() * output
        return self.result[0]


def _no_forward(hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
    return (torch.zeros_like(hidden_states),)
