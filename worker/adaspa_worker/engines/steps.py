"""Steps of one denoising, taken at the scheduler: every pipeline asks it once a step, whatever else it offers."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MiniMaxH3Scheduler
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
    """Stands between a running pipeline and its scheduler: reports each step, and can start at a later one.

    The pipelines have no first step. A resumed one walks through the steps that are done, at no cost, so that its
    timesteps are its own, and gets the latents where the work goes on.

    Args:
        schedulers: the pipeline's, one for each stream that it denoises, that of the video first.
        transformers: all of the pipeline's; they are not run in the steps that are done.
        generator: the pipeline's, for what the scheduler draws.
        resume: of ``snapshot``, or None to begin at the beginning.
        on_step: called after each step that is done here; an exception ends the denoising and comes through.
    """

    def __init__(
        self,
        schedulers: Sequence[Any],
        transformers: Sequence[torch.nn.Module],
        generator: torch.Generator,
        resume: dict[str, Any] | None,
        on_step: Callable[[Step], None],
    ) -> None:
        self.schedulers, self.transformers, self.generator = schedulers, transformers, generator
        self.resume, self.on_step = resume, on_step
        self.last: Step | None = None
        self._number = 0
        self.streams = [_Stream(self, scheduler) for scheduler in schedulers]

    def __enter__(self) -> "Denoising":
        for stream in self.streams:
            vars(stream.scheduler)["step"] = stream
        self._begins = [each.register_forward_pre_hook(self._begin, prepend=True) for each in self.transformers]
        self._forwards = [transformer.forward for transformer in self.transformers]
        if self.resume:
            for transformer in self.transformers:
                transformer.forward = _no_forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for scheduler in self.schedulers:
            vars(scheduler).pop("step", None)
        for hook in self._begins:
            hook.remove()
        self._run_transformers()

    def snapshot(self) -> dict[str, Any] | None:
        """Return what a later denoising needs to go on after the last step; None before the first."""
        if self.last is None:
            return None
        first, *others = [{"result": list(stream.result), "scheduler": stream.state()} for stream in self.streams]
        generator = {"generator": self.generator.get_state()}
        return {"step": self.last.number, **first, **generator, **({"others": others} if others else {})}

    def take(self, stream: "_Stream", args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Do, or walk through, a step of one stream."""
        if stream is self.streams[0]:
            self._number += 1
        given = stream.signature.bind(*args, **kwargs).arguments
        if self.resume and self._number <= self.resume["step"]:
            return self._walk(stream, given["sample"])
        result = stream.result = stream.original(*args, **kwargs)
        if result[0].device.type == "cuda":
            torch.cuda.synchronize()  # otherwise the step is only queued, and progress and cancel run ahead of it
        if stream is self.streams[0]:
            index = getattr(stream.scheduler, "step_index", None)
            clean = _Clean(stream.scheduler, given, result, None if index is None else index - 1)
            self._now = Step(self._number, result, clean)
        if stream is self.streams[-1]:
            self.last = self._now
            self.on_step(self.last)
        return result

    def _walk(self, stream: "_Stream", sample: Tensor) -> tuple[Tensor, ...]:
        """A step that was done before; after the last of them everything is as it was then."""
        assert self.resume is not None
        place = self.streams.index(stream)
        kept = [self.resume, *self.resume.get("others", [])][place]
        result = stream.result = tuple(each.to(sample.device) for each in kept["result"])
        if self._number == self.resume["step"]:
            vars(stream.scheduler).update(kept["scheduler"])
            if place == 0:
                self._now = Step(self._number, result, lambda: result[0])
            if stream is self.streams[-1]:
                self._run_transformers()
                self.generator.set_state(self.resume["generator"])
                self.last = self._now
        return result

    def _begin(self, *_: Any) -> None:
        """Count from the first timestep, before it is needed, if the second is the same whole number.

        At a far shift they are, and schedulers take the second, unless told; some pipelines do not tell them. The last
        step would then lie beyond the schedule.
        """
        for scheduler in self.schedulers:
            if getattr(scheduler, "begin_index", 0) is None and scheduler.step_index is None:
                start = scheduler.timesteps[:2]
                if len(start) > 1 and start[0] == start[1]:
                    scheduler.set_begin_index(0)

    def _run_transformers(self) -> None:
        for transformer, forward in zip(self.transformers, self._forwards, strict=True):
            transformer.forward = forward


class _Stream:
    """Replacement for the ``step`` of a scheduler, for what it denoises.

    Sound beside the video is a stream of its own, and a step is finished when its last stream is: MiniMax-H3 has a
    scheduler for each, LTX-2 copies its own.
    """

    def __init__(self, denoising: Denoising, scheduler: Any) -> None:
        self.denoising, self.scheduler = denoising, scheduler
        self.original = partial(type(scheduler).step, scheduler)
        # Pipelines look at what it takes: a generator, for one.
        self.signature = self.__signature__ = inspect.signature(self.original)
        self.result: tuple[Tensor, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return self.denoising.take(self, args, kwargs)

    def __deepcopy__(self, copies: dict[int, Any]) -> "_Stream":
        other = _Stream(self.denoising, copies[id(self.scheduler)])
        self.denoising.streams.append(other)
        return other

    def state(self) -> dict[str, Any]:
        """Return what the scheduler knows of the steps that it has done."""
        return {n: value for n, value in vars(self.scheduler).items() if n != "step" and not n.startswith("_int")}


@dataclass(frozen=True)
class _Clean:
    """Latents that a step's output points to, by what the scheduler takes that output for."""

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
        if (tokens := self.given.get("per_token_timesteps")) is not None:  # LTX's, which gives its output negated
            return sample + (tokens / config.num_train_timesteps).unsqueeze(-1) * output
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler | MiniMaxH3Scheduler):
            sigmas = self.scheduler.sigmas.to(sample.device, torch.float32)
            left = sigmas[-1] - sigmas
            assert self.index is not None, "both count their steps"
            # MiniMax-H3's output has the other sign, and its pipeline writes the result over the sample.
            other = isinstance(self.scheduler, MiniMaxH3Scheduler)
            return self.result[0] - left[self.index + 1] * output if other else sample + left[self.index] * output
        if config.get("prediction_type") == "v_prediction":
            share = self.scheduler.alphas_cumprod[int(self.given["timestep"])].to(sample)
            return share.sqrt() * sample - (1 - share).sqrt() * output
        return self.result[0]


def _no_forward(hidden_states: Tensor, audio_hidden_states: Tensor | None = None, **_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(each) for each in (hidden_states, audio_hidden_states) if each is not None)
