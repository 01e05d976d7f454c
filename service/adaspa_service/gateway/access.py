"""Who asks, and what they may do: by an API key, by this machine's token, or as everybody on a service that is open."""

import hmac
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER
from adaspa_jobs.keys import ApiKey, KeyStore, Scope, digest
from adaspa_jobs.settings import Settings
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from adaspa_service.access.open_access import Access
from adaspa_service.gateway.errors import RETRY_SECONDS, ApiError
from adaspa_service.gateway.hosts import check_name, host_name
from adaspa_service.gateway.state import AppState, StateDep

bearer = HTTPBearer(auto_error=False, description="An API key, as `adaspa keys create` prints it.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


@dataclass(frozen=True)
class Caller:
    """The one who asks.

    Args:
        owner: whose jobs these are: the id of the API key.
        max_in_flight: queued and running jobs that it may have; None: as many as the queues take.
        expires_at: when its key ends, in Unix seconds; None: never.
        name: what its key is for.
    """

    owner: str
    max_in_flight: int | None = None
    expires_at: int | None = None
    name: str = ""


def needs(scope: Scope) -> Callable[..., Caller]:
    """A dependency: the caller, who has this scope."""

    def caller(request: Request, state: StateDep, credentials: Credentials) -> Caller:
        return identify(state, request, credentials.credentials if credentials else None, scope)

    return caller


def later(scope: Scope) -> Callable[..., Awaitable[Callable[[], Caller]]]:
    """A dependency: finds the caller when it is called, which waits for Redis.

    For a route that is asked often: it does so in the thread that it runs in anyhow, where ``needs`` takes another.
    """

    async def prepared(request: Request, state: StateDep, credentials: Credentials) -> Callable[[], Caller]:
        return partial(identify, state, request, credentials.credentials if credentials else None, scope)

    return prepared


Reader = Annotated[Caller, Depends(needs(Scope.read))]
"""May look jobs up, follow them and download their files."""
LazyReader = Annotated[Callable[[], Caller], Depends(later(Scope.read))]
Writer = Annotated[Caller, Depends(needs(Scope.write))]
"""May create, cancel and delete jobs."""
Admin = Annotated[Caller, Depends(needs(Scope.admin))]
"""May use the operator's routes."""


def identify(state: AppState, request: Request, token: str | None, scope: Scope) -> Caller:
    """The caller of a request.

    Raises:
        ApiError: 401 without a key or with a wrong one, 403 for a missing scope or another site's page, 429 over the
            key's rate limit, 503 where Redis has lost the keys.
    """
    if state.settings.open_access:
        refuse_other_sites(request, state.settings)
        return Caller(OPEN_OWNER)
    if token is not None and is_same(state.settings.bootstrap_key, token):
        return Caller(BOOTSTRAP_OWNER)
    key = None if token is None else state.keys.authenticate(token)
    if key is None:
        return without_key(state, request, token)
    check_rate(state.keys, key)
    if scope not in key.scopes:
        challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
        has = ", ".join(sorted(key.scopes))
        raise ApiError(403, "missing_scope", f"this needs the scope {scope}; the key has {has}", None, challenge)
    return Caller(key.id, key.max_in_flight, key.expires_at, key.name)


def without_key(state: AppState, request: Request, token: str | None) -> Caller:
    """Who comes without a valid API key: this machine's user, as long as there are none. Raises ApiError."""
    access = state.entrance.now()
    if access is Access.lost:
        raise keys_lost()
    if access is Access.token:
        check_name(state.settings, host_name(request.scope["headers"]))
        if token is not None and is_same(state.open_token, token):
            return Caller(OPEN_OWNER)
    raise unauthorized(access, token)


def is_still_let_in(state: AppState, caller: Caller) -> bool:
    """Whether a caller who was let in would be so again: its key has neither been revoked nor expired."""
    if caller.owner == OPEN_OWNER:
        return state.entrance.now() in (Access.everybody, Access.token)
    return caller.owner == BOOTSTRAP_OWNER or state.keys.is_valid(caller.owner)


def unauthorized(access: Access, token: str | None) -> ApiError:
    """401 for a request without a key, or with one that is not valid."""
    what = "the token that the service printed when it started" if access is Access.token else "API key"
    if token is None:
        message = f"Authorization: missing; every request needs the header 'Authorization: Bearer <{what}>'"
        return ApiError(401, "missing_api_key", message, "Authorization", {"WWW-Authenticate": "Bearer"})
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    message = f"Authorization: not {what}" if access is Access.token else "Authorization: no valid API key"
    return ApiError(401, "invalid_api_key", message, "Authorization", challenge)


def keys_lost() -> ApiError:
    """503 where keys were made and Redis knows of none; the operator reads in the log what to do."""
    message = "The service has lost its API keys, and lets nobody in until they are back; its operator's log says more."
    return ApiError(503, "keys_lost", message, headers={"Retry-After": str(RETRY_SECONDS)})


def is_same(secret: SecretStr | None, token: str) -> bool:
    """Whether a token is this secret; the time that it takes does not tell how much of it is right."""
    return secret is not None and hmac.compare_digest(digest(secret.get_secret_value()), digest(token))


def check_rate(keys: KeyStore, key: ApiKey) -> None:
    """Count a request. Raises ApiError 429 with the time until the next one."""
    wait = keys.use(key)
    if wait is not None:
        message = f"the key may send {key.requests_per_minute} requests a minute; try again in {wait:.1f} s"
        raise ApiError(429, "rate_limit_exceeded", message, None, {"Retry-After": str(math.ceil(wait))})


def refuse_other_sites(request: Request, settings: Settings) -> None:
    """Keep a service that asks for nothing from what other sites' pages make a browser send. Raises ApiError 403."""
    origin = request.headers.get("origin")
    if is_from_elsewhere(request, origin) and origin not in settings.cors_origins:
        message = "Origin: pages of other sites may not use this service; allowed: ADASPA_CORS_ORIGINS"
        raise ApiError(403, "cross_origin", message, "Origin")


def is_from_elsewhere(request: Request, origin: str | None) -> bool:
    """Whether another site's page sends this: browsers say so, over plain HTTP some by the origin alone."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        return origin is not None and origin.partition("://")[2] != request.headers.get("host")
    return site in ("cross-site", "same-site")
