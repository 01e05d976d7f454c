"""How long a video is expected to take: from what was measured, and nothing where nothing was."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from adaspa_api.words import Priority
from adaspa_client import Client
from adaspa_jobs.counts import Load, QueueLoad
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.store import JobStore, Lease
from adaspa_jobs.times import Timed, expected
from adaspa_service.gateway import state as gateway_state
from admitting import create
from claiming import VIDEO, claimed, lose_lease
from running_gateway import REPORT, Service


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_state, "RECENT_SECONDS", 0.0)


def run(service: Service, denoising: float, rest: float = 2.0, **asked: Any) -> Lease:
    """A completed job that took these seconds."""
    lease = service.claim(service.create(**asked)["id"])
    timings = {"loading": 100.0, "encoding_prompt": 0.5, "denoising": denoising, "decoding": rest - 0.5}
    service.store.complete(lease, {}, REPORT, timings)
    return lease


def test_an_estimate_is_made_of_completed_jobs_alone(service: Service) -> None:
    def ask(**asked: Any) -> dict[str, Any]:
        answer = service.http.post("/v1/videos/estimate", json={"model": "demo", "steps": 20} | asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    before = ask(quality="fast")
    assert (before["estimated_seconds"], before["measured"]) == (None, None)
    assert "quality fast" in before["reason"] and "completed yet" in before["reason"]
    assert (before["object"], before["size"], before["workers"]) == ("video.estimate", "128x128", 0)
    assert set(before["qualities"]) == {"default", "exact", "quality", "balanced", "fast"}

    for seconds in (10.0, 12.0, 90.0):  # the first clip of a worker
        run(service, seconds, quality="fast", steps=20)
    run(service, 40.0, quality="exact", steps=20)
    run(service, 7.0, sparsity=0.5, steps=20)
    found = ask(quality="fast")
    assert (found["estimated_seconds"], found["denoising_seconds"], found["reason"]) == (14.0, 12.0, None)
    assert found["measured"] == {"jobs": 3, "size": "128x128", "num_frames": 33, "steps": 20, "scaled": False}
    presets = {name: each["estimated_seconds"] for name, each in found["qualities"].items()}
    assert presets == {"default": None, "exact": 42.0, "quality": None, "balanced": None, "fast": 14.0}
    assert ask(quality="fast", steps=40)["estimated_seconds"] == 26.0, "the decoding is the same"
    by_hand = ask(sparsity=0.5)
    assert by_hand["estimated_seconds"] is None and "settings of your own" in by_hand["reason"]
    unguided = ask(quality="fast", guidance_scale=1)
    assert unguided["estimated_seconds"] is None and "guidance_scale of 1" in unguided["reason"]
    assert service.http.get("/videos").json()["data"][0]["sparsity"] == 0.5, "nothing was made"
    with Client(service.url) as client:
        assert client.estimate(model="demo", steps=20, quality="exact").estimated_seconds == 42.0


def test_jobs_tell_what_they_are_expected_to_take_until_they_have_ended(service: Service) -> None:
    run(service, 10.0, quality="fast", steps=20)
    waiting, other = service.create(quality="fast", steps=10), service.create(quality="exact")
    assert (waiting["estimated_seconds"], other["estimated_seconds"]) == (7.0, None)
    lease = service.claim(waiting["id"])
    assert service.http.get(f"/videos/{waiting['id']}").json()["estimated_seconds"] == 7.0
    listed = service.http.get("/videos").json()["data"]
    assert [job["estimated_seconds"] for job in listed] == [None, 7.0, None]
    service.complete(lease)
    assert service.http.get(f"/videos/{waiting['id']}").json()["estimated_seconds"] is None


def test_when_a_job_begins_is_told_to_a_tenth_of_a_second(service: Service) -> None:
    service.store.client.rpush("adaspa:paces:demo", "10.1234")
    service.store.announce(service.parts.catalog.default, "worker")
    told = [service.create()["starts_in_seconds"] for _ in range(3)]
    assert told == [0.0, 10.1, 20.2]
    assert service.http.post("/videos/estimate", json={}).json()["starts_in_seconds"] == 30.4


def test_the_nearest_size_is_scaled_where_a_size_was_not_measured(params: Callable[..., JobParams]) -> None:
    made = [params(num_frames=17), params(), params(width=256, height=256)]
    times = [
        Timed.of(one, {"denoising": seconds, "decoding": 1.0}) for one, seconds in zip(made, (3, 8, 50), strict=True)
    ]
    found = expected(params(width=256, steps=20), [each for each in times if each])
    assert found is not None and (found.denoising, found.seconds) == (8 * 2 * 2, 8 * 2 * 2 + 2)
    assert (found.jobs, found.nearest.width, found.nearest.num_frames) == (1, 128, 33)


def test_what_cannot_be_made_is_not_estimated(service: Service) -> None:
    def refused(**asked: Any) -> str:
        answer = service.http.post("/videos/estimate", json=asked)
        assert answer.status_code == 400
        return str(answer.json()["error"]["param"])

    assert (refused(steps=0), refused(size="1x1"), refused(model="none")) == ("steps", "size", "model")
    for unfit in (
        {"user": ""},
        {"metadata": {"": "no key"}},
        {"n": 99},
        {"n": 2, "seed": 2**53 - 1},
        {"webhook_url": "http://localhost/"},
        {"priority": "first"},
    ):
        answers = [service.http.post(path, json={"prompt": "a"} | unfit) for path in ("/videos", "/videos/estimate")]
        assert answers[0].status_code == answers[1].status_code == 400, unfit
        assert answers[0].json() == answers[1].json()
    with_image = service.http.post("/videos/estimate", json={"model": "demo-image"})
    assert with_image.status_code == 200, "an image may be chosen later"


ATTEMPTS: dict[str, tuple[dict[str, Any], dict[str, float], set[str]]] = {
    "by the model's own settings": ({}, {"denoising": 1.0}, {"pace", "default"}),
    "by a preset": ({"quality": "fast"}, {"denoising": 1.0}, {"pace", "fast"}),
    "by hand": ({"sparsity": 0.5}, {"denoising": 1.0}, {"pace"}),
    "not timed": ({}, {"decoding": 1.0}, {"pace"}),
    "resumed": ({}, {"denoising": 1.0}, set()),
    "after its lease": ({}, {"denoising": 1.0}, set()),
}
"""What was asked, how long each phase took, and which estimates that counts for."""


@pytest.mark.parametrize("how", ATTEMPTS)
def test_only_an_attempt_that_did_all_the_work_tells_what_a_job_takes(
    store: JobStore, params: Callable[..., JobParams], how: str
) -> None:
    asked, timings, tells = ATTEMPTS[how]
    lease = claimed(store, create(store, params(**asked)))
    resumed = 4 if how == "resumed" else None
    store.report_progress(lease, Progress(phase="denoising", step=9, steps=10, resumed_from_step=resumed))
    if how == "after its lease":
        lose_lease(store, lease.job.id)
        store.requeue_expired()
    store.complete(lease, VIDEO, REPORT, timings)
    pace = {"pace"} if store.load("demo").pace is not None else set()
    assert pace | {preset for preset, times in store.times("demo").items() if times} == tells


def timed(frames: int, denoising: float, rest: float = 1.0, steps: int = 10, guided: bool = True) -> Timed:
    size = {"width": 128, "height": 128, "num_frames": frames, "steps": steps}
    return Timed(**size, denoising=denoising, rest=rest, guided=guided)


@pytest.mark.parametrize(
    ("frames", "jobs", "wanted"),
    [
        (30, [timed(10, 9.0), timed(60, 40.0)], (20.0, 0.5, 1)),  # twice as long is nearer than a third
        (30, [timed(90, 60.0), timed(16, 8.0)], (15.0, 1.875, 1)),
        (30, [timed(30, 9.0, 9.0), timed(30, 2.0, 1.0), timed(30, 4.0, 5.0)], (4.0, 5.0, 3)),
        (30, [timed(30, 9.0, steps=90), timed(30, 2.0, steps=5), timed(30, 3.0, steps=10)], (3.0, 1.0, 3)),
        (30, [timed(30, 5.0, guided=False), timed(60, 40.0)], (20.0, 0.5, 1)),
        (30, [timed(30, 5.0, guided=False)], None),
        (30, [timed(60, 7.0), timed(30, 4.0), timed(60, 8.0), timed(30, 6.0)], (5.0, 1.0, 2)),
    ],
)
def test_the_nearest_jobs_that_are_guided_alike_tell_by_their_medians(
    params: Callable[..., JobParams], frames: int, jobs: list[Timed], wanted: tuple[float, float, int] | None
) -> None:
    found = expected(params(num_frames=frames, steps=10), jobs)
    told = found and (found.denoising, found.seconds - found.denoising, found.jobs)
    assert told == (pytest.approx(wanted) if wanted else None)


def test_the_time_of_a_job_is_that_of_its_phases_but_for_the_loading(params: Callable[..., JobParams]) -> None:
    phases = {"loading": 64.0, "encoding_prompt": 1.0, "denoising": 32.0, "decoding": 2.0, "uploading": 4.0}
    whole = Timed.of(params(guidance_scale=1.0), phases)
    assert whole is not None and (whole.denoising, whole.rest, whole.guided) == (32.0, 7.0, False)
    assert Timed.of(params(), {"decoding": 2.0}) is None


def test_of_many_jobs_the_latest_ten_tell(params: Callable[..., JobParams]) -> None:
    times = [Timed.of(params(), {"denoising": seconds}) for seconds in (*[8.0] * 10, *[80.0] * 15)]
    found = expected(params(), [each for each in times if each])
    assert found is not None and (found.denoising, found.jobs) == (8.0, 10)


def waits(waiting: int, workers: int, *elapsed: tuple[float, float], cost: float | None = None) -> QueueLoad:
    return QueueLoad(waiting, waiting if cost is None else cost, 0.0, workers, list(elapsed))


@pytest.mark.parametrize(
    ("workers", "own", "rival", "position", "seconds"),
    [
        (0, waits(2, 0), waits(0, 0), 1, None),  # nobody serves it
        (2, waits(3, 0), waits(0, 2), 1, None),
        (2, waits(3, 2), waits(0, 2), 1, 0.0),  # both are idle
        (2, waits(3, 2), waits(0, 2), 3, 10.0),
        (2, waits(3, 2, (4, 1)), waits(0, 2), 1, 0.0),  # one is
        (2, waits(3, 2, (4, 1), (9, 1)), waits(0, 2), 1, 1.0),
        (2, waits(3, 2, (4, 1), (9, 2)), waits(0, 2), 2, 6.0 + 5.0),
        (1, waits(3, 1, (25, 2)), waits(0, 1), 1, 0.0),  # it takes longer than was expected
        (1, waits(4, 1, cost=8.0), waits(0, 1), 3, 40.0),
        (5, waits(9, 5), waits(1, 5), 3, 20 / 1.0),  # its share of five workers is one
        (5, waits(9, 5), waits(0, 5), 3, 20 / 5),
        (10, waits(9, 1), waits(1, 10), 2, 10 / 1),  # of two that are its share it has one
        (3, waits(9, 3), waits(1, 1), 3, 20 / 2),  # two serve nothing else
        (3, waits(9, 3), waits(1, 0), 3, 20 / 3),
    ],
)
def test_a_job_begins_as_its_queue_goes_on(
    workers: int, own: QueueLoad, rival: QueueLoad, position: int, seconds: float | None
) -> None:
    queues = {Priority.interactive: rival, Priority.bulk: own}
    load = Load(workers, 10.0, len(own.elapsed), queues, bulk_share=0.2)
    other = replace(load, queues={Priority.interactive: own, Priority.bulk: rival}, bulk_share=0.8)
    found = load.starts_in(Priority.bulk, position), other.starts_in(Priority.interactive, position)
    assert found == (None, None) if seconds is None else found == pytest.approx((seconds, seconds))
    assert replace(load, pace=None).starts_in(Priority.bulk, position) is None
