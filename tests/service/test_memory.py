"""Requests that fit into no worker's memory: refused at the door, with what would fit."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from adaspa_api.words import Priority
from adaspa_jobs.announcements import REMEMBERED_SECONDS
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore
from adaspa_service.errors import ApiError
from adaspa_service.gateway.memory import check_fits
from admitting import create
from claiming import FAILURE
from faults import let_time_pass
from running_gateway import Service
from tiny_wan import model_spec
from waiting import until

TINY = ModelSpec.model_validate(model_spec("/models/tiny", sizes=["64x64", "128x128"], qualities=["exact", "fast"]))
SMALL = {"64x64": 9, "128x128": 5}


def post(service: Service, **fields: object) -> httpx.Response:
    return service.http.post("/videos", json={"prompt": "a red circle", "model": "tiny", **fields})


def served(service: Service, **fields: object) -> httpx.Response:
    """The same once the gateway knows that workers serve the model: it looks every second."""
    answers: list[httpx.Response] = []

    def known() -> bool:
        answers.append(post(service, **fields))
        return answers[-1].status_code == 200 or answers[-1].json()["error"]["code"] != "model_not_found"

    until(known, "the model is served")
    return answers[-1]


def refusal(service: Service, **fields: object) -> dict[str, Any]:
    """The error of a request, as soon as the gateway knows of the workers."""
    error: dict[str, Any] = {}

    def refused() -> bool:
        answer = served(service, **fields)
        error.update(answer.json()["error"] or {})
        return answer.status_code == 400

    until(refused, "the request is refused")
    return error


def test_a_request_is_refused_only_while_it_fits_into_no_live_worker(service: Service) -> None:
    service.store.announce(TINY, "small", fits=Fits(limit=2**30, frames={"": SMALL, "exact": SMALL | {"128x128": 0}}))
    whole = {"size": "128x128", "num_frames": 9}
    error = refusal(service, **whole)
    assert (error["code"], error["param"]) == ("does_not_fit", "num_frames")
    assert error["message"] == (
        "num_frames: 9 frames at 128x128 need more memory than any worker of its queue has (1 GiB); "
        "allowed: up to 5 frames at 128x128 or up to 9 frames at 64x64"
    )
    assert refusal(service, **whole | {"quality": "exact"})["param"] == "size"
    for fitting in ({"num_frames": 5}, {"size": "64x64"}, {"quality": "fast"}):  # of which the worker told nothing
        assert post(service, **whole | fitting).status_code == 200

    larger = Fits(limit=2**31, frames={"": SMALL | {"128x128": 9}})
    for fits in (larger, None):  # a larger GPU, and a worker that does not say
        service.store.announce(TINY, "other", fits=fits)
        until(lambda: post(service, **whole).status_code == 200, "the larger worker may take it")
    service.store.announce(TINY, "other", fits=Fits(limit=2**28, frames={"": SMALL}))
    refusal(service, **whole)


def test_a_request_is_accepted_while_the_only_worker_into_which_it_fits_restarts(service: Service) -> None:
    """Accepted jobs wait for it as long."""
    store, whole = service.store, {"size": "128x128", "num_frames": 9}
    small, large = (Fits(limit=gib * 2**30, frames={"": {"128x128": most}}) for gib, most in ((1, 5), (2, 9)))
    store.announce(TINY, "large", fits=large)
    store.announce(TINY, "small", fits=small)
    let_time_pass(store.client, REMEMBERED_SECONDS - 60)
    store.announce(TINY, "small", fits=small)
    assert store.load("tiny").workers == 1
    job = served(service, **whole).json()["id"]  # while no worker was there, the gateway may have dropped the model
    assert store.claim("tiny", "small", spec=TINY) is None
    store.announce(TINY, "large, restarted", fits=large)
    lease = store.claim("tiny", "large, restarted", spec=TINY)
    assert lease is not None and lease.job.id == job
    let_time_pass(store.client, REMEMBERED_SECONDS + 60)
    store.announce(TINY, "small", fits=small)
    assert refusal(service, **whole)["code"] == "does_not_fit"


def test_a_request_is_refused_if_the_workers_into_which_it_fits_leave_its_queue_to_others(service: Service) -> None:
    service.store.announce(TINY, "small", fits=Fits(limit=2**30, frames={"": SMALL}))
    service.store.announce(TINY, "large", [Priority.interactive], fits=Fits(limit=2**31, frames={}))
    whole = {"size": "128x128", "num_frames": 9}
    assert refusal(service, **whole, priority="bulk")["code"] == "does_not_fit"
    assert post(service, **whole).status_code == 200


def test_a_worker_leaves_a_job_to_another_one_only_if_it_fits_there(service: Service) -> None:
    store, small = service.store, Fits(limit=2**30, frames={"": SMALL})
    store.announce(TINY, "small", fits=small)
    store.announce(TINY, "large", fits=Fits(limit=2**31, frames={"": {"128x128": 9}}))
    first, second, fitting = (served(service, size="128x128", num_frames=frames).json()["id"] for frames in (9, 9, 5))

    def claimed(worker: str) -> str | None:
        lease = store.claim("tiny", worker)
        return lease.job.id if lease else None

    assert claimed("small") == fitting and claimed("large") == first
    store.announce(TINY, "other", fits=small)
    assert claimed("other") is None, "it waits for the large worker"
    store.announce(TINY, "large", fits=small)
    assert claimed("other") == second, "no worker that lives is better"


def test_a_job_waits_for_a_worker_with_more_memory_that_restarts(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    """Its server keeps the small one from a job that would end there out of memory; but not for ever."""
    small, large = (Fits(limit=limit, frames={"": {"128x128": frames}}) for limit, frames in ((1, 5), (2, 9)))
    job = create(store, params(model="tiny", width=128, height=128, num_frames=9))

    def claimed() -> str | None:
        store.announce(TINY, "small", fits=small)
        lease = store.claim("tiny", "small", spec=TINY)
        return lease.job.id if lease else None

    store.announce(TINY, "large", fits=large)
    assert claimed() is None
    let_time_pass(store.client, 600)
    assert claimed() is None and store.load("tiny").workers == 1
    store.announce(TINY, "large, restarted", fits=large)
    let_time_pass(store.client, 600)
    assert claimed() is None
    let_time_pass(store.client, 300)
    assert claimed() == job.id, "no such worker has been there for a quarter of an hour"
    assert store.client.hkeys("adaspa:fits:tiny") == store.client.zrange("adaspa:fitting:tiny", 0, -1) == [b"small"]


def test_a_job_does_not_wait_for_a_worker_of_which_an_earlier_version_removed_what_fits(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    """The announcement of that version's worker removes it together with the worker, and leaves the rest."""
    store.announce(TINY, "gone", fits=Fits(limit=1, frames={"": SMALL}))
    job = create(store, params(model="tiny", width=128, height=128, num_frames=9))
    let_time_pass(store.client, 60)
    store.client.hdel("adaspa:fits:tiny", "gone")
    store.announce(TINY, "small", fits=Fits(limit=1, frames={"": SMALL}))
    lease = store.claim("tiny", "small", spec=TINY)
    assert lease is not None and lease.job.id == job.id, "it fits nowhere"


def test_a_job_does_not_wait_for_a_worker_with_more_memory_that_leaves_its_queue_to_others(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    small, large = (Fits(limit=limit, frames={"": {"128x128": frames}}) for limit, frames in ((1, 5), (2, 9)))
    asked = params(model="tiny", width=128, height=128, num_frames=9)
    bulk, other = (create(store, asked, priority=each) for each in (Priority.bulk, Priority.interactive))
    store.announce(TINY, "large", [Priority.interactive], fits=large)
    store.announce(TINY, "small", fits=small)
    first = store.claim("tiny", "small", "p")
    assert first is not None and first.job.id == bulk.id
    store.fail(first, FAILURE)
    assert store.claim("tiny", "small", "p") is None, "this one waits"
    second = store.claim("tiny", "large", "p", [Priority.interactive])
    assert second is not None and second.job.id == other.id


def worker(gib: float, **most: int) -> Fits:
    """One with the model's own settings; ``s64`` stands for a size of 64x64."""
    return Fits(
        limit=int(gib * 2**30), frames={"": {f"{name[1:]}x{name[1:]}": frames for name, frames in most.items()}}
    )


@pytest.mark.parametrize(
    ("workers", "refusal"),
    [
        ([], None),
        ([None], None),
        ([worker(1, s128=5), None], None),
        ([worker(1, s128=5), worker(2, s128=9)], None),
        ([worker(1, s64=5)], None),  # which says nothing of that size
        (
            [worker(2.5, s128=0, s64=9), worker(1, s128=5, s64=5), worker(2, s128=3)],
            "num_frames: 9 frames at 128x128 need more memory than any worker of its queue has (2.5 GiB); "
            "allowed: up to 5 frames at 128x128 or up to 9 frames at 64x64",
        ),
        (
            [worker(1, s64=9, s128=0), worker(2, s64=5, s128=0)],
            "size: 9 frames at 128x128 need more memory than any worker of its queue has (2 GiB); "
            "allowed: up to 9 frames at 64x64",
        ),
        (
            [worker(0.5, s64=0, s128=0)],
            "size: 9 frames at 128x128 need more memory than any worker of its queue has (0.5 GiB); "
            "allowed: nothing of what the model offers, until it has a worker with more memory",
        ),
    ],
)
def test_what_would_fit_is_told_of_all_workers_together(
    params: Callable[..., JobParams], workers: list[Fits | None], refusal: str | None
) -> None:
    asked = params(width=128, height=128, num_frames=9)
    if refusal is None:
        check_fits(asked, workers)
        return
    with pytest.raises(ApiError) as refused:
        check_fits(asked, workers)
    assert (refused.value.status, refused.value.code, refused.value.message) == (400, "does_not_fit", refusal)
    assert refused.value.param == refusal.partition(":")[0]
