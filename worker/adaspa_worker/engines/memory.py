"""Memory of the running job: its predicted peak, its measured peak, and the choice of tiles for decoding."""

import logging
from pathlib import Path

import torch
from adaspa_api.report import MemoryReport
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams

from adaspa_worker.engines.preflight import Peak, Preflight, preflight_of
from adaspa_worker.hub import first_line
from adaspa_worker.memory_limit import memory_limit

log = logging.getLogger(__name__)


class Memory:
    """Memory of one job after another.

    Args:
        spec, folder: of the model.
        device: where it runs.
    """

    def __init__(self, spec: ModelSpec, folder: Path, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._peak: Peak | None = None
        self.tiled = False
        """True if the clip was decoded in tiles."""
        try:
            self._flight: Preflight | None = preflight_of(spec, folder)
        except NotImplementedError:
            self._flight = None

    def begin(self, params: JobParams) -> None:
        """Predict a job's peak, and begin to measure it."""
        self.tiled = False
        self._peak = self._predicted(params)
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    @property
    def needs_tiles(self) -> bool:
        """Return whether the job has to be decoded in tiles."""
        limit = memory_limit()
        return limit is not None and self._peak is not None and self._peak.tiles(limit)

    def report(self) -> MemoryReport:
        """Return the predicted and the measured peak."""
        predicted = None if self._peak is None else self._peak.with_tiles(tiled=self.tiled)
        return MemoryReport(
            predicted_bytes=predicted,
            peak_bytes=torch.cuda.max_memory_allocated() if self._on_gpu else None,
            tiled=self.tiled,
        )

    def _predicted(self, params: JobParams) -> Peak | None:
        if self._flight is None or memory_limit() is None:  # nothing depends on it
            return None
        try:
            return self._flight.peak(params)
        except NotImplementedError:
            self._flight = None
        except Exception as error:  # of a shape that nobody tried, which the job itself may well run
            log.warning("the job's memory cannot be predicted: %s", first_line(error))
        return None
