"""What a failed job says of the error that ended it."""

import errno

from adaspa_service.contract.job import ErrorCode, JobError
from adaspa_service.contract.storage import StorageUnavailable

from adaspa_worker.source import ModelUnavailable, first_line

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_MESSAGE = 500
"""Characters of an error's message that go into the job record."""


def describe(error: Exception) -> JobError:
    """The error of a failed job: a documented code, and a message for the one who asked."""
    if isinstance(error, ModelUnavailable):
        return JobError(code=ErrorCode.model_unavailable, message=str(error)[:MAX_MESSAGE])
    if isinstance(error, StorageUnavailable):
        return JobError(code=ErrorCode.storage_unavailable, message=str(error)[:MAX_MESSAGE])
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return JobError(code=ErrorCode.disk_full, message="The worker has no room left for the video's files.")
    from torch import OutOfMemoryError  # noqa: PLC0415  loaded by now, unless the worker could not load it

    from adaspa_worker.pipeline import NotFinite  # noqa: PLC0415

    if isinstance(error, NotFinite):
        return JobError(code=ErrorCode.not_finite, message=str(error))
    if isinstance(error, OutOfMemoryError | MemoryError):
        return JobError(code=ErrorCode.out_of_memory, message="The worker ran out of memory generating this video.")
    return JobError(
        code=ErrorCode.generation_failed, message=f"{type(error).__name__}: {first_line(error)}"[:MAX_MESSAGE]
    )
