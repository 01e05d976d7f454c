"""What clients of other services expect of an API beside its answers."""

from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Progress
from adaspa_service.gateway import models
from running_gateway import Service


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
    assert error["param"] == "input_reference" and error["message"].endswith("models that take one: demo-image")


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
