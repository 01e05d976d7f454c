"""Checkpoints of a denoising in storage: a later attempt goes on where one was lost, instead of at step 0.

A checkpoint is one object, ``checkpoints/{job}/{attempt}-{step}-{nonce}``, created whole and never written again: what
a stalled worker still writes never replaces, and never outranks, what a later attempt wrote.
Layout: SHA-256 of what follows (32 bytes), then ``torch.save`` of the engine's snapshot with the job it belongs to.
"""

import hashlib
import io
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from adaspa_jobs.job import JobParams
from adaspa_jobs.storage import ObjectMissing, ObjectStorage, StorageUnavailable, checkpoint_prefix
from adaspa_jobs.store import Lease
from pydantic import ValidationError

log = logging.getLogger(__name__)

DIGEST_BYTES = 32
VERSION = 2
"""Version of the snapshot's contents; jobs do not resume from other versions."""


class BadCheckpoint(Exception):
    """A checkpoint is broken, or another job's."""


@dataclass
class Checkpoints:
    """Checkpoints of one attempt at a job.

    Args:
        storage: where they lie.
        lease: the attempt's.
        every_steps: denoising steps between two checkpoints, at most; None is no limit.
        every_seconds: seconds between two checkpoints, at most.
        entry: what the model's catalog entry says of the denoising. A checkpoint of another entry is ignored: its
            latents are of other weights, or on another way through the noise.
    """

    storage: ObjectStorage
    lease: Lease
    every_steps: int | None
    every_seconds: float
    entry: str = ""
    _last_step: int = 0
    _last_time: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any] | None:
        """Return the snapshot to resume from; None to begin at step 0. Broken or foreign checkpoints are ignored."""
        try:
            for key in self._keys():
                try:
                    snapshot = unpack(self.storage.read(key), self.lease.job.params.identity)
                    if snapshot.get("entry", self.entry) != self.entry:  # earlier versions wrote none
                        raise BadCheckpoint("the model's entry in the catalog has changed since")
                except (BadCheckpoint, ObjectMissing) as error:
                    log.warning("%s: ignoring checkpoint %s: %s", self.lease.job.id, key, error)
                else:
                    self._last_step, self._last_time = snapshot["step"], time.monotonic()
                    log.info("%s: resumed from step %d (%s)", self.lease.job.id, snapshot["step"], key)
                    return snapshot
        except StorageUnavailable as error:
            log.warning("%s: no readable checkpoint, starting at step 0: %s", self.lease.job.id, error)
        return None

    def due(self, step: int) -> bool:
        """Return whether it is time for a checkpoint after this many finished steps."""
        enough_steps = self.every_steps is not None and step - self._last_step >= self.every_steps
        return enough_steps or time.monotonic() - self._last_time >= self.every_seconds

    def save(self, snapshot: dict[str, Any]) -> None:
        """Store a snapshot, then remove the older ones. Without storage the job goes on, without a checkpoint."""
        job, step = self.lease.job, snapshot["step"]
        nonce = self.lease.token.rpartition("-")[2]
        key = f"{checkpoint_prefix(job.id)}{self.lease.attempt:06d}-{step:06d}-{nonce}"
        self._last_step, self._last_time = step, time.monotonic()
        try:
            self.storage.create(key, pack({**snapshot, "entry": self.entry}, job.params.identity))
            for older in self._keys():
                if older < key:
                    self.storage.delete(older)
        except StorageUnavailable as error:
            log.warning("%s: could not write the checkpoint of step %d: %s", job.id, step, error)

    def _keys(self) -> list[str]:
        """Return the job's checkpoints, the latest attempt's latest step first."""
        return sorted(self.storage.keys(checkpoint_prefix(self.lease.job.id)), reverse=True)


def pack(snapshot: dict[str, Any], job: str) -> bytes:
    """A snapshot as bytes, marked with the parameters of its job."""
    import torch  # noqa: PLC0415  loaded by now; the worker's parent must not

    buffer = io.BytesIO()
    torch.save({"version": VERSION, "job": job, **snapshot}, buffer)
    return hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue()


def unpack(content: bytes, job: str) -> dict[str, Any]:
    """Return the snapshot of ``pack``. Nothing in it is executed. Raises BadCheckpoint."""
    import torch  # noqa: PLC0415

    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise BadCheckpoint("its bytes have changed since it was written")
    try:
        snapshot: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    except Exception as error:  # torch names no type for this: a device that is not here, a newer format
        raise BadCheckpoint(f"this worker cannot read it ({type(error).__name__})") from error
    if snapshot["version"] != VERSION or identity(snapshot["job"]) != identity(job):
        raise BadCheckpoint("it belongs to another job or version")
    return snapshot


def identity(job: str) -> str | None:
    """Return what was asked, equal whichever version wrote it; None if this version does not know all of it."""
    try:
        return JobParams.model_validate_json(job).identity
    except ValidationError:
        return None
