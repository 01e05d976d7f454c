"""Job record as a Redis hash: plain fields as they are, nested ones as JSON."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from adaspa_jobs.job import Job

log = logging.getLogger(__name__)

NESTED = frozenset({"params", "progress", "error", "report", "timings", "warnings", "artifacts", "metadata"})
INTERNAL = frozenset({"model", "idempotency", "place", "process", "webhook_url", "inputs"})
"""Fields of the hash that only the scripts read."""


class RecordUnreadable(Exception):
    """A record that this version cannot read, such as one with a value that a later version brought."""


def job_from_hash(job_id: str, fields: Mapping[bytes, bytes]) -> Job:
    """Read the job of a record; empty fields are unset, and fields of a later version are ignored.

    Args:
        job_id: its id.
        fields: the hash as Redis gives it.

    Raises:
        RecordUnreadable: naming the job and the field.
    """
    plain: dict[str, Any] = {"id": job_id}
    for raw_name, value in fields.items():
        name = raw_name.decode()
        if value and name not in INTERNAL:
            try:
                plain[name] = from_json(value) if name in NESTED else value.decode()
            except ValueError as error:
                raise RecordUnreadable(f"{job_id}: record: {name}: {error}") from error
    try:
        return Job.model_validate(plain, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        version = plain.get("schema_version", 1)
        raise RecordUnreadable(f"{job_id}: record of version {version}: {where}: {first['msg']}") from error


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
