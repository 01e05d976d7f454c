"""Announcements of the models that are served, made by workers while they are there."""

import logging
from collections.abc import Collection

from adaspa_api.words import Priority
from pydantic import ValidationError

from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.scripts import Scripts

log = logging.getLogger(__name__)

ANNOUNCED_SECONDS = 60.0
"""A model that no worker has announced for this long is served only if the gateway's own catalog has it."""
COUNTED_SECONDS = 20.0
"""A worker that has announced nothing for this long is not counted when times are estimated."""

REMEMBERED_SECONDS = 900.0
"""Seconds after its last announcement in which a worker is left what fits into its memory alone: it may restart."""


class Announcements:
    """Part of a JobStore that knows the models."""

    _scripts: Scripts
    _unreadable: set[bytes]

    def announce(
        self,
        spec: ModelSpec,
        worker: str,
        priorities: Collection[Priority] = tuple(Priority),
        fits: Fits | None = None,
    ) -> dict[Priority, int]:
        """Say that a worker serves this model's queues; to be repeated well within ``COUNTED_SECONDS``.

        Args:
            spec: the model's catalog entry.
            worker: its name.
            priorities: of the queues.
            fits: what fits into its memory; None if that is not known. Remembered for ``REMEMBERED_SECONDS``: workers
                with less memory leave it to this one.

        Returns:
            For each of the queues how many bells the worker is to ring: more jobs wait than have one.
        """
        bells = self._scripts.run(
            "announce",
            model=spec.id,
            content=spec.model_dump_json().encode(),
            holds_ms=round(ANNOUNCED_SECONDS * 1000),
            worker=worker,
            counts_ms=round(COUNTED_SECONDS * 1000),
            priorities=list(priorities),
            fits=None if fits is None else fits.model_dump_json(),
            remembers_ms=round(REMEMBERED_SECONDS * 1000),
        )
        return dict(zip(priorities, bells, strict=True))

    def announced(self) -> list[ModelSpec]:
        """Return the models that workers serve now.

        Fields that a later version added are ignored. An entry that this version cannot read is skipped and logged.
        """
        found = []
        for text in self._scripts.run("announced"):
            try:
                found.append(ModelSpec.model_validate_json(text, extra="ignore"))
            except ValidationError as error:
                if text not in self._unreadable:
                    self._unreadable.add(text)
                    log.warning("ignoring a worker's model, which this version cannot read: %s", error)
        return found
