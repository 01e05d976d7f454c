"""Job record as a Redis hash: plain fields as they are, nested ones as JSON."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from adaspa_jobs.job import SCHEMA_VERSION, Job

log = logging.getLogger(__name__)

NESTED = frozenset({"params", "progress", "error", "report", "timings", "warnings", "artifacts", "metadata"})
INTERNAL = frozenset({"model", "idempotency", "place", "process", "lease_ms", "gpus", "webhook_url", "inputs"})
"""Fields of the hash that only the scripts read."""


class RecordUnreadable(Exception):
    """A record that this version cannot read, because it has a value that a later version brought.

    Args:
        job_id: its job.
        problem: the field, and what is wrong with it.
        fields: the hash as Redis gives it.
    """

    def __init__(self, job_id: str, problem: str, fields: Mapping[bytes, bytes]) -> None:
        version = fields.get(b"schema_version", b"?").decode(errors="replace")
        super().__init__(f"{job_id}: record of version {version}: {problem}")
        self.job_id, self._fields = job_id, fields

    def is_shown_to(self, owner: str) -> bool:
        """Tell whether this owner may hear of it: the job is theirs, and was not deleted."""
        return self._fields.get(b"owner") == owner.encode() and self._fields.get(b"discarded") != b"1"


class RecordDamaged(RecordUnreadable):
    """A record that no version can read."""


def job_from_hash(job_id: str, fields: Mapping[bytes, bytes]) -> Job:
    """Read the job of a record; empty fields are unset, and fields of a later version are ignored.

    Args:
        job_id: its id.
        fields: the hash as Redis gives it.

    Raises:
        RecordUnreadable, RecordDamaged: naming the job and the field.
    """
    plain: dict[str, Any] = {"id": job_id}
    for raw_name, value in fields.items():
        name = raw_name.decode(errors="replace")
        if value and name not in INTERNAL:
            try:
                plain[name] = from_json(value) if name in NESTED else value.decode()
            except ValueError as error:
                raise unreadable(job_id, f"{name}: {error}", fields) from error
    try:
        return Job.model_validate(plain, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise unreadable(job_id, f"{where}: {first['msg']}", fields) from error


def unreadable(job_id: str, problem: str, fields: Mapping[bytes, bytes]) -> RecordUnreadable:
    """Return the error of a record: a later version may be able to read its own."""
    version = fields.get(b"schema_version", b"")
    later = version.isdigit() and int(version) > SCHEMA_VERSION
    return (RecordUnreadable if later else RecordDamaged)(job_id, problem, fields)


def job_from_pairs(job_id: bytes, fields: list[bytes]) -> Job:
    """Read the job of a record as a script gives it: names and values in turns. Raises RecordUnreadable."""
    return job_from_hash(job_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))


def readable(records: Iterable[tuple[str, Mapping[bytes, bytes]]]) -> list[Job]:
    """Read the jobs of those records that are there and can be read; the others are only logged.

    Args:
        records: ids, and hashes as Redis gives them.
    """
    jobs = []
    for job_id, fields in records:
        try:
            if fields:
                jobs.append(job_from_hash(job_id, fields))
        except RecordUnreadable as error:
            log.warning("%s", error)
    return jobs
