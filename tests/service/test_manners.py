"""What clients of other services expect of an API beside its answers."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Progress
from adaspa_service.cli import app
from adaspa_service.gateway import models, polling, waiting
from admitting import admit
from fastapi import Request
from running_gateway import REPORT, Service
from typer.testing import CliRunner
from waiting import PATIENCE, until


def test_what_is_not_offered_says_why(service: Service) -> None:
    asked = [("POST", "/v1/videos/edits"), ("POST", "/v1/videos/extensions"), ("POST", "/videos/characters")]
    for method, path in [*asked, ("GET", "/v1/videos/characters/char_1")]:
        answer = service.http.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_offered"), path
        assert "no model here" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("duration", "seconds"),
        ("aspect_ratio", "size"),
        ("resolution", "size"),
        ("image", "input_reference"),
        ("numFrames", "num_frames"),
        ("step", "steps"),
        ("negative-prompt", "negative_prompt"),
        ("Callback-URL", "webhook_url"),
        ("FRAME_RATE", "fps"),
        ("nonsense", None),
    ],
)
def test_an_unknown_field_names_the_one_that_was_meant(service: Service, field: str, meant: str | None) -> None:
    error = service.http.post("/videos", json={"prompt": "x", field: "1"}).json()["error"]
    assert (error["param"], error["code"]) == (field, "unknown_parameter")
    assert (f"did you mean {meant}?" in error["message"]) if meant else ("did you mean" not in error["message"])


def test_an_image_for_a_model_that_takes_none_names_those_that_do(service: Service) -> None:
    refused = service.http.post("/videos", data={"prompt": "x"}, files={"image": b"\x89PNG"}).json()["error"]
    assert refused["code"] == "file_not_allowed" and "did you mean input_reference?" in refused["message"]
    error = service.http.post("/videos", data={"prompt": "x"}, files={"input_reference": b"\x89PNG"}).json()["error"]
    assert error["param"] == "input_reference" and error["message"].endswith("models that take this image: demo-image")


def test_what_no_model_takes_names_none_that_does(service: Service) -> None:
    sound = {"prompt": "x", "reference_audio": "https://example.com/a.wav"}
    error = service.http.post("/videos", json=sound).json()["error"]
    assert error["param"] == "reference_audio" and "models that take" not in error["message"]


def test_a_client_is_told_when_to_ask_again(service: Service) -> None:
    def told(answer: Any) -> str | None:
        header: str | None = answer.headers.get("openai-poll-after-ms")
        return header

    made = service.http.post("/videos", json={"prompt": "a red circle"})
    path = f"/videos/{made.json()['id']}"
    assert (told(made), told(service.http.get(path))) == ("1000", "1000"), "nothing is known yet"
    lease = service.claim(made.json()["id"])
    for left, after in ((1.5, "500"), (60.0, "6000"), (900.0, "10000")):
        service.store.report_progress(lease, Progress(phase="denoising", step=2, steps=24, eta_seconds=left))
        assert told(service.http.get(path)) == after
    service.complete(lease)
    assert told(service.http.get(path)) is None


@pytest.mark.parametrize(
    ("left", "starts_in", "takes", "after"),
    [
        (None, None, None, 1000),
        (None, None, 60.0, 1000),
        (0.0, None, None, 500),
        (5.0, None, None, 500),
        (5.2, None, None, 520),
        (99.0, None, None, 9900),
        (101.0, None, None, 10_000),
        (5.2, 80.0, 80.0, 520),
        (None, 0.0, None, 500),
        (None, 20.0, None, 2000),
        (None, 20.0, 10.0, 3000),
        (None, 0.0, 30.0, 3000),
    ],
)
def test_a_poll_comes_after_a_tenth_of_what_is_left(
    left: float | None, starts_in: float | None, takes: float | None, after: int
) -> None:
    video: Any = SimpleNamespace(eta_seconds=left, starts_in_seconds=starts_in, estimated_seconds=takes)
    assert polling.poll_after_ms(video) == after


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["wait=0"], 0),
        (["wait=49"], 49),
        (["wait=50"], 50),
        (["wait=51"], 50),
        (["wait=999999999"], 50),
        (["Wait = 7"], 7),
        (['wait="7"'], 7),
        (["wait=7; strict"], 7),
        (["respond-async, wait=7"], 7),
        (["respond-async,wait=7,return=minimal"], 7),
        (["respond-async", "wait=7"], 7),
        (["wait=7", "wait=9"], 7),
        (["return=minimal; wait=7"], None),
        (["await=7"], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=x"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=7x"], None),
        (["wait=9999999999"], None),
        (["return=minimal"], None),
        ([""], None),
        ([], None),
    ],
    ids=str,
)
def test_a_client_waits_for_as_long_as_it_prefers_and_may(lines: list[str], seconds: int | None) -> None:
    headers = [(b"prefer", line.encode()) for line in lines]
    assert waiting.asked_for(Request({"type": "http", "headers": headers})) == seconds


def test_a_model_tells_since_when_it_is_served(service: Service) -> None:
    def created() -> int:
        return int(service.http.get("/v1/models/demo").json()["created"])

    assert created() == service.parts.started_at
    service.store.announce(Catalog.load(None).default, "worker")
    service.store.client.hset("adaspa:served_since", "demo", 1_700_000_000)
    service.store.announce(Catalog.load(None).default, "another")
    assert created() == 1_700_000_000, "the first worker's time stays"


def test_a_mistake_of_ours_is_found_by_its_request_id(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models, "view", lambda *_: 1 / 0)
    answer = service.http.get("/models/demo", headers={"X-Request-ID": "order-17"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "order-17")
    assert "order-17" in answer.json()["error"]["message"]
    assert [record.request_id for record in caplog.records if "unexpected error" in record.message] == ["order-17"]  # type: ignore[attr-defined]


def test_an_answer_is_held_until_the_job_has_ended_or_its_time_has_passed(service: Service) -> None:
    def post(prefer: str, **asked: Any) -> httpx.Response:
        return service.http.post("/videos", json={"prompt": "x"} | asked, headers={"Prefer": prefer})

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(post, "respond-async, wait=40", n=2)
        until(lambda: service.store.client.llen("generate.demo") == 2, "the bells are rung before the wait")
        leases = []
        while len(leases) < 2:
            if lease := service.store.claim("demo", f"worker-{len(leases)}"):
                leases.append(lease)
        service.complete(leases[0])
        service.store.request_cancel(leases[1].job.id)
        assert not held.done(), "one of the two runs still"
        service.store.release_cancelled(leases[1])
        answer = held.result()
    assert sorted(video["status"] for video in answer.json()["data"]) == ["cancelled", "completed"]
    assert answer.headers["preference-applied"] == "wait=40"
    assert "openai-poll-after-ms" not in answer.headers, "nothing more will come of it"
    short = post("wait=0")
    assert (short.json()["status"], short.headers["preference-applied"]) == ("queued", "wait=0")
    assert "preference-applied" not in post("return=minimal").headers
    lines = [("Prefer", "respond-async"), ("Prefer", "wait=0")]
    answer = service.http.post("/videos", json={"prompt": "x"}, headers=lines)
    assert answer.headers["preference-applied"] == "wait=0"
    began = time.monotonic()
    assert (post("wait=1").json()["status"], time.monotonic() - began >= 1) == ("queued", True)


def test_whoever_waits_reads_all_that_came_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is read at once, of which there is news only once."""
    come, asked = ["queued", "in_progress", "in_progress", "completed"], list[str]()

    async def read(_: object, __: str, last: str) -> list[tuple[str, dict[str, str]]]:
        asked.append(last)
        return [(f"{len(asked)}-0", {"status": come[len(asked) - 1]})]

    news = iter([False, True])

    async def wait() -> bool:
        return next(news)  # whoever asks once more waits for what has come already

    monkeypatch.setattr(waiting, "read_events", read)
    state: Any = SimpleNamespace(feed=SimpleNamespace(following=lambda *_: nullcontext(SimpleNamespace(wait=wait))))
    request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(stopping=threading.Event())))
    asyncio.run(waiting.ended(request, state, "video_x", time.monotonic() + PATIENCE))
    assert asked == ["0-0", "1-0", "2-0", "3-0"]
    request.app.state.stopping.set()
    asyncio.run(waiting.ended(request, state, "video_x", time.monotonic() + PATIENCE))  # a gateway that stops


def test_what_jobs_came_to_is_counted_by_key_and_day(service: Service) -> None:
    service.completed()
    lease = service.claim(service.create()["id"])
    service.store.client.zincrby("adaspa:running:demo", -30_000, lease.job.id)  # it began 30 s ago
    service.store.fail(lease, JobError(code=ErrorCode.out_of_memory, message="no room"))
    service.http.delete(f"/videos/{service.create()['id']}")
    others = admit(service.store, lease.job.params, owner="another")[0]
    service.store.complete(service.claim(others.id), {}, REPORT, {})
    found = service.http.get("/v1/usage").json()
    (row,) = found["data"]
    assert [row[name] for name in ("model", "completed", "failed", "cancelled")] == ["demo", 1, 1, 1]
    assert found["jobs"] == 3 and 30 <= row["gpu_seconds"] == found["gpu_seconds"] < 120
    assert service.http.get("/usage", params={"days": 401}).json()["error"]["param"] == "days"
    command = CliRunner(env={"ADASPA_REDIS_URL": service.parts.settings.redis_url})
    shown = command.invoke(app, ["usage", "--days", "2", "--server", service.url]).output
    assert re.search(rf"demo\s+1\s+1\s+1\s+{row['gpu_seconds']:.1f}", shown) and "3 jobs and" in shown, shown
    by_key = json.loads(command.invoke(app, ["keys", "usage", "--json"]).stdout)
    assert [(each["id"], each["completed"]) for each in by_key] == [("open", 1), ("another", 1)]


def test_several_gpus_count_as_several(service: Service) -> None:
    service.store.announce(Catalog.load(None).default.model_copy(update={"gpus": 4}), "worker")
    lease = service.claim(service.create()["id"])
    service.store.client.zincrby("adaspa:running:demo", -30_000, lease.job.id)
    service.store.release(lease)
    assert 120 <= service.http.get("/usage").json()["gpu_seconds"] < 400, "also of an attempt that came to nothing"


def test_the_gpus_of_the_worker_that_ran_a_job_count_and_not_those_of_another(service: Service) -> None:
    one = Catalog.load(None).default
    for worker, spec in (("single", one), ("group", one.model_copy(update={"gpus": 4}))):
        service.store.announce(spec, worker)
    service.create()
    lease = service.store.claim("demo", "single", spec=one)
    assert lease is not None
    service.store.client.zincrby("adaspa:running:demo", -30_000, lease.job.id)
    service.store.release(lease)
    assert 30 <= service.http.get("/usage").json()["gpu_seconds"] < 100


def test_the_gpus_of_an_attempt_do_not_count_for_the_next_one_by_an_earlier_version(service: Service) -> None:
    one = Catalog.load(None).default
    service.store.announce(one, "single")
    service.create()
    for spec, worker in ((one.model_copy(update={"gpus": 100}), "group"), (None, "single")):
        lease = service.store.claim("demo", worker, spec=spec)
        assert lease is not None
        if spec is None:
            service.store.client.zincrby("adaspa:running:demo", -30_000, lease.job.id)
        service.store.release(lease)
    assert 30 <= service.http.get("/usage").json()["gpu_seconds"] < 2000, "once, and not a hundred times"
