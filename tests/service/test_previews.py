"""Previews and places in the queue, as clients see them."""

from base64 import b64decode
from typing import Any

import pytest
from adaspa_jobs.job import Progress
from adaspa_jobs.store import JobCancelled, Lease, LeaseLost
from claiming import FAILURE
from event_stream import following
from running_gateway import Service
from waiting import until


def show(service: Service, lease: Lease, step: int, image: bytes) -> None:
    """Report a step and what it led to, as a worker does."""
    service.step(lease, step)
    progress = Progress(phase="denoising", step=step, steps=10, step_kind="sparse", preview_step=step)
    service.store.report_preview(lease, progress, image)


def picture(event: dict[str, Any]) -> bytes:
    head, _, data = event["data"]["preview"].partition(",")
    assert head == "data:image/webp;base64"
    return b64decode(data)


def test_a_preview_comes_over_the_stream_and_by_its_url(service: Service) -> None:
    lease = service.claim(service.create(steps=10)["id"])
    video_id = lease.job.id
    assert service.http.get(f"/videos/{video_id}").json()["preview_url"] is None
    assert service.http.get(f"/videos/{video_id}/preview").json()["error"]["code"] == "preview_not_found"
    with following(service, video_id) as events:
        assert [next(events)["event"] for _ in range(2)] == ["queued", "in_progress"]
        for step in (1, 2):
            show(service, lease, step, b"picture %d" % step)
            assert next(events)["event"] == "progress"
            event = next(events)
            assert (event["event"], event["data"]["step"], picture(event)) == ("preview", step, b"picture %d" % step)
    url = service.http.get(f"/videos/{video_id}").json()["preview_url"]
    answer = service.http.get(url)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"picture 2", "image/webp")
    assert answer.headers["cache-control"] == "no-store" and "step=2" in url


def test_who_comes_late_gets_the_latest_preview_only(service: Service) -> None:
    lease = service.claim(service.create(steps=10)["id"])
    for step in (1, 2, 3):
        show(service, lease, step, b"picture %d" % step)
    with following(service, lease.job.id) as events:
        kinds = [next(events) for _ in range(6)]
        assert [event["event"] for event in kinds] == ["queued", "in_progress", *["progress"] * 3, "preview"]
        assert picture(kinds[-1]) == b"picture 3"
        last = kinds[-2]["id"]
    with following(service, lease.job.id, last) as events:
        assert picture(next(events)) == b"picture 3"


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_an_ended_job_leaves_no_preview(service: Service, end: str) -> None:
    lease = service.claim(service.create(steps=10)["id"])
    show(service, lease, 1, b"picture")
    if end == "complete":
        service.complete(lease)
    elif end == "fail":
        service.store.fail(lease, FAILURE)
    else:
        service.http.post(f"/videos/{lease.job.id}/cancel")
        with pytest.raises(JobCancelled):
            show(service, lease, 2, b"picture")
        service.store.release_cancelled(lease)
    assert service.http.get(f"/videos/{lease.job.id}/preview").status_code == 404
    assert service.http.get(f"/videos/{lease.job.id}").json()["preview_url"] is None
    assert service.store.client.keys("adaspa:preview:*") == []
    with following(service, lease.job.id) as events:
        assert "preview" not in [event["event"] for event in events]


def test_an_attempt_that_lost_its_lease_shows_nothing(service: Service) -> None:
    lease = service.claim(service.create(steps=10)["id"])
    service.store.release(lease)
    with pytest.raises(LeaseLost):
        progress = Progress(phase="denoising", step=1, steps=10, preview_step=1)
        service.store.report_preview(lease, progress, b"x")
    assert service.store.preview(lease.job.id) is None


def test_a_waiting_job_hears_of_its_place_as_others_leave(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspa_service.gateway.feed.TICK_SECONDS", 0.05)
    first, second, third = (service.create()["id"] for _ in range(3))
    with following(service, third) as events:
        assert next(events)["event"] == "queued"
        event = next(events)
        assert (event["event"], event["data"]["queue_position"], "id" in event) == ("progress", 3, False)
        lease = service.claim(first)
        assert next(events)["data"]["queue_position"] == 2
        service.http.post(f"/videos/{second}/cancel")
        assert next(events)["data"]["queue_position"] == 1
        own = service.claim(third)
        assert next(events)["event"] == "in_progress"
        service.store.release(own)
        assert next(events)["event"] == "queued"
        assert next(events)["data"]["queue_position"] == 1
        until(lambda: service.store.request_cancel(third), "the job is cancelled")
        assert next(events)["event"] == "cancelled"
    service.complete(lease)
