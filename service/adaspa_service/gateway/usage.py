"""``GET /usage``: what the jobs of the caller's key came to."""

from typing import Annotated

from adaspa_api.usage import Usage
from adaspa_jobs.usage import MOST_DAYS
from fastapi import APIRouter, Query, Request

from adaspa_service.gateway import query
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.state import StateDep

router = APIRouter(tags=["usage"])


@router.get("/usage")
def get_usage(
    request: Request,
    state: StateDep,
    caller: Reader,
    days: Annotated[int, Query(ge=1, le=MOST_DAYS, description="Number of days to cover, including today.")] = 30,
) -> Usage:
    """Return the key's ended jobs and GPU-seconds by day and model, including deleted jobs."""
    query.check_names(request, ("days",))
    rows = state.store.usage(days, caller.owner).get(caller.owner, [])
    jobs = sum(row.completed + row.failed + row.cancelled for row in rows)
    return Usage(days=days, jobs=jobs, gpu_seconds=round(sum(row.gpu_seconds for row in rows), 3), data=rows)
