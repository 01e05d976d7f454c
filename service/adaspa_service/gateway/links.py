"""``GET /videos/{id}/link``: an address of a file that needs no key and holds for a while.

The gateway's own are signed. Where the object store signs addresses itself, a client may ask for one of those, and the
file does not pass through the gateway.

Only the owner's key makes links to a job's files, so that the job tells which key a link came from: it ends with that.
"""

import math
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from adaspa_api.video_fields import Variant
from adaspa_api.videos import Link
from adaspa_jobs.job import OPEN_OWNER, Job
from fastapi import APIRouter, Depends, Query, Request

from adaspa_service.access.caller import Caller
from adaspa_service.access.keys import Scope
from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway import query
from adaspa_service.gateway.access import Reader, Token
from adaspa_service.gateway.errors import ErrorBody
from adaspa_service.gateway.lookup import find, find_artifact, find_linked
from adaspa_service.gateway.state import StateDep

MAX_SECONDS = 7 * 86400
"""Longest time, in seconds, for which object stores sign."""
NOT_READY: dict[int | str, dict[str, Any]] = {409: {"description": "The job has not completed", "model": ErrorBody}}

router = APIRouter(tags=["videos"])


@router.get("/videos/{video_id}/link", responses=NOT_READY)
def link(
    *,
    video_id: str,
    request: Request,
    state: StateDep,
    caller: Reader,
    variant: Variant = "video",
    expires_in: Annotated[int, Query(ge=1, le=MAX_SECONDS, description="Lifetime in seconds.")] = 3600,
    via: Annotated[
        Literal["gateway", "storage"],
        Query(description="Who serves the file. `storage` requires a storage that signs addresses."),
    ] = "gateway",
) -> Link:
    """Create a temporary address of a completed video's file that works without a key.

    The link expires no later than the API key that created it. It also ends when that key is revoked or the video is
    deleted. A link to storage cannot be revoked early.
    """
    query.check_names(request, ("variant", "expires_in", "via"))
    artifact = find_artifact(find(state, caller, video_id), variant)
    now = math.ceil(state.store.now())  # a link of one second lives for one
    expires = now + expires_in
    if caller.expires_at is not None:
        expires = min(expires, caller.expires_at)
    if via == "storage":
        url = state.storage.signed_url(artifact.key, max(1, expires - now))
        if url is None:
            raise bad_field("via", "via: this service's storage does not sign addresses; allowed: gateway")
    else:
        signed = {"variant": variant, "expires": expires, "signature": state.links.sign(video_id, variant, expires)}
        url = f"{request.base_url}v1/videos/{video_id}/content?{urlencode(signed)}"
    return Link(url=url, expires_at=expires)


def _by_link_or_key(
    *,
    video_id: str,
    request: Request,
    state: StateDep,
    token: Token,
    variant: Variant = "video",
    expires: Annotated[int | None, Query(ge=0, le=10**11, description="Expiry of a link.")] = None,
    signature: Annotated[str | None, Query(max_length=64, description="Signature of a link.")] = None,
) -> Job:
    if signature is None:
        caller = state.callers.identify(request, token, Scope.read)
        query.check_names(request, ("variant",))
        return find(state, caller, video_id)
    state.links.check(video_id, variant, expires or 0, signature, state.store.now())
    job = find_linked(state, video_id)
    if job.owner != OPEN_OWNER and not state.callers.still_has_access(Caller(job.owner)):
        message = "signature: the API key that created the link was revoked or has expired"
        raise ApiError(403, "link_revoked", message, "signature")
    return job


ReadableJob = Annotated[Job, Depends(_by_link_or_key)]
"""Job whose file is asked for, by a link to that file or by a key of the job's owner."""
