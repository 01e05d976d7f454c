"""Probes."""

from fastapi import APIRouter

from adaspa_service.gateway.parts import PartsOf
from adaspa_service.gateway.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz")
def readyz(parts: PartsOf) -> Health:
    """Redis and storage can be reached, else 503."""
    parts.store.ping()
    parts.storage.ping()
    return Health()
