"""Clips without any service: ``python -m adaspa_worker.local`` runs jobs in this process, one after the other.

Standard input is a JSON array of ``{"params": JobParams, "output": path}``, all of one model. Standard output has a
JSON object a line: ``{"job": n, "progress": Progress}`` as a job moves on, ``{"job": n, "attention": AttentionReport,
"timings": {...}}`` when its file is there, ``{"error": JobError}`` as the last line when one fails.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaspa_api.report import TokenCount
from adaspa_api.words import Phase, StepKind
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.settings import SettingsError, get_settings
from pydantic import BaseModel, TypeAdapter

from adaspa_worker.failure import describe
from adaspa_worker.offer import check
from adaspa_worker.source import ModelUnavailable, resolve

Tell = Callable[[dict[str, Any]], None]


class LocalJob(BaseModel):
    """One clip to make."""

    params: JobParams
    output: Path


class Run:
    """One job in this process."""

    def __init__(self, job: LocalJob, number: int, tell: Tell) -> None:
        self.params, self.output, self.number, self.tell = job.params, job.output, number, tell
        self.timings: dict[str, float] = {}
        self.tokens: dict[str, TokenCount] = {}
        self._seconds: list[float] = []
        self._last = 0.0

    def make(self, engine: Any) -> None:
        """Write the file, and tell what AdaSpa did. It is there only when it is whole."""
        from adaspa_worker.encode import VideoWriter, encode  # noqa: PLC0415  slow to import, with all it needs
        from adaspa_worker.recipe import write_recipe  # noqa: PLC0415

        asked = self.params
        try:
            with self.phase("encoding_prompt"):
                encoded = engine.encode_prompt(asked)
            self.tokens = encoded.tokens
            with self.phase("denoising"):
                self._last = time.monotonic()
                latents = engine.denoise(asked, encoded, self.after_step)
            report = engine.report()
            part = self.output.with_name(f".part-{self.output.name}")
            writer = VideoWriter(
                part,
                asked.output_format,
                width=asked.width,
                height=asked.height,
                fps=asked.fps,
                num_frames=asked.num_frames,
                comment=write_recipe(asked, engine.attention(asked)),
            )
            try:
                with self.phase("decoding"):
                    encode(engine.frames(latents, lambda: None), writer)
                part.replace(self.output)
            finally:
                part.unlink(missing_ok=True)
        finally:
            engine.reset()
        self.tell({"job": self.number, "attention": report, "timings": self.timings})

    def after_step(self, done: int, kind: StepKind | None) -> None:
        """Tell of a denoising step, with the time that is left by the median of the last ones."""
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now
        left = (self.params.steps - done) * statistics.median(self._seconds[-5:])
        self.progress("denoising", done, kind, round(left, 1) if done >= 2 else None)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Tell of a phase, and time it in seconds."""
        self.progress(name, self.params.steps if name == "decoding" else 0)
        start = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - start, 3)

    def progress(self, phase: Phase, step: int, kind: StepKind | None = None, eta: float | None = None) -> None:
        moved = Progress(phase=phase, step=step, steps=self.params.steps, step_kind=kind, eta_seconds=eta)
        moved = moved.model_copy(update=self.tokens)
        self.tell({"job": self.number, "progress": moved.model_dump(exclude_none=True)})


def make_all(jobs: list[LocalJob], tell: Tell) -> None:
    """Load the model of the jobs, and make them.

    Raises:
        ModelUnavailable: it is not in the catalog, or does not load.
    """
    first = Run(jobs[0], 0, tell)
    with first.phase("loading"):
        from adaspa_worker.pipeline import load  # noqa: PLC0415  torch, which takes its seconds

        name = jobs[0].params.model
        spec = Catalog.load(get_settings().catalog).get(name)
        if spec is None:
            raise ModelUnavailable(f"{name}: not in the catalog")
        folder = resolve(spec.source)
        check(spec, folder)
        engine = load(spec, folder)
    for number, job in enumerate(jobs):
        run = first if number == 0 else Run(job, number, tell)
        run.make(engine)


def main() -> None:
    """Read the jobs, run them, and end with status 1 if one fails."""
    # What the libraries print goes to standard error: the lines on standard output are for a program.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=out, flush=True)

    jobs = TypeAdapter(list[LocalJob]).validate_json(sys.stdin.buffer.read())
    try:
        make_all(jobs, tell)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SettingsError, CatalogError) as error:
        raise SystemExit(str(error)) from error
    except Exception as error:
        tell({"error": describe(error, to_operator=True).model_dump(mode="json")})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
