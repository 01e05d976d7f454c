"""The operator's check of prompts: a real HTTP service that is asked before a job is accepted."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.settings import Settings
from http_server import answering
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError
from running_gateway import Service, serving
from tiny_wan import SIZE, model_spec
from waiting import PATIENCE, until


class Check:
    """A check that refuses prompts with ``forbidden`` in them, or answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.answer: Callable[[], tuple[int, bytes]] | None = None
        self.coding = "identity"
        self.url = ""

    def judge(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        self.asked.append(asked)
        if self.answer:
            return self.answer()
        bad = "forbidden" in asked["prompt"]
        return 200, json.dumps({"allowed": not bad, **({"reason": "names what is forbidden"} if bad else {})}).encode()


@pytest.fixture
def check() -> Iterator[Check]:
    check = Check()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            check.tokens.append(self.headers["authorization"])
            status, body = check.judge(asked)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Encoding", check.coding)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with answering(Handler) as port:
        check.url = f"http://127.0.0.1:{port}/check"
        yield check


@pytest.fixture
def service(settings: Settings, tmp_path: Path, check: Check) -> Iterator[Service]:
    own = {"prompt_check_url": check.url, "prompt_check_token": SecretStr("t" * 20), "prompt_check_seconds": PATIENCE}
    with serving(Settings.model_validate(settings.model_dump() | own), tmp_path) as running:
        yield running


def counted(service: Service) -> dict[str, float]:
    """How many prompts were checked, by what came of it."""
    families = text_string_to_metric_families(service.http.get("/metrics").text)
    (found,) = [family for family in families if family.name == "adaspa_prompt_checks"]
    return {sample.labels["outcome"]: sample.value for sample in found.samples if sample.name.endswith("_total")}


def test_what_the_check_refuses_is_not_accepted_and_its_reason_is_told(service: Service, check: Check) -> None:
    made = service.create(prompt="a red circle", user="anna", metadata={"order": "17"}, n=2)
    asked = {"prompt": "a red circle", "negative_prompt": None, "model": "demo", "owner": "open"}
    assert check.asked == [asked | {"user": "anna", "metadata": {"order": "17"}}], "once for all of them"
    assert check.tokens == [f"Bearer {'t' * 20}"]
    for path in ("/videos", f"/videos/{made['data'][0]['id']}/remix"):
        refused = service.http.post(path, json={"prompt": "a forbidden circle"})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "prompt", "prompt_refused")
        assert error["message"] == "prompt: names what is forbidden"
    assert len(service.http.get("/videos").json()["data"]) == 2
    assert counted(service) == {"allowed": 1, "refused": 2}
    header = {"Idempotency-Key": "order-1"}
    first = service.http.post("/videos", json={"prompt": "x"}, headers=header)
    check.answer = lambda: (500, b"")
    again = service.http.post("/videos", json={"prompt": "x"}, headers=header)
    assert first.json()["id"] == again.json()["id"], "what was accepted is not judged again"


def test_a_check_that_does_not_answer_refuses_unless_the_operator_says_otherwise(
    service: Service, settings: Settings, tmp_path: Path, check: Check
) -> None:
    changes = {"prompt_check_url": check.url, "prompt_check_failure": "accept", "prompt_check_seconds": 0.2}
    with serving(Settings.model_validate(settings.model_dump() | changes), tmp_path) as lenient:
        answers = [(500, b""), (200, b"yes"), (200, b'{"allowed": "no"}'), (200, b" " * 70_000), (302, b"")]
        for answer in answers:
            check.answer = lambda answer=answer: answer  # type: ignore[misc]
            refused = service.http.post("/videos", json={"prompt": "x"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "prompt_check_unavailable")
            assert int(refused.headers["retry-after"]) > 0
        check.answer, check.coding = (lambda: (200, b'{"allowed": true}')), "gzip"  # which it is not
        assert service.http.post("/videos", json={"prompt": "x"}).json()["error"]["code"] == "prompt_check_unavailable"
        check.answer, check.coding = (lambda: (302, b"")), "identity"
        assert service.messages() == 0
        assert lenient.create()["status"] == "queued"
        released = threading.Event()
        check.answer = lambda: (200, b'{"allowed": false}') if released.wait() else (500, b"")
        assert lenient.create()["status"] == "queued", "it is not waited for"
        released.set()
        assert counted(lenient) == {"no_answer": 2} and counted(service) == {"no_answer": len(answers) + 1}


def test_an_address_that_cannot_be_asked_ends_the_start() -> None:
    with pytest.raises(ValidationError, match="prompt_check_url"):
        Settings.model_validate({"prompt_check_url": "ftp://example.com"})


def test_a_model_that_leaves_while_a_prompt_is_checked_does_not_break_the_request(
    service: Service, check: Check, valkey: redis.Redis
) -> None:
    tiny = ModelSpec.model_validate(model_spec("/models/tiny"))
    models = service.parts.catalog
    asked = {"prompt": "a red circle", "model": "tiny", "size": f"{SIZE}x{SIZE}"}

    def comes() -> None:
        service.store.announce(tiny, "worker-1")
        until(lambda: models.get("tiny"), "the gateway serves the announced model")

    def leaves() -> tuple[int, bytes]:
        valkey.zadd("adaspa:served_until", {"tiny": 0})
        until(lambda: models.get("tiny") is None, "the model is gone")
        return 200, b'{"allowed": true}'

    comes()
    check.answer = leaves
    first = service.create(**asked)
    comes()
    remix = service.http.post(f"/videos/{first['id']}/remix", json={"prompt": "a blue circle"})
    assert remix.status_code == 200, remix.text
    assert {first["model"], remix.json()["model"]} == {"tiny"}
    assert service.store.load("tiny").waiting == 2
