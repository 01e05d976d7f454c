"""Refusing a request that fits into the memory of no worker that serves its queue."""

from collections.abc import Sequence

from adaspa_jobs.fits import Fits
from adaspa_jobs.job import JobParams

from adaspa_service.errors import bad_field


def check_fits(params: JobParams, workers: Sequence[Fits | None]) -> None:
    """Refuse what fits into the memory of no worker that is there, or was there lately and may come back.

    Without any that is there, or with one that does not say, all passes.

    Raises:
        ApiError: 400 with the field and what would fit.
    """
    if not workers or any(fits is None or fits.takes(params) for fits in workers):
        return
    told = [fits for fits in workers if fits is not None]
    size, largest = f"{params.width}x{params.height}", max(fits.limit for fits in told) / 2**30
    most: dict[str, int] = {size: 0}  # first, as what is closest to the request
    for fits in told:
        for name, frames in fits.of(params).items():
            most[name] = max(frames, most.get(name, 0))
    fitting = [f"up to {frames} frames at {name}" for name, frames in most.items() if frames]
    field = "num_frames" if most[size] else "size"
    why = f"{params.num_frames} frames at {size} need more memory than any worker of its queue has ({largest:.3g} GiB)"
    allowed = " or ".join(fitting) or "nothing of what the model offers, until it has a worker with more memory"
    raise bad_field(field, f"{field}: {why}; allowed: {allowed}", "does_not_fit")
