"""What clients are told while a part of the service is away, and that nothing is lost or half done."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from adaspa_jobs.job import JobError
from adaspa_jobs.queue import TASK, QueueUnavailable
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_service.gateway import admission
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.parts import Parts
from running_gateway import Service, serving, until
from valkey_process import start_valkey


@pytest.fixture
def own_valkey() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a server of this test's own, in the same place each time, which keeps its data."""
    started: list[subprocess.Popen[bytes]] = []
    with TemporaryDirectory(prefix="adaspa-test-") as folder:

        def start() -> subprocess.Popen[bytes]:
            started.append(start_valkey(Path(folder), "--appendonly", "yes", "--appendfsync", "always"))
            return started[-1]

        start.socket = Path(folder) / "valkey.sock"  # type: ignore[attr-defined]
        yield start
        for server in started:
            server.kill()
            server.wait()


def check_away(response: Any) -> None:
    """503 in the error shape, with a time to come back."""
    error = response.json()["error"]
    assert "valkey.sock" not in response.text, "clients are not told of the inside"
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "service_unavailable")
    assert int(response.headers["retry-after"]) >= 1


def test_without_redis_every_route_says_so_and_comes_back_by_itself(
    settings: Settings, tmp_path: Path, own_valkey: Callable[[], subprocess.Popen[bytes]]
) -> None:
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        video_id = service.create()["id"]
        server.kill()
        server.wait()
        for method, path in (
            ("GET", f"/videos/{video_id}"),
            ("GET", "/videos"),
            ("DELETE", f"/videos/{video_id}"),
            ("GET", f"/videos/{video_id}/content"),
            ("GET", "/models"),
            ("GET", "/readyz"),
        ):
            check_away(service.http.request(method, path))
        check_away(service.http.post("/videos", json={"prompt": "a red circle"}))
        assert service.http.get("/healthz").status_code == 200, "the process itself is well"
        own_valkey()
        assert service.http.get("/readyz").status_code == 200
        assert service.http.get(f"/videos/{video_id}").json()["queue_position"] == 1
        service.create()
        assert service.messages() == 2


def test_a_job_that_was_accepted_is_never_answered_with_try_again(
    settings: Settings,
    tmp_path: Path,
    own_valkey: Callable[[], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client without an Idempotency-Key would make it twice."""
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    note_sent = admission.note_sent

    def note_and_lose_redis(parts: Parts, job_id: str) -> None:
        note_sent(parts, job_id)
        server.kill()
        server.wait()

    monkeypatch.setattr(admission, "note_sent", note_and_lose_redis)
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        answer = service.create()
        assert (answer["status"], answer["queue_position"], answer["starts_in_seconds"]) == ("queued", None, None)
        own_valkey()
        assert service.http.get(f"/videos/{answer['id']}").json()["queue_position"] == 1
        assert len(service.http.get("/videos").json()["data"]) == 1


def test_without_storage_the_gateway_is_not_ready(service: Service, settings: Settings) -> None:
    video_id = service.completed()
    folder = Path(settings.storage_url)
    folder.rename(folder.with_name("away"))
    folder.write_text("an outage: no folder here")
    check_away(service.http.get("/readyz"))
    check_away(service.http.get(f"/videos/{video_id}/content"))
    assert service.http.get(f"/videos/{video_id}").status_code == 200


def test_a_job_whose_message_cannot_be_sent_waits_in_the_outbox(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise QueueUnavailable("the broker is away")

    monkeypatch.setattr(admission, "enqueue", away)
    request: Any = {"json": {"prompt": "a red circle"}, "headers": {"Idempotency-Key": "k"}}
    first = service.http.post("/videos", **request)
    assert (first.status_code, service.messages()) == (200, 0)
    monkeypatch.undo()
    again = service.http.post("/videos", **request)
    assert again.headers["idempotent-replayed"] == "true", "whoever was told of the job was told the truth"
    assert again.json()["id"] == first.json()["id"]
    assert service.messages() == 0
    service.store.client.zadd("adaspa:outbox", {first.json()["id"]: 0}, xx=True)
    until(lambda: service.messages() == 1, "the janitor sends it")
    service.claim(first.json()["id"])


def test_an_accepted_job_that_was_never_sent_is_sent_by_the_janitor(service: Service, params: Any) -> None:
    """As after a crash between record and message."""
    job = service.store.create(params())
    assert service.messages() == 0
    service.store.client.zadd("adaspa:outbox", {job.id: 0}, xx=True)
    until(lambda: service.messages() == 1, "the janitor sends it")
    until(lambda: not service.store.client.zcard("adaspa:outbox"), "and notes that")


def test_the_message_of_a_job_whose_worker_was_lost_is_sent_again(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    service.store.client.delete("generate.demo")  # the message that the lost worker took
    service.store.client.zadd("adaspa:leases", {lease.job.id: 0}, xx=True)
    until(lambda: service.messages() == 1, "the janitor sends another")
    video = service.http.get(f"/videos/{lease.job.id}").json()
    assert (video["status"], video["attempt"], video["queue_position"]) == ("queued", 1, 1)
    assert service.claim(lease.job.id).attempt == 2


def test_several_janitors_send_one_message(settings: Settings, service: Service, params: Any) -> None:
    jobs = [service.store.create(params()) for _ in range(20)]
    service.store.client.zadd("adaspa:outbox", {job.id: 0 for job in jobs}, xx=True)
    janitors = [Janitor(Parts.of(settings)) for _ in range(4)]
    threads = [threading.Thread(target=janitor.sweep) for janitor in janitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: service.messages() == len(jobs), "every message is there")
    assert service.store.take_unsent() == []


def test_the_janitor_outlives_an_outage(
    settings: Settings, tmp_path: Path, own_valkey: Callable[[], subprocess.Popen[bytes]], params: Any
) -> None:
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        job = service.store.create(params())
        server.kill()
        server.wait()
        threading.Event().wait(1.5)  # a round of the janitor falls into the outage
        own_valkey()
        service.store.client.zadd("adaspa:outbox", {job.id: 0}, xx=True)
        until(lambda: service.messages() == 1, "the janitor works again")


def test_a_redis_that_hangs_is_away_too(
    settings: Settings,
    tmp_path: Path,
    own_valkey: Callable[[], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    monkeypatch.setattr("adaspa_jobs.store.ANSWER_SECONDS", 0.2)
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            check_away(service.http.get("/videos"))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: service.http.get("/videos").status_code == 200, "it answers again")


def test_messages_name_the_task_and_the_job(service: Service) -> None:
    """What the worker relies on."""
    video_id = service.create()["id"]
    message = json.loads(service.store.client.lindex("generate.demo", 0))  # type: ignore[arg-type]
    assert (message["headers"]["task"], message["headers"]["id"]) == (TASK, video_id)
    assert json.loads(base64.b64decode(message["body"]))[0] == [video_id]


@pytest.fixture
def hanging_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a storage that takes connections and answers nothing, as a server that was stopped with SIGSTOP does."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield "s3://bucket/prefix"


def test_a_storage_that_hangs_holds_up_no_lost_job_and_no_poll(
    settings: Settings, tmp_path: Path, hanging_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 3.0)
    changes = {"storage_url": hanging_storage, "lease_seconds": 1.0}
    with serving(settings.model_copy(update=changes), tmp_path) as service, ThreadPoolExecutor(51) as others:
        deleted = service.create()["id"]
        service.store.fail(service.claim(deleted), JobError(code="generation_failed", message="over"))
        threading.Event().wait(1.5)  # the janitor has begun to wait for storage
        lost = service.claim(service.create()["id"]).job.id
        probes = [others.submit(httpx.get, f"{service.url}/readyz", timeout=20) for _ in range(50)]
        deletion = others.submit(httpx.delete, f"{service.url}/videos/{deleted}", timeout=20)

        def queued() -> bool:
            began = time.monotonic()
            status = service.http.get(f"/videos/{lost}").json()["status"]
            assert time.monotonic() - began < 2.5, "polls do not wait for storage, which would be 3 seconds"
            return bool(status == "queued")

        until(queued, "the job whose worker is not heard of is queued", seconds=5)
        for probe in probes:
            check_away(probe.result())
        assert deletion.result().status_code == 200
        assert service.http.get(f"/videos/{deleted}").status_code == 404
        assert service.store.get(deleted) is not None, "the record must not go before the files"


def test_a_probe_ends_however_long_storage_may_take(hanging_storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(hanging_storage)
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 0.2)  # by far less than its client waits
    with pytest.raises(StorageUnavailable, match="does not answer"):
        asyncio.run(storage.ping())
