"""Queue positions: where waiting jobs stand, and when a worker is expected to begin each."""

from adaspa_jobs.counts import Load
from adaspa_jobs.job import Job

from adaspa_service.gateway.state import AppState
from adaspa_service.views import QueuePosition


def queue_positions(
    state: AppState, jobs: list[Job], positions: dict[str, int] | None = None
) -> dict[str, QueuePosition]:
    """Find where each of the jobs that wait stands, by id.

    Args:
        state: the gateway's.
        jobs: those that are asked for.
        positions: theirs, if known already; else the store is asked.
    """
    if positions is None:
        positions = state.store.queue_positions(jobs)
    waiting = [job for job in jobs if job.id in positions]
    loads = {model: state.loads.get(model) for model in {job.params.model for job in waiting}}
    found = {}
    for job in waiting:
        found[job.id] = place(loads[job.params.model], job, positions[job.id])
    return found


def place(load: Load, job: Job, position: int) -> QueuePosition:
    """Compute a waiting job's position while its model is as busy as this."""
    starts_in = load.starts_in(job.priority, position)
    workers = load.queues[job.priority].workers
    return QueuePosition(position, None if starts_in is None else round(starts_in, 1), workers)
