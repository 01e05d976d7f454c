"""What a gateway keeps of the jobs that it has served: nothing. Its memory tells that late, its objects at once."""

import gc
import logging
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from running_gateway import Service

JOBS = 40
FEW = 10
"""Blocks a job, of some 60 bytes each: caches and connections come and go. What leaks keeps dozens."""


def live(service: Service) -> None:
    """A job as clients have it: made, followed, polled, listed, run, downloaded and deleted."""
    lease = service.claim(service.create()["id"])
    url = f"/videos/{lease.job.id}"
    for step in (1, 2):
        service.step(lease, step)
        assert service.http.get(url).json()["step"] == step
    service.complete(lease)
    assert "event: completed" in service.http.get(f"{url}/events").text
    assert service.http.get(f"{url}/content").status_code == 200
    assert service.http.get("/videos").json()["data"][0]["id"] == lease.job.id
    assert service.http.delete(url).status_code == 200


def blocks(service: Service) -> int:
    """Python's blocks of memory after so many more jobs, once nothing is left to do for them."""
    for _ in range(JOBS):
        live(service)
    service.settle()
    gc.collect()
    return sys.getallocatedblocks()


@pytest.fixture
def nothing_logged() -> Iterator[None]:
    """Pytest keeps what is logged. A mere level would not do: loggers remember what they were allowed before."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@pytest.mark.usefixtures("nothing_logged")
def test_jobs_that_are_gone_leave_nothing_in_a_gateway(service: Service) -> None:
    counts = [blocks(service) for _ in range(4)]
    least = min(after - before for before, after in pairwise(counts))
    assert least < JOBS * FEW, f"{counts}: something stays with each job, in every round"
