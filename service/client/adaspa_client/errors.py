"""Errors for what a gateway refuses, by kind."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any

import httpx


class ApiError(Exception):
    """Refusal by the gateway: HTTP status, and the error's code, field and message.

    Args:
        retry_after: seconds after which the gateway says to try again, if it does.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.message, self.code, self.param, self.retry_after)


class BadRequest(ApiError):
    """A field is wrong (``param`` names it), or the request itself."""


class Unauthorized(ApiError):
    """There is no API key, or a wrong one."""


class Forbidden(ApiError):
    """Refusal: the key may not do this."""


class NotFound(ApiError):
    """There is no such video, model or file, or its record is damaged."""


class Conflict(ApiError):
    """Refusal: the job is not in a state for this, such as a download before its end."""


class TooManyRequests(ApiError):
    """Refusal: the queue is full, or a limit of the key is reached."""


class ServiceUnavailable(ApiError):
    """Failure or absence of the gateway, or of something behind it."""


class NotUnderstood(ApiError):
    """Answer that is none of this API: another server is at the address, or a gateway of another version."""


def not_understood(status: int, asked: str) -> NotUnderstood:
    """Return the error for an answer that no gateway gives to what was asked."""
    return NotUnderstood(status, f"the answer to {asked} is not that of an AdaSpa gateway; is the address right?")


KINDS = {401: Unauthorized, 403: Forbidden, 404: NotFound, 410: NotFound, 409: Conflict, 429: TooManyRequests}


def api_error(response: httpx.Response) -> ApiError:
    """Read the error that a refusal describes; a body in another shape is quoted."""
    status = response.status_code
    kind = KINDS.get(status, ServiceUnavailable if status >= 500 else BadRequest)
    wait = retry_after(response.headers.get("retry-after", ""))
    try:
        error = response.json()["error"]
        return kind(status, error["message"], error.get("code"), error.get("param"), wait)
    except (ValueError, KeyError, TypeError):
        return kind(status, f"HTTP {status}: {response.text[:200]}", retry_after=wait)


def retry_after(value: str) -> float:
    """Return the seconds from now that a Retry-After names, as a number or a date; 0 if it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
            return 0.0
    return seconds if 0 < seconds < inf else 0.0
