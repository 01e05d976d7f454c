"""Storage, or Redis' disk, that answers late or never: what needs none of it is served on."""

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.state import REMOVALS
from running_gateway import Service
from waiting import PATIENCE, until

MANY = 60
"""Requests at a time: more than a gateway has threads for what waits."""


def is_served(service: Service) -> bool:
    """Whether jobs are made, listed and cancelled."""
    video_id = service.create()["id"]
    asked = (("GET", ""), ("GET", f"/{video_id}"), ("POST", f"/{video_id}/cancel"))
    return all(service.http.request(method, f"/videos{path}").is_success for method, path in asked)


def test_downloads_that_wait_for_storage_hold_up_nothing_else(
    service: Service, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_jobs.storage.ANSWER_SECONDS", PATIENCE)
    video_id = service.completed()
    (file,) = Path(settings.storage_url).rglob("video.mp4")
    file.unlink()
    os.mkfifo(file)  # whoever opens it to read waits for somebody who writes
    host, port = service.url.removeprefix("http://").split(":")
    request = f"GET /videos/{video_id}/content HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    service.settle()
    with ExitStack() as connections:
        for _ in range(MANY):
            connections.enter_context(socket.create_connection((host, int(port)))).sendall(request)
        until(lambda: len(service.server.server_state.tasks) >= MANY, "all are asked for")
        assert is_served(service)
        written = os.open(file, os.O_RDWR | os.O_NONBLOCK)
        service.settle()
        os.close(written)


def test_deletions_that_wait_for_storage_hold_up_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [service.completed() for _ in range(MANY)]
    storage, back, waiting = service.parts.storage, threading.Event(), threading.Semaphore(0)
    discard, together = service.parts.store.discard, threading.Barrier(MANY // 3, timeout=PATIENCE)

    def discard_at_once(job_id: str) -> bool:
        found = discard(job_id)
        together.wait()
        return found

    delete = storage.delete

    def late(key: str) -> None:
        waiting.release()
        back.wait()
        delete(key)

    monkeypatch.setattr(storage, "delete", late)
    monkeypatch.setattr(service.parts.store, "discard", discard_at_once)
    asked = [
        threading.Thread(target=httpx.delete, args=(f"{service.url}/videos/{each}",), kwargs={"timeout": None})
        for each in ids
    ]
    try:
        for thread in asked:
            thread.start()
        assert waiting.acquire(timeout=PATIENCE), "no deletion reached storage"
        until(lambda: sum(thread.is_alive() for thread in asked) == REMOVALS, "only so many wait for storage")
        until(lambda: all(service.http.get(f"/videos/{each}").status_code == 404 for each in ids), "all are deleted")
        assert is_served(service)
    finally:
        back.set()
        for thread in asked:
            thread.join()
    until(lambda: not [key for key in storage.keys("videos/") if key.split("/")[1] in ids], "their files go, too")


@pytest.mark.parametrize(("method", "part"), [("POST", "/cancel"), ("DELETE", "")])
def test_what_waits_for_the_disk_of_redis_holds_up_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch, method: str, part: str
) -> None:
    ids = [service.create()["id"] for _ in range(MANY)]
    service.settle()
    written, waiting = threading.Event(), threading.Semaphore(0)

    def late(*_: object) -> None:
        waiting.release()
        written.wait()

    monkeypatch.setattr(type(service.store.file), "synced", late)
    asked = [
        threading.Thread(
            target=httpx.request, args=(method, f"{service.url}/videos/{each}{part}"), kwargs={"timeout": None}
        )
        for each in ids
    ]
    try:
        for thread in asked:
            thread.start()
        assert waiting.acquire(timeout=PATIENCE), "no request reached Redis' disk"
        until(lambda: len(service.server.server_state.tasks) >= MANY, "all are asked for")
        assert service.http.get("/videos").is_success and service.create()
    finally:
        written.set()
        for thread in asked:
            thread.join()
