"""Probes."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from adaspa_service.access.caller import keys_lost
from adaspa_service.access.open_access import Access
from adaspa_service.errors import ApiError
from adaspa_service.gateway.state import StateDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Answer of a probe."""

    status: Literal["ok"] = "ok"


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """Answer if the process is running."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(request: Request, state: StateDep) -> Health:
    """Answer 200 if Redis takes writes, storage works, no API keys are lost and the gateway is not stopping.

    Otherwise, answer 503.
    """
    if request.app.state.draining.is_set():
        raise ApiError(503, "draining", "the gateway is stopping and takes requests only for a short time")
    if await run_in_threadpool(state.entrance.now) is Access.lost:
        raise keys_lost()
    await run_in_threadpool(state.store.ping)
    await state.storage.ping()
    return Health()
