"""Dependencies of routes: who asks, and whether they may."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from adaspa_service.access.caller import Caller
from adaspa_service.access.keys import Scope
from adaspa_service.gateway.state import StateDep

bearer = HTTPBearer(auto_error=False, description="An API key from `adaspa keys create`.")


async def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> str | None:
    return credentials.credentials if credentials else None


Token = Annotated[str | None, Depends(_token)]
"""Credentials in ``Authorization: Bearer``."""


def needs(scope: Scope) -> Callable[..., Caller]:
    """A dependency: the caller, who has this scope."""

    def caller(request: Request, state: StateDep, token: Token) -> Caller:
        return state.callers.identify(request, token, scope)

    return caller


def lazily(scope: Scope) -> Callable[..., Awaitable[Callable[[], Caller]]]:
    """A dependency: finds the caller when it is called, which waits for Redis.

    For a route that is asked often: it does so in the thread that it runs in anyhow, where ``needs`` takes another.
    """

    async def prepared(request: Request, state: StateDep, token: Token) -> Callable[[], Caller]:
        return partial(state.callers.identify, request, token, scope)

    return prepared


Reader = Annotated[Caller, Depends(needs(Scope.read))]
"""May look jobs up, follow them and download their files."""
LazyReader = Annotated[Callable[[], Caller], Depends(lazily(Scope.read))]
Writer = Annotated[Caller, Depends(needs(Scope.write))]
"""May create, cancel and delete jobs."""
Admin = Annotated[Caller, Depends(needs(Scope.admin))]
"""May use the operator's routes."""
