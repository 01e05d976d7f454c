"""Resources that the attempts of a worker share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adaspa_jobs.storage import ObjectStorage

from adaspa_worker.provenance import Provenance

if TYPE_CHECKING:
    from adaspa_worker.pipeline import Engine


@dataclass(kw_only=True)
class Resources:
    """Resources that the attempts of a worker share.

    Args:
        storage: where objects live.
        engine: returns the loaded engine of a model, loading it at the first call; raises ModelUnavailable.
        name: the worker's, which no other has.
        entry: what of the model's catalog entry a denoising depends on: no checkpoint of another is resumed.
        checkpoint_steps, checkpoint_seconds: how often a denoising is checkpointed, whichever comes first.
        fail_blank: whether a clip that shows nothing fails, and is not only noted in its record.
        provenance: what videos say of where they come from.
        upload_retry_seconds: how long an upload is tried again while storage is away, before the job is left to others.
    """

    storage: ObjectStorage
    engine: Callable[[str], "Engine"]
    name: str
    entry: str = ""
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 30.0
    upload_retry_seconds: float = 120.0
    fail_blank: bool = False
    provenance: Provenance = field(default_factory=Provenance)
