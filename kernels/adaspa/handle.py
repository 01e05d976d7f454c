"""`transformer.adaspa`: the requests of one transformer, one after the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from adaspa.bound import Bound
from adaspa.config import AdaSpaConfig
from adaspa.forward import Forward
from adaspa.record import RequestRecord
from adaspa.sampler import Cue
from adaspa.state import AdaSpaState
from adaspa.steps import Begins, Moment, StepFollower


class AdaSpaHandle(Bound):
    """Follows the denoising of a transformer, and holds the state of the request in progress.

    It finds the steps by itself: from the scheduler of a pipeline (`follow`, which ``adaspa.apply(pipe)`` calls), or
    else from what the pipeline says in ``cache_context`` (step, number of steps, guidance branch), or else from the
    timestep: another one is a new step, and so is the same one once more in a branch that ``cache_context`` names; a
    rise is a new request. Where branches have no names either, the request is dense, and its report says so in
    ``fell_back``, unless `begin` told its steps and branches.

    The caches are dropped when the pipeline is done, when the transformer raises, and by ``reset``.

    Args:
        config: the settings.
        timesteps_rise: whether the model's timesteps rise from step to step (Mochi), instead of falling.
        layers: the number of the model's layers, if it is known.
    """

    def __init__(self, config: AdaSpaConfig, timesteps_rise: bool = False, layers: int | None = None) -> None:
        self._layers = layers
        self.config = self._checked(config)
        self.forward: Forward | None = None
        """Forward of the transformer that is under way, as its hook opened it."""
        self.undo: list[Callable[[], None]] = []
        """Acts that `adaspa.remove` has to undo besides, in the order in which they were done."""
        self._steps = StepFollower(timesteps_rise)
        self._state: AdaSpaState | None = None
        self._last = RequestRecord()
        self._turn = Lock()

    @property
    def state(self) -> AdaSpaState | None:
        """Request in progress, or None."""
        return self._state

    @property
    def step(self) -> int | None:
        """Current denoising step, 0 being the first; None outside a request."""
        return self._state.step if self._state else None

    @property
    def step_kind(self) -> str | None:
        """``dense``, ``search`` or ``sparse`` for the current step; None outside a request."""
        return self._state.kind.value if self._state else None

    @property
    def sigma(self) -> float | None:
        """Noise level of the current evaluation, if the scheduler that is followed has sigmas; None otherwise."""
        place = self._steps.place
        return None if place is None or place.sigmas is None else float(place.sigmas[place.evaluation])

    def follow(self, pipe: Any) -> None:
        """Follow the scheduler of ``pipe``, whichever it has at the time, and of other pipelines that were given."""
        self._steps.follow(pipe)

    def begin(self, steps: int | None = None, branches: int | None = None) -> None:
        """Start a new request, and tell what nothing else does: a followed scheduler overrides it.

        Args:
            steps: the number of denoising steps. Without it, and without a pipeline that tells it, the config's
                ``warmup`` and ``searches`` apply unchanged.
            branches: the forwards in each step, for a transformer whose guidance branches have no names: 2 with
                classifier-free guidance by two calls. Needs ``steps``.

        Raises:
            ValueError: for numbers below 1, or ``branches`` alone.
        """
        for name, value in (("steps", steps), ("branches", branches)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer of at least 1 or None, got {value!r}")
        if branches is not None and steps is None:
            raise ValueError("steps must be given with branches: a request ends with its last step")
        self.reset()
        self._last = RequestRecord()
        self._steps.tell(steps, branches)

    def configure(self, config: AdaSpaConfig) -> None:
        """Use ``config`` from the next request on; a request in progress ends.

        Raises:
            ValueError: when it is no config, or names a dense layer that the model does not have.
        """
        self._checked(config)
        self.reset()
        self.config = config

    def _checked(self, config: AdaSpaConfig) -> AdaSpaConfig:
        if not isinstance(config, AdaSpaConfig):
            raise ValueError(f"config must be an AdaSpaConfig, got {type(config).__name__}")
        highest = max(config.dense_layers, default=0)
        if self._layers is not None and highest >= self._layers:
            raise ValueError(f"dense_layers must be layers of the model, 0 to {self._layers - 1}, got {highest}")
        return config

    def reset(self) -> None:
        """End the request in progress, if any, and drop its caches. Its report stays."""
        self._drop()
        self._steps.forget()

    @property
    def record(self) -> RequestRecord:
        """Record of the request in progress, or else of the last one."""
        if self._state is None:
            return self._last
        self._state.note_cache()
        return self._state.record

    def report(self) -> dict[str, Any]:
        """Report the figures of the request in progress, or else of the last one: see `RequestRecord.report`."""
        return self.record.report()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run one forward; RuntimeError if one of another thread is under way, whose request goes on.

        There is one request at a time, with one set of caches: two at once would attend by each other's blocks.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                "the transformer runs in another thread: with AdaSpa it makes one video at a time; "
                "take turns by a lock around the pipeline's call, or load a transformer for each thread"
            )
        try:
            yield
        finally:
            self._turn.release()

    def begin_forward(
        self,
        timestep: torch.Tensor | float | None,
        branch: str | None = None,
        step: int | None = None,
        steps: int | None = None,
    ) -> AdaSpaState:
        """Find the step and branch of the forward that comes now, and move the request there.

        Args:
            timestep: of the forward, for each sample or each token.
            branch, step, steps: guidance branch, step and number of steps as the pipeline tells them, or None.

        Raises:
            ValueError: when ``timestep`` is None and the steps have to be counted by it.
        """
        moment = self._steps.next(Cue(timestep, branch, step, steps))
        state = self._state
        if state is None or moment.begins is not Begins.NOTHING:
            state = self._state = self._begun(moment)
        if moment.place.dense_because is not None:
            state.fall_back(moment.place.dense_because)
        state.begin_step(moment.place.step, moment.branch)
        return state

    def _begun(self, moment: Moment) -> AdaSpaState:
        """Begin the state of the request, or of the window of the request in progress, at ``moment``."""
        before = self._state
        self._drop()
        state = AdaSpaState(self.config.resolve(moment.place.steps))
        if before is not None and moment.begins is Begins.WINDOW:
            state.go_on_from(before)
        return state

    def _drop(self) -> None:
        if self._state is not None:
            self._last = self._state.drop()
        self._state = None
