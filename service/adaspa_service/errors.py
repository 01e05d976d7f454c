"""Refusals: what the service answers in place of what was asked for."""

from collections.abc import Mapping

RETRY_SECONDS = 5
"""Seconds that a client is told to wait if nothing better is known, such as while a part of the service is away."""
AGAIN_LATER = (429, 503)
"""Statuses of refusals that a later request may escape; each says how much later."""


class ApiError(Exception):
    """A refusal with its HTTP status. One of AGAIN_LATER has a ``Retry-After``, of RETRY_SECONDS if none is given."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})
        if status in AGAIN_LATER:
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))


def bad_field(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, code, message, param)
