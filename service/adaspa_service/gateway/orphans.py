"""Files and images in storage whose jobs Redis does not know: it was emptied or damaged, or restored from before them.

The janitor leaves them alone, because Redis may be the wrong one, or come back. It removes checkpoints of no job, and
images of which Redis itself says that no job was admitted for them.
"""

import time
from dataclasses import dataclass

from adaspa_jobs.storage import INPUTS, VIDEOS, ObjectStorage
from adaspa_jobs.store import VIDEO_ID, JobStore

from adaspa_service.inputs.keep import FOLDER


@dataclass
class Orphan:
    """Files under the id of one job, or those of one request."""

    prefix: str
    """Common prefix of their keys."""
    files: int = 0
    bytes: int = 0
    written_at: float = 0.0
    """Time at which the latest of them was written, in Unix seconds by the storage's clock."""

    @property
    def name(self) -> str:
        """Id of the job, or the folder of the request's images."""
        return self.prefix.split("/")[1]

    @property
    def job_id(self) -> str | None:
        """Id of the job; None for images."""
        return self.name if self.prefix.startswith(VIDEOS) else None


def find_orphans(storage: ObjectStorage, store: JobStore, older_than: float) -> tuple[list[Orphan], int]:
    """Find what belongs to no job, and count the known jobs and requests that have files.

    Args:
        storage: what is listed.
        store: who knows the jobs.
        older_than: seconds for which nothing was written under their ids.

    Raises:
        StorageUnavailable, StoreUnavailable.
    """
    orphans, known = [], 0
    before = time.time() - older_than
    for top, names, in_use in ((VIDEOS, VIDEO_ID, store.known), (INPUTS, FOLDER, store.inputs_in_use)):
        found: dict[str, Orphan] = {}
        for stored in storage.entries(top):
            name = stored.key.removeprefix(top).split("/")[0]
            if names.fullmatch(name):  # what else lies there is not ours
                orphan = found.setdefault(name, Orphan(f"{top}{name}/"))
                orphan.files += 1
                orphan.bytes += stored.bytes
                orphan.written_at = max(orphan.written_at, stored.written_at)
        used = in_use(sorted(found))
        orphans += [orphan for name, orphan in sorted(found.items()) if name not in used and orphan.written_at < before]
        known += len(used)
    return orphans, known


def remove_orphan(storage: ObjectStorage, store: JobStore, orphan: Orphan) -> None:
    """Remove all that lies under its id. Raises StorageUnavailable, StoreUnavailable."""
    storage.delete_prefix(orphan.prefix)
    if orphan.job_id is None:
        store.forget_inputs(orphan.name)
