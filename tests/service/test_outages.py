"""What clients are told while a part of the service is away, and that nothing is lost or half done."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from adaspa_api.report import JobError
from adaspa_jobs.queue import QueueUnavailable
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable
from adaspa_jobs.store import Admitted
from adaspa_service.gateway import admission, videos
from claiming import lose_lease
from running_gateway import Service, serving
from valkey_process import start_valkey
from waiting import PATIENCE, until


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


def check_away(response: Any, what: str = "job store") -> None:
    """503 in the error shape, with what is away and a time to come back."""
    error = response.json()["error"]
    assert error["message"] == f"The {what} is unavailable; try again."
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
        service.settle()
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

    def submit_and_lose_redis(*arguments: Any) -> Admitted:
        admitted = admission.submit(*arguments)
        server.kill()
        server.wait()
        return admitted

    monkeypatch.setattr(videos, "submit", submit_and_lose_redis)
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        answer = service.create()
        assert (answer["status"], answer["queue_position"], answer["starts_in_seconds"]) == ("queued", None, None)
        service.settle()
        own_valkey()
        assert service.http.get(f"/videos/{answer['id']}").json()["queue_position"] == 1
        assert len(service.http.get("/videos").json()["data"]) == 1
        assert service.messages() == 0
        bells = service.store.announce(service.parts.catalog.default, "worker-1")
        assert bells == {"interactive": 1, "bulk": 0}, "a worker's heartbeat finds it"


def test_without_storage_the_gateway_is_not_ready(service: Service, settings: Settings) -> None:
    video_id = service.completed()
    folder = Path(settings.storage_url)
    folder.rename(folder.with_name("away"))
    folder.write_text("an outage: no folder here")
    check_away(service.http.get("/readyz"), "storage")
    check_away(service.http.get(f"/videos/{video_id}/content"), "storage")
    assert service.http.get(f"/videos/{video_id}").status_code == 200


def test_a_job_whose_bell_cannot_be_rung_is_accepted_and_found_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise QueueUnavailable("the broker is away")

    monkeypatch.setattr(admission, "ring", away)
    request: Any = {"json": {"prompt": "a red circle"}, "headers": {"Idempotency-Key": "k"}}
    first = service.http.post("/videos", **request)
    assert (first.status_code, service.messages()) == (200, 0)
    monkeypatch.undo()
    again = service.http.post("/videos", **request)
    assert again.headers["idempotent-replayed"] == "true", "whoever was told of the job was told the truth"
    assert again.json()["id"] == first.json()["id"]
    service.claim(first.json()["id"])


def test_jobs_that_come_and_go_leave_no_more_messages_than_jobs_may_wait(service: Service) -> None:
    for _ in range(20):
        ids = [service.create()["id"] for _ in range(2)]
        assert service.messages() == 2
        for video_id in ids:
            service.http.delete(f"/videos/{video_id}").raise_for_status()
    assert service.messages() == 2


def test_the_janitor_outlives_an_outage(
    settings: Settings, tmp_path: Path, own_valkey: Callable[[], subprocess.Popen[bytes]]
) -> None:
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        job_id = service.completed()
        server.kill()
        server.wait()
        threading.Event().wait(1.5)  # a round of the janitor falls into the outage
        own_valkey()
        service.store.client.zadd("adaspa:expiry", {job_id: 0}, xx=True)
        until(lambda: service.store.get(job_id) is None, "the janitor works again")


def test_a_redis_that_hangs_is_away_too(
    settings: Settings,
    tmp_path: Path,
    own_valkey: Callable[[], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = own_valkey()
    url = f"unix://{own_valkey.socket}?db=0"  # type: ignore[attr-defined]
    monkeypatch.setattr("adaspa_jobs.connections.ANSWER_SECONDS", 1.0)
    with serving(settings.model_copy(update={"redis_url": url}), tmp_path) as service:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            check_away(service.http.get("/videos"))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: service.http.get("/videos").status_code == 200, "it answers again")


@pytest.fixture
def hanging_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A storage that takes connections and answers nothing, as a server that was stopped with SIGSTOP does."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield listener


def test_a_storage_that_hangs_holds_up_no_lost_job_and_no_poll(
    settings: Settings, tmp_path: Path, hanging_storage: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer would be waited for longer than any request here takes."""
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 2 * PATIENCE)
    changes = {"storage_url": "s3://bucket/prefix"}
    with serving(settings.model_copy(update=changes), tmp_path) as service, ThreadPoolExecutor(51) as others:
        deleted = service.create()["id"]
        service.store.fail(service.claim(deleted), JobError(code="generation_failed", message="over"))
        with hanging_storage.accept()[0]:  # the janitor waits for storage
            lost = service.claim(service.create()["id"]).job.id
            probes = [others.submit(httpx.get, f"{service.url}/readyz", timeout=PATIENCE) for _ in range(50)]
            deletion = others.submit(httpx.delete, f"{service.url}/videos/{deleted}", timeout=PATIENCE)
            lose_lease(service.store, lost)
            until(
                lambda: service.http.get(f"/videos/{lost}").json()["status"] == "queued",
                "the job whose worker is not heard of is queued",
            )
            assert not any(probe.done() for probe in probes)
            hanging_storage.close()
        for probe in probes:
            check_away(probe.result(), "storage")
        assert deletion.result().status_code == 200
        assert service.http.get(f"/videos/{deleted}").status_code == 404
        assert service.store.get(deleted) is not None, "the record must not go before the files"


@pytest.mark.usefixtures("hanging_storage")
def test_a_probe_ends_however_long_storage_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage("s3://bucket/prefix")
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", 0.2)  # by far less than its client waits
    with pytest.raises(StorageUnavailable, match="does not answer"):
        asyncio.run(storage.ping())
