"""Where queued jobs stand: their place in the queue, and when a worker is expected to begin them."""

from adaspa_jobs.job import Job

from adaspa_service.gateway.parts import Parts
from adaspa_service.views import Place


def places(parts: Parts, jobs: list[Job], positions: dict[str, int] | None = None) -> dict[str, Place]:
    """The places of those of the jobs that wait, by id.

    Args:
        parts: the gateway's.
        jobs: those that are asked for.
        positions: theirs, where they are known; else the store is asked.
    """
    if positions is None:
        positions = parts.store.queue_positions(jobs)
    waiting = [job for job in jobs if job.id in positions]
    loads = {model: parts.loads.get(model) for model in {job.params.model for job in waiting}}
    found = {}
    for job in waiting:
        load = loads[job.params.model]
        starts_in = load.starts_in(job.priority, positions[job.id])
        workers = load.queues[job.priority].workers
        found[job.id] = Place(positions[job.id], None if starts_in is None else round(starts_in, 1), workers)
    return found
