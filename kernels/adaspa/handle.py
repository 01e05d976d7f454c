"""`transformer.adaspa`: the requests of one transformer, one after the other."""

from __future__ import annotations

from typing import Any

import torch

from adaspa.bound import Bound
from adaspa.config import AdaSpaConfig
from adaspa.layout import Layout, Permutation
from adaspa.record import RequestRecord
from adaspa.state import AdaSpaState


class AdaSpaHandle(Bound):
    """Follows the denoising of a transformer, and holds the state of the request in progress.

    It finds the steps by itself: from what the pipeline says in ``cache_context`` (step, number of steps, CFG branch),
    or else from the timestep, where a change is a new step, the same again is the next CFG branch, and a rise is a new
    request. The caches are dropped when the pipeline is done, when the transformer raises, and by ``reset``.

    """

    def __init__(self, config: AdaSpaConfig) -> None:
        self.config = config
        self.layout = Layout()
        self.tiles: Permutation | None = None
        self.running = False
        """Whether a forward of the transformer is under way that our hook knows of."""
        self._state: AdaSpaState | None = None
        self._steps: int | None = None
        self._timestep: float | None = None
        self._branches: set[str] = set()
        self._last = RequestRecord()

    @property
    def state(self) -> AdaSpaState | None:
        """The request in progress, or None."""
        return self._state

    @property
    def step(self) -> int | None:
        """The current denoising step, 0 being the first; None outside a request."""
        return self._state.step if self._state else None

    @property
    def step_kind(self) -> str | None:
        """``dense``, ``search`` or ``sparse`` for the current step; None outside a request."""
        return self._state.kind.value if self._state else None

    def begin(self, steps: int | None = None) -> None:
        """Start a new request of ``steps`` denoising steps, or of a number that the pipeline tells.

        Not needed with a pipeline that tells the steps in its ``cache_context``, or for a schedule as it stands.
        """
        if steps is not None and (not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps must be an integer of at least 1 or None, got {steps!r}")
        self.reset()
        self._last = RequestRecord()
        self._steps = steps

    def configure(self, config: AdaSpaConfig) -> None:
        """Use ``config`` from the next request on; a request in progress ends."""
        if not isinstance(config, AdaSpaConfig):
            raise ValueError(f"config must be an AdaSpaConfig, got {type(config).__name__}")
        self.reset()
        self.config = config

    def reset(self) -> None:
        """End the request in progress, if any, and drop its caches. Its report stays."""
        if self._state is not None:
            self._last = self._state.drop()
        self._state = None
        self._steps = None
        self._timestep = None
        self._branches.clear()

    @property
    def record(self) -> RequestRecord:
        """The record of the request in progress, or else of the last one."""
        if self._state is None:
            return self._last
        self._state.note_cache()
        return self._state.record

    def report(self) -> dict[str, Any]:
        """The figures of the request in progress, or else of the last one: see `RequestRecord.report`."""
        return self.record.report()

    def begin_forward(
        self, timestep: torch.Tensor | float | None, branch: str | None, step: int | None, steps: int | None
    ) -> AdaSpaState:
        """Find the step and branch of the forward that comes now, and move the request there.

        Args:
            timestep: the scheduler's timestep; read only where the pipeline tells no ``step``.
            branch, step, steps: CFG branch, step and number of steps as the pipeline tells them, or None.
        """
        if step is None:
            step, branch = self._follow_timestep(timestep, branch)
        else:
            branch = branch or ""
            if self.step is not None and (step < self.step or (step == self.step and branch in self._branches)):
                self.reset()
        if self._state is None:
            self._state = AdaSpaState(self.config, self._steps if self._steps is not None else steps)
        if step != self._state.step:
            self._branches.clear()
        self._branches.add(branch)
        self._state.begin_step(step, branch)
        return self._state

    def _follow_timestep(self, timestep: torch.Tensor | float | None, branch: str | None) -> tuple[int, str]:
        """The step and branch by the change of the timestep."""
        if timestep is None:
            raise ValueError("timestep must be given: the denoising steps are counted by it")
        # With a timestep per token the conditioning frames have 0; a denoising step has one value otherwise.
        now = float(timestep.max()) if isinstance(timestep, torch.Tensor) else float(timestep)
        repeated = now == self._timestep
        if self._timestep is not None and (now > self._timestep or (repeated and branch in self._branches)):
            self.reset()
            repeated = False
        if self._state is None or self._state.step is None:
            step = 0
        else:
            step = self._state.step if repeated else self._state.step + 1
        self._timestep = now
        if branch is None:
            branch = str(len(self._branches) if repeated else 0)
        return step, branch
