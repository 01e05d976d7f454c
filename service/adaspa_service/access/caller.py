"""Caller of a request and its rights: by an API key, by this machine's token, or anyone on an open service."""

import hmac
import math
from dataclasses import dataclass, field
from typing import Any

from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER
from adaspa_jobs.settings import Settings
from pydantic import SecretStr
from starlette.requests import Request

from adaspa_service.access.hosts import check_name, host_name
from adaspa_service.access.keys import ApiKey, KeyStore, Scope, digest, has_to_be_noted, proven, record_of
from adaspa_service.access.open_access import Access, Entrance
from adaspa_service.errors import ApiError


@dataclass(frozen=True)
class Caller:
    """Caller of a request.

    Args:
        owner: whose jobs these are: the id of the API key.
        max_in_flight: queued and running jobs that it may have; None: as many as the queues take.
        expires_at: when its key ends, in Unix seconds; None: never.
        name: what its key is for.
        token: its key with the secret, which may end before the key does; None: the owner is no key of the key store.
    """

    owner: str
    max_in_flight: int | None = None
    expires_at: int | None = None
    name: str = ""
    token: str | None = field(default=None, repr=False)

    @property
    def keyed(self) -> bool:
        """Tell whether the owner is a key of the key store."""
        return self.token is not None


class Callers:
    """Finds out who asks. All methods raise StoreUnavailable when Redis cannot be reached.

    Args:
        settings: of the gateway.
        keys: its key store.
        entrance: says whether keys are asked for.
        open_token: what is asked for on its own machine as long as there are no keys.
    """

    def __init__(self, settings: Settings, keys: KeyStore, entrance: Entrance, open_token: SecretStr) -> None:
        self._settings, self._keys, self._entrance, self._open_token = settings, keys, entrance, open_token

    def identify(self, request: Request, token: str | None, scope: Scope) -> Caller:
        """Find the caller of a request.

        Raises:
            ApiError: 401 without a key or with a wrong one, 403 for a missing scope or another site's page, 429 over
                the key's rate limit, 503 where Redis has lost the keys.
        """
        if self._settings.open_access:
            refuse_other_sites(request, self._settings)
            return Caller(OPEN_OWNER)
        if token is not None and is_same(self._settings.bootstrap_key, token):
            return Caller(BOOTSTRAP_OWNER)
        key = None if token is None else self._keys.authenticate(token)
        if key is None or token is None:
            return self._without_key(request, token)
        self._check_rate(request, key)
        if scope not in key.scopes:
            challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            has = ", ".join(sorted(key.scopes))
            raise ApiError(403, "missing_scope", f"the key needs the scope {scope}; it has {has}", None, challenge)
        return _caller(key, token)

    def asking(self, token: str | None) -> list[tuple[str, ...]] | None:
        """Return the commands whose answers ``known`` needs; None if only ``identify`` can tell who asks."""
        if self._settings.open_access or (token is not None and is_same(self._settings.bootstrap_key, token)):
            return []
        record = None if token is None else record_of(token)
        return None if record is None else [("HGETALL", record), ("TIME",)]

    def known(self, request: Request, token: str | None, scope: Scope, found: list[Any]) -> Caller | None:
        """Return the caller, if that needs nothing more of Redis; None if ``identify`` has to look, or to refuse.

        Args:
            request: that is asked about.
            token: that it came with.
            scope: that it needs.
            found: the answers to ``asking``.

        Raises:
            ApiError: 403 for another site's page.
        """
        if self._settings.open_access:
            refuse_other_sites(request, self._settings)
            return Caller(OPEN_OWNER)
        if not found:
            return Caller(BOOTSTRAP_OWNER)
        assert token is not None
        key = proven(token, *found)
        if key is None or scope not in key.scopes or has_to_be_noted(key):
            return None
        return _caller(key, token)

    def still_has_access(self, caller: Caller) -> bool:
        """Tell whether a caller who was let in would be so again: its key or secret has not ended."""
        if caller.owner == OPEN_OWNER:
            return self._entrance.now() in (Access.everybody, Access.token)
        if caller.owner == BOOTSTRAP_OWNER:  # an operator who sets none any more has revoked it
            return self._settings.bootstrap_key is not None
        if caller.token:
            return self._keys.authenticate(caller.token) is not None
        return self._keys.is_valid(caller.owner)

    def _without_key(self, request: Request, token: str | None) -> Caller:
        """Return the caller without a valid API key: this machine's user, while there are no keys."""
        access = self._entrance.now()
        if access is Access.lost:
            raise keys_lost()
        if access is Access.token:
            check_name(self._settings, host_name(request.scope["headers"]))
            if token is not None and is_same(self._open_token, token):
                return Caller(OPEN_OWNER)
        raise unauthorized(access, token)

    def _check_rate(self, request: Request, key: ApiKey) -> None:
        """Count a request, and note for its answer what is left. Raises ApiError: 429, with the time until the next."""
        request.state.rate = rate = self._keys.use(key)
        if rate is not None and (wait := rate.wait_seconds) is not None:
            message = f"too many requests; allowed: {key.requests_per_minute} per minute. Try again in {wait:.1f} s."
            raise ApiError(429, "rate_limit_exceeded", message, None, {"Retry-After": str(math.ceil(wait))})


def _caller(key: ApiKey, token: str) -> Caller:
    return Caller(key.id, key.max_in_flight, key.expires_at, key.name, token=token)


def unauthorized(access: Access, token: str | None) -> ApiError:
    """401 for a request without a key, or with one that is not valid."""
    what = "the token that the service printed when it started" if access is Access.token else "API key"
    if token is None:
        message = f"Authorization: required; send the header 'Authorization: Bearer <{what}>'"
        return ApiError(401, "missing_api_key", message, "Authorization", {"WWW-Authenticate": "Bearer"})
    return refused(f"not {what}" if access is Access.token else "the API key is not valid")


def refused(why: str) -> ApiError:
    """401 for a token or an API key that is not valid, or no longer."""
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return ApiError(401, "invalid_api_key", f"Authorization: {why}", "Authorization", challenge)


def keys_lost() -> ApiError:
    """503 where keys were made and Redis knows of none; the operator reads in the log what to do."""
    message = (
        "The service has lost its API keys and refuses all requests until they are restored. Operators: see the log."
    )
    return ApiError(503, "keys_lost", message)


def is_same(secret: SecretStr | None, token: str) -> bool:
    """Compare a token with this secret, in a time that does not tell how much of it is right."""
    return secret is not None and hmac.compare_digest(digest(secret.get_secret_value()), digest(token))


def refuse_other_sites(request: Request, settings: Settings) -> None:
    """Keep a service that asks for nothing from what other sites' pages make a browser send. Raises ApiError 403."""
    origin = request.headers.get("origin")
    if is_from_elsewhere(request, origin) and origin not in settings.cors_origins:
        message = "Origin: other sites' pages may not use this service; allowed: those in ADASPA_CORS_ORIGINS"
        raise ApiError(403, "cross_origin", message, "Origin")


def is_from_elsewhere(request: Request, origin: str | None) -> bool:
    """Tell whether another site's page sends this: browsers say so, over plain HTTP some by the origin alone."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        return origin is not None and origin.partition("://")[2] != request.headers.get("host")
    return site in ("cross-site", "same-site")
