"""Videos in storage whose job Redis does not know: it was emptied, or restored from before the job.

The janitor leaves them alone, because Redis may be the wrong one, or come back; of checkpoints it removes such ones.
"""

import time
from dataclasses import dataclass

from adaspa_jobs.storage import VIDEOS, ObjectStorage, video_prefix
from adaspa_jobs.store import VIDEO_ID, JobStore


@dataclass
class Orphan:
    """The files under the id of one job."""

    job_id: str
    files: int = 0
    bytes: int = 0
    written_at: float = 0.0
    """When the latest of them was written, in Unix seconds by the storage's clock."""


def find_orphans(storage: ObjectStorage, store: JobStore, older_than: float) -> tuple[list[Orphan], int]:
    """The jobs that have files and no record, and how many that have files have one.

    Args:
        storage: what is listed.
        store: who knows the jobs.
        older_than: seconds for which nothing was written under their ids.

    Raises:
        StorageUnavailable, StoreUnavailable.
    """
    found: dict[str, Orphan] = {}
    for stored in storage.entries(VIDEOS):
        job_id = stored.key.removeprefix(VIDEOS).split("/")[0]
        if VIDEO_ID.fullmatch(job_id):  # what else lies there is not ours
            orphan = found.setdefault(job_id, Orphan(job_id))
            orphan.files += 1
            orphan.bytes += stored.bytes
            orphan.written_at = max(orphan.written_at, stored.written_at)
    known = store.known(sorted(found))
    before = time.time() - older_than
    unknown = [found[job_id] for job_id in sorted(found.keys() - known)]
    return [orphan for orphan in unknown if orphan.written_at < before], len(known)


def remove_orphan(storage: ObjectStorage, orphan: Orphan) -> None:
    """Remove all that lies under its id. Raises StorageUnavailable."""
    storage.delete_prefix(video_prefix(orphan.job_id))
