"""A gateway with points to strike at, that looks for orphaned checkpoints every few seconds: an audit need not wait."""

from typing import Any

from adaspa_jobs.store import Admitted, JobStore
from adaspa_service.gateway import janitor, videos
from adaspa_service.gateway.__main__ import main

from chaos.points import around


def admitted(_: Any, __: Any, params: Any, *___: Any) -> int:
    """The job that is accepted."""
    seed: int = params[0].seed
    return seed


def answered(_: None, __: Any, made: Admitted) -> int:
    """The job whose bell is to be rung."""
    return made.jobs[0].params.seed


if __name__ == "__main__":
    janitor.ORPHANS_SECONDS = 5.0
    around(JobStore, "admit_all", None, "admitted", admitted)
    if hasattr(videos, "ring_for"):  # an earlier version's gateway rings before it answers
        around(videos, "ring_for", "answered", None, answered)
    main()
