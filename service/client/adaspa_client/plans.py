"""Plans that the sync and the async client share: generators that ask for requests and pauses.

A client runs a plan: it sends what is asked for and gives the response back, or the error that came instead.
"""

import re
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

import httpx
from adaspa_api.estimates import Estimate
from adaspa_api.models import Model, ModelList
from adaspa_api.usage import Usage
from adaspa_api.videos import Link, Video, VideoDeleted, VideoList

from adaspa_client.errors import ApiError, NotFound, api_error, not_understood

Result = TypeVar("Result")
DELAYS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try, unless the gateway names another time."""
LONGEST_WAIT = 10.0
"""A gateway that names a longer time is not waited for: the error comes at once."""
RETRIED = (429, 502, 503, 504)
ID = re.compile(r"[A-Za-z0-9_-]+")
"""Characters of ids. Others would lead elsewhere, also as escapes: servers read %2F as a slash."""


@dataclass(frozen=True)
class Send:
    """A request to send."""

    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    """Return the arguments for httpx."""
    query: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pause:
    """Seconds to wait."""

    seconds: float


class Patience:
    """Patience with a gateway that is away or busy.

    It counts from the first failure since an answer: a request that hung before takes nothing from it.

    Args:
        seconds: for which to try again.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def renew(self) -> None:
        """Begin anew, because the gateway has answered."""
        self._since = None

    def ends(self, error: httpx.TransportError | ApiError) -> bool:
        """Note a failure and return whether to give up: at once if the gateway refuses."""
        if isinstance(error, ApiError) and error.status < 500 and error.status not in RETRIED:
            return True
        now = monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since >= self._seconds

    def pause(self, error: httpx.TransportError | ApiError) -> float:
        """Return the seconds until the next try: those that the gateway names, up to the end of the patience."""
        assert self._since is not None
        return max(DELAYS[0], min(named(error), self._since + self._seconds - monotonic()))


Answer = httpx.Response | httpx.TransportError | None
Plan = Generator[Send | Pause, Answer, Result]


def named(error: httpx.TransportError | ApiError) -> float:
    """Return the seconds that the gateway names until a next try; 0 if it names none."""
    return error.retry_after if isinstance(error, ApiError) else 0.0


def pause_after(error: httpx.TransportError | ApiError, delay: float | None) -> float:
    """Return the seconds until the next try of a request: the delay, or more if the gateway names more.

    Raises the error if there is no delay, as after the last try; if it is a refusal that a next try would get, too; or
    if the gateway names too long a time.
    """
    if delay is None or named(error) > LONGEST_WAIT or (isinstance(error, ApiError) and error.status not in RETRIED):
        raise error
    return max(delay, named(error))


def call(send: Send, retries: int) -> Plan[httpx.Response]:
    """Send a request that may be repeated, again while the gateway is away or busy, and return the response.

    Raises:
        ApiError: it was refused.
        httpx.TransportError: there was no answer to the last try.
    """
    for delay in (*(DELAYS[min(i, len(DELAYS) - 1)] for i in range(retries)), None):
        answer = yield send
        assert answer is not None
        if isinstance(answer, httpx.Response) and answer.is_success:
            return answer
        yield Pause(pause_after(answer if isinstance(answer, httpx.TransportError) else api_error(answer), delay))
    raise AssertionError("the last try has no delay")


def answer_to(send: Send, retries: int, read: Callable[[Any], Result]) -> Plan[Result]:
    """Send a request as ``call`` does and read the JSON of its response.

    Raises:
        NotUnderstood: the response is not what a gateway sends.
    """
    response = yield from call(send, retries)
    try:
        return read(response.json())
    except ValueError as error:  # no JSON, or of another shape
        raise not_understood(response.status_code, f"{send.method} {send.path}") from error


def path(video_id: str, part: str = "") -> str:
    """Return the path of a video, or of a part of it: an id that a user gave leads to no other route.

    Raises:
        NotFound: no video has this id.
    """
    if not ID.fullmatch(video_id):
        raise NotFound(404, f"there is no video {video_id[:60]!r}", "video_not_found", "video_id")
    return f"/videos/{video_id}{part}"


def create(body: Mapping[str, Any], key: str | None, retries: int) -> Plan[Video]:
    """Submit a prompt."""
    send = Send("POST", "/videos", body, headers=once(key))
    return (yield from answer_to(send, retries, Video.model_validate))


def create_batch(body: Mapping[str, Any], key: str | None, retries: int) -> Plan[list[Video]]:
    """Submit a prompt with several seeds."""
    send = Send("POST", "/videos", body, headers=once(key))
    return (yield from answer_to(send, retries, VideoList.model_validate)).data


def estimate(body: Mapping[str, Any], retries: int) -> Plan[Estimate]:
    """Estimate how long a video would take."""
    send = Send("POST", "/videos/estimate", {"json": body})
    return (yield from answer_to(send, retries, Estimate.model_validate))


def remix(video_id: str, prompt: str, webhook_url: str | None, key: str | None, retries: int) -> Plan[Video]:
    """Submit another prompt with the rest of a video's recipe."""
    asked = {"prompt": prompt} | ({"webhook_url": webhook_url} if webhook_url else {})
    send = Send("POST", path(video_id, "/remix"), {"json": asked}, headers=once(key))
    return (yield from answer_to(send, retries, Video.model_validate))


def get(video_id: str, retries: int) -> Plan[Video]:
    """Return a job's current state."""
    return (yield from answer_to(Send("GET", path(video_id)), retries, Video.model_validate))


def link(video_id: str, query: Mapping[str, Any], retries: int) -> Plan[str]:
    """An address of a file."""
    return (yield from answer_to(Send("GET", path(video_id, "/link"), query=query), retries, Link.model_validate)).url


def cancel(video_id: str, retries: int) -> Plan[Video]:
    """Stop a job."""
    return (yield from answer_to(Send("POST", path(video_id, "/cancel")), retries, Video.model_validate))


def delete(video_id: str, retries: int) -> Plan[None]:
    """Delete a job.

    Where an answer is lost, or says that the gateway failed, the job may have been deleted nevertheless: that it is
    unknown at a later try then says so.
    """
    lost = False
    plan = answer_to(Send("DELETE", path(video_id)), retries, VideoDeleted.model_validate)
    answer: Answer = None
    while True:
        try:
            asked = plan.send(answer)
        except StopIteration:
            return
        except NotFound:
            if lost:
                return
            raise
        answer = yield asked
        lost = lost or isinstance(answer, httpx.TransportError) or (answer is not None and answer.is_server_error)


def page(query: Mapping[str, Any], retries: int) -> Plan[VideoList]:
    """A page of jobs."""
    return (yield from answer_to(Send("GET", "/videos", query=query), retries, VideoList.model_validate))


def usage(days: int, retries: int) -> Plan[Usage]:
    """Sum up the key's jobs."""
    return (yield from answer_to(Send("GET", "/usage", query={"days": days}), retries, Usage.model_validate))


def models(retries: int) -> Plan[list[Model]]:
    """List the served models."""
    return (yield from answer_to(Send("GET", "/models"), retries, ModelList.model_validate)).data


def wait(
    video_id: str, on_progress: Callable[[Video], None] | None, poll: float, timeout: float, patience: float
) -> Plan[Video]:
    """Ask for a job again and again until it has ended."""
    end, away = monotonic() + timeout, Patience(patience)
    while True:
        pause = poll
        try:
            video = yield from get(video_id, retries=0)
        except (httpx.TransportError, ApiError) as error:
            if away.ends(error):
                raise
            pause = max(poll, away.pause(error))
        else:
            away.renew()
            if on_progress:
                on_progress(video)
            if video.done:
                return video
        left = end - monotonic()
        if left <= 0:
            raise TimeoutError(f"{video_id} has not ended within {timeout:.0f} s")
        yield Pause(min(pause, left))


def once(key: str | None) -> dict[str, str]:
    """A header with which a repeated request makes nothing twice."""
    return {"Idempotency-Key": key or uuid.uuid4().hex}
