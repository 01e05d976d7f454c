"""Requests that fit into a worker's memory: workers announce them, and gateways refuse what fits into no worker."""

from typing import Self

from pydantic import BaseModel

from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams

OWN = ""
"""Stands for the catalog's own attention settings, among the presets."""


class Fits(BaseModel):
    """Part of a catalog entry that fits into a worker's memory."""

    limit: int
    """Memory in bytes that the worker may use for its model and one job."""
    frames: dict[str, dict[str, int]]
    """Most frames, by preset and size; 0 if no number of frames fits."""

    def takes(self, params: JobParams) -> bool:
        """Return whether a request fits. A size or preset that the worker's catalog lacks counts as fitting."""
        most = self.of(params).get(f"{params.width}x{params.height}")
        return most is None or params.num_frames <= most

    def of(self, params: JobParams) -> dict[str, int]:
        """Most frames by size, with the preset of a request."""
        return self.frames.get(OWN if params.quality is None else params.quality.value, {})

    def missing(self, spec: ModelSpec) -> str:
        """Describe what the catalog entry offers and does not fit; empty if everything fits."""
        lacking: dict[str, list[str]] = {}
        for preset, by_size in self.frames.items():
            for size, most in by_size.items():
                if over := [str(frames) for frames in sorted(spec.frames) if frames > most]:
                    lacking.setdefault(f"{size} with {', '.join(over)} frames", []).append(preset or "default")
        whole = len(self.frames)
        return "; ".join(
            said if len(presets) == whole else f"{said} ({', '.join(presets)})" for said, presets in lacking.items()
        )

    @classmethod
    def read(cls, text: bytes) -> Self | None:
        """Read a worker's announcement; None if it is empty, or this version cannot read it."""
        try:
            return cls.model_validate_json(text) if text else None
        except ValueError:
            return None
