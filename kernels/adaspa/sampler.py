"""Scheduler of a pipeline, read and never changed: which of its steps comes now, and how many there are."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

import torch

BFLOAT16 = 1 / 256
"""Largest relative error of rounding to bfloat16, as some pipelines do with the timestep."""
AMBIGUOUS = (
    "the pipeline rounds the timestep and names no guidance branch, and its scheduler counts no steps: "
    "another scheduler tells them"
)


@dataclass(frozen=True)
class Cue:
    """Cue of a pipeline about the forward that comes now; None is what it does not tell."""

    timestep: torch.Tensor | float | None
    branch: str | None = None
    step: int | None = None
    steps: int | None = None

    @property
    def per_token(self) -> bool:
        """True if each token has a timestep of its own: conditioning frames have a lower one."""
        return isinstance(self.timestep, torch.Tensor) and self.timestep.ndim > 1

    @cached_property
    def value(self) -> float:
        """Timestep as a number. On a GPU reading it waits for the work before.

        Raises:
            ValueError: when there is none.
        """
        if self.timestep is None:
            raise ValueError("timestep must be given: the denoising steps are counted by it")
        return float(self.timestep.max() if isinstance(self.timestep, torch.Tensor) else self.timestep)

    def is_near(self, timestep: float) -> bool:
        """Tell whether its timestep is this one, or may have been before it was rounded."""
        return abs(timestep - self.value) <= BFLOAT16 * abs(timestep)

    def places(self, timesteps: list[float]) -> list[int]:
        """Return the places of its timestep among these, allowing for rounding."""
        rounded = timesteps
        if isinstance(self.timestep, torch.Tensor) and self.timestep.dtype in (torch.bfloat16, torch.float16):
            rounded = torch.tensor(timesteps, dtype=torch.float64).to(self.timestep.dtype).tolist()
        equal = [place for place, timestep in enumerate(rounded) if timestep == self.value]
        return equal or [place for place, timestep in enumerate(timesteps) if self.is_near(timestep)]


@dataclass(frozen=True)
class Place:
    """Place of a forward in its schedule.

    Args:
        schedule: the schedule, told from others by its identity.
        evaluation: the evaluation of the model, 0 being the first; samplers of second order have two in a step.
        step: the denoising step, 0 being the first.
        steps: the number of denoising steps; None where it is not known.
        sigmas: the noise levels by evaluation, where the scheduler tells them.
        dense_because: why the step cannot be told for sure, or None.
    """

    schedule: object
    evaluation: int
    step: int
    steps: int | None
    sigmas: torch.Tensor | None = None
    dense_because: str | None = None


class Sampler:
    """Scheduler of ``pipe``, whichever it is at the time: pipelines are given others, and share them."""

    def __init__(self, pipe: Any) -> None:
        # The transformer must not keep the rest of the pipeline in memory.
        self._pipe = ref(pipe)
        self._scheduler = getattr(pipe, "scheduler", None)
        self._schedule = self._timesteps()
        self._values: tuple[object, list[list[float]]] = (None, [])
        self.tells_its_end = hasattr(pipe, "maybe_free_model_hooks")
        """True if the pipeline resets its hooks behind each call; modular ones do not."""

    @property
    def pipe(self) -> Any:
        """Pipeline, or None once it is gone."""
        return self._pipe()

    @property
    def scheduler(self) -> Any:
        """Scheduler of the pipeline; the last one, once the pipeline is gone and its relatives go on."""
        if (pipe := self.pipe) is not None:
            self._scheduler = getattr(pipe, "scheduler", None)
        return self._scheduler

    def was_set(self) -> bool:
        """Tell whether ``set_timesteps`` was called since this was last asked: it makes a new tensor every time."""
        before, self._schedule = self._schedule, self._timesteps()
        return self._schedule is not before

    def place(self, cue: Cue, last: Place | None, seen: Collection[str | None]) -> Place | None:
        """Return the place of ``cue``, or None if this scheduler does not drive it.

        Args:
            cue: of the forward, with the timestep.
            last: the place of the forward before, or None.
            seen: the guidance branches that had a forward in that evaluation.
        """
        scheduler, timesteps = self.scheduler, self._timesteps()
        steps = getattr(scheduler, "num_inference_steps", None)
        if timesteps is None or not steps:
            return None
        sigmas = getattr(scheduler, "sigmas", None)
        # A schedule with sigmas may end with the timestep of the last of them, which nothing is evaluated at.
        evaluations = len(timesteps) if sigmas is None else min(len(timesteps), len(sigmas) - 1)
        last = last if last is not None and last.schedule is timesteps else None
        evaluation, certain = self._evaluation(cue, self._numbers(timesteps, sigmas, evaluations), last, seen)
        if evaluation is None:
            return None
        # Second order: 2 n - 1 evaluations for n steps. PNDM's: n + 1, of which the first step has two.
        step = evaluation * min(steps, evaluations) // evaluations
        return Place(
            timesteps, evaluation, step, min(steps, evaluations), sigmas, dense_because=None if certain else AMBIGUOUS
        )

    def _evaluation(
        self, cue: Cue, tables: list[list[float]], last: Place | None, seen: Collection[str | None]
    ) -> tuple[int | None, bool]:
        """Find which of the timesteps is evaluated now, if any, and whether that is certain."""
        values = tables[0]
        scheduler = self.scheduler
        index = getattr(scheduler, "step_index", None)
        if index is None:
            index = getattr(scheduler, "begin_index", None)
        if index is not None:
            known = 0 <= index < len(values) and (cue.per_token or any(cue.is_near(table[index]) for table in tables))
            return (index if known else None), True
        places = next((places for table in tables if (places := cue.places(table))), [])
        if places and hasattr(scheduler, "step_index"):
            # Before its first step. The schedulers themselves take the second of two that are equal.
            equal = len(places) > 1 and values[places[0]] == values[places[1]]
            return places[1 if equal else 0], True
        return _uncounted(places, cue.branch, last, seen)

    def _timesteps(self) -> torch.Tensor | None:
        return getattr(self.scheduler, "timesteps", None)

    def _numbers(self, timesteps: torch.Tensor, sigmas: torch.Tensor | None, evaluations: int) -> list[list[float]]:
        """List the numbers a model may be called with: the timestep; in Cosmos the noise level s or s / (s + 1)."""
        if self._values[0] is not timesteps:
            levels = [] if sigmas is None else [sigmas, sigmas / (sigmas + 1)]
            self._values = (timesteps, [table[:evaluations].tolist() for table in (timesteps, *levels)])
        return self._values[1]


def _uncounted(
    places: list[int], branch: str | None, last: Place | None, seen: Collection[str | None]
) -> tuple[int | None, bool]:
    """Find the evaluation, and whether it is certain, by the timestep: the scheduler counts no steps."""
    reached = last.evaluation if last is not None else -1
    later = [place for place in places if place > reached]
    if reached not in places:
        return next(iter(later or places), None), True
    if not later:
        return reached, True
    return (later[0] if branch in seen else reached), branch is not None
