"""Part of a catalog entry that fits into this worker's memory, for gateways and the log."""

import logging
from pathlib import Path

from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import OWN, Fits

from adaspa_worker.engines.preflight import preflight_of
from adaspa_worker.warm_up import default_params

log = logging.getLogger(__name__)


def fitting(spec: ModelSpec, folder: Path, limit: int) -> Fits:
    """Find the part of a catalog entry that fits into a memory, with the largest LoRA adapters that a job may have.

    Args:
        spec: the catalog entry.
        folder: of its model.
        limit: bytes.

    Raises:
        NotImplementedError: it is not known for such a model.
    """
    flight, usual = preflight_of(spec, folder), default_params(spec)
    if flight.loras is not None:
        usual = usual.model_copy(update={"loras": flight.loras.heaviest()})
    found: dict[str, dict[str, int]] = {}
    for preset in (None, *spec.qualities):
        sizes = found.setdefault(OWN if preset is None else preset.value, {})
        for size in spec.sizes:
            width, height = map(int, size.split("x"))
            sizes[size] = 0
            for frames in sorted(spec.frames):
                asked = {"width": width, "height": height, "num_frames": frames, "quality": preset}
                if flight.least(usual.model_copy(update=asked)) > limit:
                    break
                sizes[size] = frames
    return Fits(limit=limit, frames=found)


def tell(spec: ModelSpec, folder: Path, limit: int | None) -> Fits | None:
    """Log in one line what fits into this worker's memory, and return it; None if that is not known."""
    if limit is None:
        return None
    try:
        fits = fitting(spec, folder, limit)
    except NotImplementedError as error:
        log.warning("%s: no request is refused for its memory: %s", spec.id, error)
        return None
    except Exception as error:
        # Shapes of a model that nobody tried: it may well run, and a job that does not fit says so itself.
        log.warning("%s: no request is refused for its memory, which cannot be reckoned", spec.id, exc_info=error)
        return None
    said, gib = fits.missing(spec), limit / 2**30
    if said:
        log.warning("%s: does not fit into %.3g GiB, and is refused: %s", spec.id, gib, said)
    else:
        log.info("%s: all that the catalog offers fits into %.3g GiB", spec.id, gib)
    return fits
