"""``Prefer: wait=N`` (RFC 7240): hold the answer until the jobs have ended, or N seconds have passed."""

import asyncio
import re
import time
from contextlib import suppress

from adaspa_api.words import TERMINAL
from adaspa_jobs.job import Job
from adaspa_jobs.store import StoreUnavailable
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from adaspa_service.access.caller import Caller
from adaspa_service.errors import ApiError
from adaspa_service.gateway.events import START, read_events, streaming_caller
from adaspa_service.gateway.ranges import combined
from adaspa_service.gateway.state import AppState

LONGEST_SECONDS = 50
"""Proxies give up an answer that does not begin within 60 s, as a rule."""
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.I)


def asked_for(request: Request) -> int | None:
    """Read the seconds that a client would wait, no more than it may; None if it would not."""
    found = WAIT.search(combined(request.headers).get("prefer", ""))
    return min(int(found[1]), LONGEST_SECONDS) if found else None


async def wait(request: Request, response: Response, state: AppState, caller: Caller, ids: list[str]) -> list[Job]:
    """Wait until all jobs have ended, or the client's time has passed, and return them; none if it does not wait.

    It waits as an event stream does, and is counted as one. A caller who has as many as it may is answered at once,
    without ``Preference-Applied``. One whose jobs or key went meanwhile gets the jobs as they were accepted; so does
    everybody when Redis is lost.
    """
    seconds = asked_for(request) or 0
    until = time.monotonic() + seconds
    try:
        with request.app.state.streams.another(streaming_caller(request, caller)):
            await asyncio.gather(*(ended(request, state, job_id, until) for job_id in ids))
            jobs = await run_in_threadpool(state.store.readable, ids)
            may_see = await run_in_threadpool(state.callers.still_has_access, caller)
    except (ApiError, StoreUnavailable):
        return []
    if len(jobs) < len(ids) or not may_see:
        return []
    response.headers["Preference-Applied"] = f"wait={seconds}"
    return jobs


async def ended(request: Request, state: AppState, job_id: str, until: float) -> None:
    """Return once the job has ended, the time has come or the gateway stops. Raises StoreUnavailable."""
    last = START
    with state.feed.following(job_id, last) as follower, suppress(TimeoutError):
        while (left := until - time.monotonic()) > 0 and not request.app.state.stopping.is_set():
            if not await asyncio.wait_for(follower.wait(), left):
                continue
            while events := await read_events(state, job_id, last):
                if any(fields["status"] in TERMINAL for _, fields in events):
                    return
                last = events[-1][0]
