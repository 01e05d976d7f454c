"""The audit log: who created, cancelled and deleted what, of the API and of operators' commands."""

import getpass
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import redis
from adaspa_client.local_token import read_token
from adaspa_command import adaspa
from adaspa_jobs.logs import AUDIT
from adaspa_service.access import audit
from adaspa_service.access.acts import ACTS, BATCH, OperatorActs, who
from adaspa_service.access.keys import Scope
from gateway_process import running
from hypothesis import example, given
from hypothesis import strategies as st
from running_gateway import Service
from waiting import until

PROMPT = "a circle that is nobody's business"
FIELDS = ("event", "job", "key", "actor", "actor_name", "address", "request_id")
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The lines so far, by their fields."""
    caplog.set_level(logging.INFO, AUDIT)

    def found() -> list[dict[str, Any]]:
        records = [record.__dict__ for record in caplog.records if record.name == AUDIT]
        return [{name: record[name] for name in FIELDS if name in record} for record in records]

    return found


@contextmanager
def capturing(log: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """What is written to a log."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        yield records
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@pytest.mark.asks
def test_who_created_cancelled_and_deleted_what(
    service: Service, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    first = service.create(prompt=PROMPT)["id"]
    key, token = service.parts.keys.create("the studio", frozenset({Scope.read, Scope.write}))
    service.http.headers.update({"Authorization": f"Bearer {token}", "X-Request-ID": "order-17"})
    once = {"Idempotency-Key": "order-17"}
    asked = {"prompt": PROMPT, "n": 2}
    two = [video["id"] for video in service.http.post("/videos", json=asked, headers=once).json()["data"]]
    service.http.post("/videos", json=asked, headers=once)  # which creates nothing
    other = service.http.post(f"/videos/{two[0]}/remix", json={"prompt": PROMPT}).json()["id"]
    for _ in range(2):  # the second time there is nothing to cancel
        service.http.post(f"/videos/{two[0]}/cancel")
    service.http.delete(f"/videos/{two[1]}")
    for path in (f"/videos/{two[1]}", f"/videos/{first}"):  # gone, and another's
        assert service.http.delete(path).status_code == 404
    assert service.http.post("/videos", json={"prompt": ""}).status_code == 400
    by_token, *by_key = lines()
    assert len(by_token.pop("request_id")) == 32
    assert by_token == {"event": "job.created", "job": first, "actor": "open", "address": "127.0.0.1"}
    who = {"actor": key.id, "actor_name": "the studio", "address": "127.0.0.1", "request_id": "order-17"}
    done = [*(("created", job) for job in (*two, other)), ("cancelled", two[0]), ("deleted", two[1])]
    assert by_key == [{"event": f"job.{what}", "job": job} | who for what, job in done]
    for secret in (PROMPT, token, service.token):
        assert secret not in caplog.text


def test_an_answer_names_its_request(service: Service) -> None:
    for path in ("/models", "/nowhere", "/healthz", "/static/main.js"):
        answers = [service.http.get(path, headers=given) for given in ({}, {}, {"X-Request-ID": "a b"})]
        ids = {answer.headers["x-request-id"] for answer in answers}
        assert len(ids) == 3 and all(len(name) == 32 for name in ids), path
    for asked, kept in (
        *(("1-67891233/abc", True), ("a", True), ("Root=1:2+3_4.5", True), ("a" * 128, True), ("a" * 129, False)),
        *(("", False), ("a b", False), ('a"', False), ("a;b", False), ("é", False), ("a,b", False)),
    ):
        answer = service.http.get("/healthz", headers=[(b"X-Request-ID", asked.encode())])
        assert (answer.headers["x-request-id"] == asked) == kept, asked


def test_the_log_as_json_has_what_operators_did_and_whatever_the_level(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url, log_level="error", log_format="json") as (_, url):
        token = {"Authorization": f"Bearer {read_token(httpx.URL(url))}"}
        video_id = httpx.post(f"{url}/videos", json={"prompt": PROMPT}, headers=token).json()["id"]
        made = json.loads(adaspa("keys", "create", "--name", "a = b", "--json", ADASPA_REDIS_URL=redis_url).stdout)
        adaspa("keys", "rotate", made["id"], ADASPA_REDIS_URL=redis_url)
        adaspa("keys", "revoke", made["id"], ADASPA_REDIS_URL=redis_url)
        fresh = adaspa("webhooks", "rotate", ADASPA_REDIS_URL=redis_url).stdout.strip()
        log = tmp_path / "gateway.log"
        until(lambda: "webhook_secret.rotated" in log.read_text(), "everything is written down")
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["event"], line.get("job"), line.get("key")) for line in found] == [
        ("job.created", video_id, None),
        *((f"key.{what}", None, made["id"]) for what in ("created", "rotated", "revoked")),
        ("webhook_secret.rotated", None, None),
    ]
    assert {(line["logger"], line["level"]) for line in found} == {(AUDIT, "INFO")}
    assert all("@" in line["actor"] for line in found[1:])
    assert all(abs(datetime.now(UTC) - datetime.fromisoformat(line["at"])).total_seconds() < 600 for line in found[1:])
    assert (found[1]["key_name"], found[1]["scopes"]) == ("a = b", "read write")
    assert 'key_name="a = b" scopes="read write"' in found[1]["message"]
    assert all(secret not in log.read_text() for secret in (PROMPT, made["key"], fresh))


def test_what_could_not_be_noted_is_told(service: Service, redis_url: str) -> None:
    key, _ = service.parts.keys.create("test", frozenset({Scope.read}))
    client: Any = service.store.client
    client.config_set("maxmemory", 1)
    try:
        done = adaspa("keys", "revoke", key.id, ADASPA_REDIS_URL=redis_url)
    finally:
        client.config_set("maxmemory", 0)
    assert done.returncode == 0 and "revoked" in done.stdout
    assert "missing from the audit log (key.revoked)" in done.stderr


@pytest.mark.parametrize("missing", [KeyError, OSError])  # before Python 3.13, and since then
def test_who_has_no_name_on_this_machine_is_a_number(monkeypatch: pytest.MonkeyPatch, missing: type[Exception]) -> None:
    """As the user of a container."""
    monkeypatch.setattr(getpass, "getuser", Mock(side_effect=missing("uid not found")))
    assert who() == f"{os.getuid()}@{platform.node()}"


def test_what_operators_did_is_taken_once_and_in_its_order(valkey: redis.Redis) -> None:
    acts = OperatorActs(valkey)
    for number in range(BATCH + 3):
        acts.add("key.created", number=str(number))
    first, rest = acts.take(), acts.take()
    assert [act["number"] for act in (*first, *rest)] == [str(number) for number in range(BATCH + 3)]
    assert (len(first), acts.take()) == (BATCH, [])


@pytest.mark.parametrize("text", [b"no act", b"", b"[]", b"7", b"null", b'"an act"', b"\xff", b'{"event"'])
def test_an_act_that_cannot_be_read_is_told_of_and_takes_no_other_with_it(valkey: redis.Redis, text: bytes) -> None:
    acts = OperatorActs(valkey)
    acts.add("key.created", key="1")
    valkey.lpush(ACTS, text)
    acts.add("key.created", key="2")
    first, unreadable, second = acts.take()
    assert (first["key"], second["key"]) == ("1", "2")
    assert unreadable == {"event": "unreadable", "text": repr(text)}


def test_a_later_versions_act_is_written_whatever_its_fields_are_called(valkey: redis.Redis) -> None:
    """Those that are taken with it from Redis are in no other place."""
    acts, names = OperatorActs(valkey), [*vars(logging.makeLogRecord({})), "message", "asctime", "level", "time"]
    for name in names:
        valkey.lpush(ACTS, json.dumps({"event": "key.created", name: f"of {name}"}))
    with capturing(logging.getLogger(AUDIT)) as records:
        for act in acts.take():
            audit.write(act)
    told = [record.getMessage() for record in records]
    assert len(told) == len(names) and all(f'="of {name}"' in line for name, line in zip(names, told, strict=True))


PART = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ ="]+)')
"""A field of a line, as whoever reads the log takes it apart."""


@given(st.dictionaries(st.sampled_from(["key_name", "actor", "job"]), st.text(max_size=20)))
@example({"key_name": "a=b"})
@example({"key_name": "a\nevent=job.deleted"})
@example({"key_name": '"', "job": "\\"})
@example({"actor": "%s", "job": "é"})
def test_a_line_is_taken_apart_into_what_was_written_whatever_a_key_is_called(about: dict[str, str]) -> None:
    """Nobody's name of a key makes a field, or a line, of its own."""
    with capturing(logging.getLogger(AUDIT)) as records:
        audit.write({"event": "key.created", **about})
    (record,) = records
    line, wanted = record.getMessage(), {"event": "key.created"} | {name: text for name, text in about.items() if text}
    assert line.isascii() and line.isprintable()
    assert " ".join(part[0] for part in PART.finditer(line)) == line
    found = {name: json.loads(text) if text.startswith('"') else text for name, text in PART.findall(line)}
    assert found == wanted == {name: record.__dict__[name] for name in wanted}
