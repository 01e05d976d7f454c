"""Course of a job in this process: its phases and steps, told and timed."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adaspa_api.report import TokenCount
from adaspa_api.words import Phase, StepKind
from adaspa_jobs.job import JobParams, Progress
from opentelemetry import trace

from adaspa_worker import metrics

tracer = trace.get_tracer(__name__)


class Course:
    """Course of one job.

    Args:
        params: what was asked.
        tell: gets each ``Progress``, and may raise.
    """

    def __init__(self, params: JobParams, tell: Callable[[Progress], None]) -> None:
        self.params, self.tell = params, tell
        self.timings: dict[str, float] = {}
        """Seconds by phase; and of the previews and the encoding, which are part of one."""
        self.tokens: dict[str, TokenCount] = {}
        """Token counts of the texts, once they are encoded."""
        self.resumed_from: int | None = None
        self.preview_step: int | None = None
        self.progress = Progress(steps=params.steps)
        """Latest progress that was told."""
        self._recent: deque[float] = deque(maxlen=5)
        self._last = time.monotonic()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Tell of a phase, and time it."""
        self._tell(name, self.params.steps if name in ("decoding", "uploading") else 0)
        start = self._last = time.monotonic()
        with tracer.start_as_current_span(name):
            yield
        self.record(name, time.monotonic() - start)

    def resume(self, step: int) -> None:
        """Tell that the denoising goes on after a step that an earlier attempt finished."""
        self.resumed_from = step
        self._tell("denoising", step)
        self._last = time.monotonic()

    def step(self, done: int, kind: StepKind | None) -> None:
        """Tell of a finished denoising step, with the seconds that are left."""
        now = time.monotonic()
        self._recent.append(now - self._last)
        metrics.step_seconds.labels(self.params.model, kind or "dense").observe(now - self._last)
        self._last = now
        # The median, because a search step or the first step's warm-up says little about the steps to come.
        eta = round((self.params.steps - done) * statistics.median(self._recent), 1) if done >= 2 else None
        self._tell("denoising", done, kind, eta)

    def record(self, part: str, seconds: float) -> None:
        """Note the seconds of a phase, or of a part of one."""
        self.timings[part] = round(seconds, 3)
        metrics.phase_seconds.labels(self.params.model, part).observe(seconds)

    def _tell(self, phase: Phase, step: int, kind: StepKind | None = None, eta: float | None = None) -> None:
        self.progress = Progress(
            phase=phase,
            step=step,
            steps=self.params.steps,
            resumed_from_step=self.resumed_from,
            step_kind=kind,
            eta_seconds=eta,
            preview_step=self.preview_step,
            **self.tokens,
        )
        self.tell(self.progress)
