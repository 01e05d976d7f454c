"""Images, videos and sounds of a request: store them for its jobs, and remove them if the request is refused."""

import logging
import math
from collections.abc import Mapping

from adaspa_api.fields import ROLES, VideoCreate
from adaspa_api.words import Fit, Role
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.storage import StorageUnavailable

from adaspa_service.gateway.admission import JobRequest
from adaspa_service.gateway.body import refused
from adaspa_service.gateway.removal import remove_inputs
from adaspa_service.gateway.state import AppState
from adaspa_service.inputs.clips import Tail
from adaspa_service.inputs.keep import BadInput, Inputs, Used
from adaspa_service.inputs.source import Source

log = logging.getLogger(__name__)

ALIKE = 1.05
"""Shapes (width by height) that differ by no more than this factor are one."""


async def made_of(
    sources: Mapping[Role, Source],
    params: list[JobParams],
    asked: VideoCreate,
    *,
    inputs: Inputs,
    spec: ModelSpec,
    owner: str,
) -> list[JobParams]:
    """Return the parameters of jobs that are made of these files, and store those now.

    Args:
        sources: what the request gave.
        params: of its jobs.
        asked: the request.
        inputs: takes them in.
        spec: the model's.
        owner: whose request it is.

    Raises:
        ApiError: 400 or 413 for one of them; nothing is stored.
        StorageUnavailable, StoreUnavailable.
    """
    shaped = not asked.size and any(role.is_in_frame for role in sources)

    def size_of(width: int, height: int) -> tuple[int, int]:
        return fitting_size(spec, width, height) if shaped else (params[0].width, params[0].height)

    used = Used(Tail(spec.start_frames, params[0].fps), seconds=params[0].num_frames / params[0].fps)
    try:
        taken = await inputs.take(sources, owner, size_of, Fit(asked.fit or Fit.cover), used)
    except BadInput as error:
        name = next(name for name, role in ROLES.items() if role is error.role)
        raise refused(name, error.role.kind, error.why) from error
    framed = next((each for each in taken if each.role.is_in_frame), params[0])
    own = {"inputs": taken, "width": framed.width, "height": framed.height}
    return [each.model_copy(update=own) for each in params]


def fitting_size(spec: ModelSpec, width: int, height: int) -> tuple[int, int]:
    """Return the first of the model's sizes that has this shape, or else the closest one to it."""
    sizes = [(int(w), int(h)) for w, h in (size.split("x") for size in spec.sizes)]
    apart = [abs(math.log(width / height * h / w)) for w, h in sizes]
    return next(size for size, far in zip(sizes, apart, strict=True) if far <= min(apart) + math.log(ALIKE))


def drop_images(state: AppState, wanted: JobRequest) -> None:
    """Remove the files of a request that no job was made of."""
    folder = wanted.params[0].inputs_folder
    if folder is None or wanted.params[0].remixed_from:
        return
    try:
        remove_inputs(state, folder)
    except (StorageUnavailable, StoreUnavailable) as error:
        log.warning("images of a rejected request will be removed later: %s", error)
