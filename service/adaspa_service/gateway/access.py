"""Who asks, and what they may do: API keys, or everybody on a service that is open."""

import hmac
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER
from adaspa_jobs.keys import ApiKey, KeyStore, Scope, digest
from adaspa_jobs.open_access import is_loopback, is_open
from adaspa_jobs.settings import Settings
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from adaspa_service.gateway.errors import ApiError
from adaspa_service.gateway.parts import Parts, PartsOf

bearer = HTTPBearer(auto_error=False, description="An API key, as `adaspa keys create` prints it.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


@dataclass(frozen=True)
class Caller:
    """The one who asks.

    Args:
        owner: whose jobs these are: the id of the API key.
        max_in_flight: queued and running jobs that it may have; None: as many as the queues take.
        expires_at: when its key ends, in Unix seconds; None: never.
    """

    owner: str
    max_in_flight: int | None = None
    expires_at: int | None = None


def needs(scope: Scope) -> Callable[..., Caller]:
    """A dependency: the caller, who has this scope."""

    def caller(request: Request, parts: PartsOf, credentials: Credentials) -> Caller:
        return identify(parts, request, credentials.credentials if credentials else None, scope)

    return caller


def later(scope: Scope) -> Callable[..., Awaitable[Callable[[], Caller]]]:
    """A dependency: finds the caller when it is called, which waits for Redis.

    For a route that is asked often: it does so in the thread that it runs in anyhow, where ``needs`` takes another.
    """

    async def prepared(request: Request, parts: PartsOf, credentials: Credentials) -> Callable[[], Caller]:
        return partial(identify, parts, request, credentials.credentials if credentials else None, scope)

    return prepared


Reader = Annotated[Caller, Depends(needs(Scope.read))]
"""May look jobs up, follow them and download their files."""
ReaderLater = Annotated[Callable[[], Caller], Depends(later(Scope.read))]
Writer = Annotated[Caller, Depends(needs(Scope.write))]
"""May create, cancel and delete jobs."""
Admin = Annotated[Caller, Depends(needs(Scope.admin))]
"""May use the operator's routes."""


def identify(parts: Parts, request: Request, token: str | None, scope: Scope) -> Caller:
    """The caller of a request.

    Raises:
        ApiError: 401 without a key or with a wrong one, 403 for a missing scope or a request to an open service that
            is not meant for it, 429 over the key's rate limit.
    """
    if token is not None and is_bootstrap_key(parts.settings, token):
        return Caller(BOOTSTRAP_OWNER)
    key = None if token is None or parts.settings.open_access else parts.keys.authenticate(token)
    if key is None:
        if not is_open(parts.settings, parts.keys):
            raise unauthorized(token)
        refuse_strangers(request, parts.settings)
        return Caller(OPEN_OWNER)
    check_rate(parts.keys, key)
    if scope not in key.scopes:
        challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
        has = ", ".join(sorted(key.scopes))
        raise ApiError(403, "missing_scope", f"this needs the scope {scope}; the key has {has}", None, challenge)
    return Caller(key.id, key.max_in_flight, key.expires_at)


def is_still_let_in(parts: Parts, caller: Caller) -> bool:
    """Whether a caller who was let in would be so again: its key has neither been revoked nor expired."""
    if caller.owner == OPEN_OWNER:
        return is_open(parts.settings, parts.keys)
    return caller.owner == BOOTSTRAP_OWNER or parts.keys.is_valid(caller.owner)


def unauthorized(token: str | None) -> ApiError:
    """401 for a request without a key, or with one that is not valid."""
    if token is None:
        message = "Authorization: missing; every request needs the header 'Authorization: Bearer <API key>'"
        return ApiError(401, "missing_api_key", message, "Authorization", {"WWW-Authenticate": "Bearer"})
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return ApiError(401, "invalid_api_key", "Authorization: no valid API key", "Authorization", challenge)


def is_bootstrap_key(settings: Settings, token: str) -> bool:
    """Whether this is the key that the operator set."""
    own = settings.bootstrap_key
    return own is not None and hmac.compare_digest(digest(own.get_secret_value()), digest(token))


def check_rate(keys: KeyStore, key: ApiKey) -> None:
    """Count a request. Raises ApiError 429 with the time until the next one."""
    wait = keys.use(key)
    if wait is not None:
        message = f"the key may send {key.requests_per_minute} requests a minute; try again in {wait:.1f} s"
        raise ApiError(429, "rate_limit_exceeded", message, None, {"Retry-After": str(math.ceil(wait))})


def refuse_strangers(request: Request, settings: Settings) -> None:
    """Keep an open service from what other sites' pages make a browser send.

    Raises:
        ApiError: 403 for a request from another site's page, and, where only this machine is meant, for one under the
            name of another: through a proxy, or from a page whose name was made to lead here.
    """
    origin = request.headers.get("origin")
    if is_from_elsewhere(request, origin) and origin not in settings.cors_origins:
        message = "Origin: pages of other sites may not use this service; allowed: ADASPA_CORS_ORIGINS"
        raise ApiError(403, "cross_origin", message, "Origin")
    if settings.open_access is None and not is_loopback(host_name(request)):
        message = (
            "Host: without API keys the service is for its own machine alone; make one with `adaspa keys create`, "
            "or let everybody in with ADASPA_OPEN_ACCESS=true"
        )
        raise ApiError(403, "not_open", message, "Host")


def is_from_elsewhere(request: Request, origin: str | None) -> bool:
    """Whether another site's page sends this: browsers say so, over plain HTTP some by the origin alone."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        return origin is not None and origin.partition("://")[2] != request.headers.get("host")
    return site in ("cross-site", "same-site")


def host_name(request: Request) -> str:
    """The host that the client asked for, without the port; '' if that cannot be read."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
