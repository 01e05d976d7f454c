"""``GET /videos/{id}``, which is asked more often than all else together.

It is answered before the framework's routing, dependencies and threads: caller, record and place in the queue come with
one round trip, which polls share. Whatever is not as usual is left to the route in `videos`: a wrong key, one with a
rate limit, an id that is unknown, a script that Redis does not have yet.
"""

import re

from adaspa_api.videos import Video
from adaspa_jobs.record import RecordUnreadable
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.store import Look, looked
from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param
from redis.exceptions import NoScriptError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adaspa_service import views
from adaspa_service.access import keys
from adaspa_service.errors import ApiError
from adaspa_service.gateway import polling
from adaspa_service.gateway.errors import away
from adaspa_service.gateway.estimates import is_expected, seconds_of
from adaspa_service.gateway.queue_positions import place
from adaspa_service.gateway.state import AppState

POLL = re.compile(r"(?:/v1)?/videos/(video_[0-9a-f]{32})")


class Polls:
    """ASGI middleware, the innermost: answers what it can at once.

    Args:
        app: for the rest.
        state: the gateway's.
    """

    path = "/v1/videos/{video_id}"
    """Path of the route in metrics."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = None
        if scope["type"] == "http" and scope["method"] == "GET" and (found := POLL.fullmatch(scope["path"])):
            scope["route"] = self
            try:
                response = await self._answer(Request(scope), found[1])
            except StoreUnavailable as error:
                response = away(scope, error)
            except (ApiError, RecordUnreadable, NoScriptError):  # the route says so too, in the usual way
                pass
        await (response or self._app)(scope, receive, send)

    async def _answer(self, request: Request, video_id: str) -> Response | None:
        state = self._state
        scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
        given = token if token and scheme.lower() == "bearer" else None
        of_caller = state.callers.asking(given)
        if of_caller is None:
            return None
        *found, answer = await state.rounds.ask([*of_caller, state.store.looking(video_id)])
        caller = state.callers.known(request, given, keys.Scope.read, found)
        look = looked(video_id, answer)
        if caller is None or look is None or not look.is_shown_to(caller.owner):
            return None
        video = await self._view(look)
        response = Response(video.model_dump_json(), media_type="application/json")
        polling.tell(response, video)
        return response

    async def _view(self, look: Look) -> Video:
        job, position = look
        model, standing, seconds = job.params.model, None, None
        if position is not None:
            standing = place(await self._state.loads.soon(model), job, position)
        if is_expected(job):
            seconds = seconds_of(job, await self._state.times.soon(model))
        return views.video(job, standing, seconds)
