"""The job record as a Redis hash: plain fields as they are, nested ones as JSON."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from adaspa_service.contract.job import Job

NESTED = frozenset({"params", "progress", "error", "report", "timings", "artifacts"})
INTERNAL = frozenset({"model", "idempotency", "sent_at"})
"""Fields of the hash that only the scripts read."""


def job_from_hash(job_id: str, fields: Mapping[bytes, bytes]) -> Job:
    """The job of a record; empty fields are unset ones.

    Args:
        job_id: its id.
        fields: the hash as Redis gives it.
    """
    plain: dict[str, Any] = {"id": job_id}
    for raw_name, value in fields.items():
        name = raw_name.decode()
        if value and name not in INTERNAL:
            plain[name] = from_json(value) if name in NESTED else value.decode()
    return Job.model_validate(plain)
