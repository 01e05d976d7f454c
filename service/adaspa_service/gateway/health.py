"""Probes."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from adaspa_service.gateway.parts import PartsOf
from adaspa_service.gateway.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz")
async def readyz(parts: PartsOf) -> Health:
    """Redis and storage can be reached, else 503."""
    await run_in_threadpool(parts.store.ping)
    await parts.storage.ping()
    return Health()
