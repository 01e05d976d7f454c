"""Account of a failed job: what it says of the error that ended it, and whose fault that was."""

import errno
import sys

from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.storage import StorageUnavailable

from adaspa_worker.blank import BlankClip
from adaspa_worker.group import GroupFailed
from adaspa_worker.hub import first_line
from adaspa_worker.lease import TimeLimitExceeded
from adaspa_worker.source import ModelUnavailable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLAIN = {
    ErrorCode.disk_full: "The worker's disk is full.",
    ErrorCode.out_of_memory: "The worker ran out of memory while generating this video.",
}
"""Messages of errors whose own say nothing to the one who asked."""
INSIDE = {
    ErrorCode.storage_unavailable: "The service's storage was unavailable for this video.",
    ErrorCode.model_unavailable: "The worker could not load the model.",
}
"""Messages of errors whose own name the operator's addresses, buckets and folders; the worker's log has those."""
MAX_MESSAGE = 500
"""Characters of an error's message that go into the job record."""


class NotLoaded(Exception):
    """Failure to load the model; the cause says why."""


def is_the_workers(error: Exception) -> bool:
    """Tell whether another worker may run the job: this one has a broken model, device or storage, or a full disk."""
    return (
        isinstance(error, NotLoaded | StorageUnavailable | GroupFailed)
        or is_device_failure(error)
        or is_disk_full(error)
    )


def is_device_failure(error: Exception) -> bool:
    """Tell whether the device reported an error, which then stays until the process ends."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.AcceleratorError)


def is_disk_full(error: Exception) -> bool:
    """Tell whether the worker's own disk has no room."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def describe(error: Exception, *, to_operator: bool = False) -> JobError:
    """Describe the error of a failed job: a documented code, and a message for its sender, who may be the operator."""
    cause = error.__cause__ if isinstance(error, NotLoaded) and isinstance(error.__cause__, Exception) else error
    code = code_of(cause)
    if plain := (PLAIN if to_operator else PLAIN | INSIDE).get(code):
        return JobError(code=code, message=plain)
    name = f"{type(cause).__name__}: " if code is ErrorCode.generation_failed else ""
    return JobError(code=code, message=f"{name}{first_line(cause)}"[:MAX_MESSAGE])


def code_of(error: Exception) -> ErrorCode:
    """Return the code of an error."""
    known: dict[type[Exception], ErrorCode] = {
        TimeLimitExceeded: ErrorCode.time_limit,
        ModelUnavailable: ErrorCode.model_unavailable,
        StorageUnavailable: ErrorCode.storage_unavailable,
        MemoryError: ErrorCode.out_of_memory,
        GroupFailed: ErrorCode.device_failed,
        BlankClip: ErrorCode.blank_clip,
    }
    for kind, code in known.items():
        if isinstance(error, kind):
            return code
    if is_disk_full(error):
        return ErrorCode.disk_full
    if is_device_failure(error):
        return ErrorCode.device_failed
    # Not before these: while a job hangs in the import of torch, another thread would wait for that here.
    from torch import OutOfMemoryError  # noqa: PLC0415  the worker's parent must not

    from adaspa_worker.pipeline import NotFinite  # noqa: PLC0415

    if isinstance(error, OutOfMemoryError):
        return ErrorCode.out_of_memory
    return ErrorCode.not_finite if isinstance(error, NotFinite) else ErrorCode.generation_failed
