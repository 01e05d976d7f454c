"""The Python clients, sync and async, against a real gateway: also over connections that are cut."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import adaspa_client as package
import httpx
import pytest
from adaspa_client import Client, Event, NotFound, Video
from adaspa_client.events import EventReader
from adaspa_jobs.settings import Settings
from adaspa_service.access import open_token
from flaky_proxy import flaky
from pydantic import SecretStr
from running_gateway import FILES, Service, serving
from sync_client import MADE, sync_client

CONTENT = FILES["video"][2]


def test_a_video_from_its_prompt_to_its_file(service: Service, connect: Any, tmp_path: Path) -> None:
    with connect(service.url) as client:
        video = client.create("a red circle", seed=7, quality="fast", output_format="webm")
        assert (video.status, video.seed, video.quality, video.output_format) == ("queued", 7, "fast", "webm")
        assert client.get(video.id).queue_position == 1
        service.complete(service.claim(video.id))
        seen: list[Any] = []
        done = client.wait(video.id, seen.append, poll=0.01)
        assert done.done and done.attention.density == 0.3 and seen[-1] == done
        assert client.download(video.id, tmp_path / "out.webm").read_bytes() == CONTENT
        assert client.download(video.id, tmp_path / "t", "thumbnail").read_bytes() == FILES["thumbnail"][2]
        assert httpx.get(client.link(video.id, "thumbnail", expires_in=60)).content == FILES["thumbnail"][2]
        remix = client.remix(video.id, "a blue circle")
        assert (remix.remixed_from_video_id, remix.seed) == (video.id, 7)
        assert client.cancel(remix.id).status == "cancelled"
        client.delete(remix.id)
        assert [path.name for path in tmp_path.glob(".*part")] == []
        with pytest.raises(package.NotFound) as error:
            client.get(remix.id)
        assert (error.value.status, error.value.code) == (404, "video_not_found")


def test_pages_are_walked_and_batches_made(service: Service, connect: Any) -> None:
    with connect(service.url) as client:
        batch = client.create_batch("a red circle", 5, seed=1)
        assert [video.seed for video in batch] == [1, 2, 3, 4, 5]
        assert [video.id for video in client.list("asc", page_size=2)] == [video.id for video in batch]
        assert next(iter(client.list(page_size=2))).seed == 5
        model = client.models()[0]
        assert (model.id, model.max_batch, model.waiting) == ("demo", 8, 5)


def test_events_come_to_the_last_one(service: Service, connect: Any) -> None:
    with connect(service.url) as client:
        lease = service.claim(client.create("a \u2028 line", steps=10).id)
        service.step(lease, 1)
        events: Iterator[Event] = client.events(lease.job.id)
        assert [next(events).type for _ in range(3)] == ["queued", "in_progress", "progress"]
        service.complete(lease)
        last = next(events)
        assert last.last and last.video is not None and last.video.prompt == "a \u2028 line"
        assert list(events) == []
        assert [event.type for event in client.events(lease.job.id, last_event_id=last.id)] == []


def test_events_go_on_after_a_cut(service: Service, connect: Any) -> None:
    lease = service.claim(service.create(steps=30)["id"])
    for step in range(1, 31):
        service.step(lease, step)
    service.complete(lease)
    with flaky(service.url, 2000, 3000, 50) as proxy, connect(proxy.url) as client:
        events = list(client.events(lease.job.id))
    assert [event.type for event in events] == ["queued", "in_progress", *["progress"] * 30, "completed"]
    assert [event.data["step"] for event in events[2:32]] == list(range(1, 31))
    assert b"last-event-id" in proxy.requests[-1].lower()


def test_a_download_goes_on_after_a_cut(service: Service, connect: Any, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    lease = service.claim(service.create()["id"])
    service.complete(lease, content)
    with flaky(service.url, 30_000, 20_000, 100, 40_000) as proxy, connect(proxy.url) as client:
        assert client.download(lease.job.id, tmp_path / "out.mp4").read_bytes() == content
    assert b"range: bytes=" in proxy.requests[-1].lower()


def test_a_download_replaces_files_alone_and_follows_links(service: Service, connect: Any, tmp_path: Path) -> None:
    video_id = service.completed()
    (tmp_path / "latest.mp4").symlink_to(tmp_path / "first.mp4")
    os.mkfifo(tmp_path / "pipe")
    with connect(service.url) as client:
        assert client.download(video_id, str(tmp_path / "latest.mp4")) == tmp_path / "latest.mp4"
        assert (tmp_path / "latest.mp4").is_symlink() and (tmp_path / "first.mp4").read_bytes() == CONTENT
        for taken in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(ValueError, match="path must lead to a file"):
                client.download(video_id, taken)
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.glob("*.part"))) == 0


def test_a_create_whose_answer_is_lost_is_made_once(service: Service, connect: Any) -> None:
    with flaky(service.url, 10, 10) as proxy, connect(proxy.url) as client:
        video = client.create("a red circle")
        assert [found.id for found in client.list()] == [video.id]
        batch = client.create_batch("a red circle", 2)
        assert len(list(client.list())) == 3 and len(batch) == 2


def test_a_delete_whose_answer_is_lost_has_deleted(service: Service, connect: Any) -> None:
    video_id = service.create()["id"]
    with flaky(service.url, 10) as proxy, connect(proxy.url) as client:
        client.delete(video_id)
        with pytest.raises(package.NotFound):
            client.delete(video_id)


@pytest.mark.parametrize(
    "given", ["", ".", "..", "../models", "{id}?x=1", "{id}/", "{id}#x", "{id}/link", "%2e%2e", "ü"]
)
def test_an_id_that_a_user_gave_leads_to_no_other_route(
    service: Service, connect: Any, tmp_path: Path, given: str
) -> None:
    video_id = service.completed()
    asked = given.format(id=video_id)
    with connect(service.url) as client:
        for call in (client.get, client.link, client.cancel, client.delete):
            with pytest.raises(NotFound) as error:
                call(asked)
            assert (error.value.status, error.value.code, error.value.param) == (404, "video_not_found", "video_id")
        with pytest.raises(NotFound):
            client.remix(asked, "another")
        with pytest.raises(NotFound):
            client.download(asked, tmp_path / "out.mp4")
        with pytest.raises(NotFound):
            list(client.events(asked))
        assert client.get(video_id).status == "completed"


def test_several_videos_are_no_single_one(service: Service, connect: Any) -> None:
    with connect(service.url) as client:
        with pytest.raises(TypeError, match="create_batch makes several"):
            client.create("a red circle", n=2)
        assert list(client.list()) == []


@pytest.mark.parametrize("given", [{"image": b""}, {"input_reference": b""}, {"last_image": b""}], ids=str)
def test_an_empty_image_is_refused_and_not_left_out(service: Service, connect: Any, given: dict[str, bytes]) -> None:
    with connect(service.url) as client:
        with pytest.raises(package.BadRequest, match="is empty"):
            client.create("a red circle", **given)
        assert list(client.list()) == []


def test_refusals_have_types(settings: Settings, tmp_path: Path, connect: Any) -> None:
    with serving(settings.model_copy(update={"queue_cap": 1}), tmp_path) as service, connect(service.url) as client:
        with pytest.raises(package.BadRequest) as bad:
            client.create("x", steps=0)
        assert bad.value.param == "steps" and "allowed: 1 to 100" in bad.value.message
        video = client.create("x")
        with pytest.raises(package.TooManyRequests) as full:
            client.create("x")
        assert full.value.code == "queue_full" and full.value.retry_after >= 1
        with pytest.raises(package.Conflict):
            client.download(video.id, tmp_path / "out.mp4")
        with pytest.raises(package.NotFound):
            list(client.events("video_" + "0" * 32))
        with pytest.raises(TimeoutError):
            client.wait(video.id, poll=0.01, timeout=0.05)
    assert not (tmp_path / "out.mp4").exists()


def test_a_gateway_that_is_away_is_waited_for(settings: Settings, tmp_path: Path, connect: Any) -> None:
    with connect("http://127.0.0.1:1", retries=1) as client, pytest.raises(httpx.TransportError):
        client.models()
    with serving(settings, tmp_path) as service:
        with flaky(service.url, *[0] * 3) as proxy, connect(proxy.url, retries=3) as client:
            assert client.models()[0].id == "demo"
        lease = service.claim(service.create()["id"])
        with flaky(service.url, *[0] * 5) as proxy, connect(proxy.url) as client:
            threading.Timer(0.2, service.complete, [lease]).start()
            assert client.wait(lease.job.id, poll=0.01).status == "completed"


def test_a_key_is_sent(service: Service, connect: Any) -> None:
    # The one that is open does not look at it.
    with flaky(service.url) as proxy, connect(proxy.url, api_key="sk-1") as client, suppress(package.Unauthorized):
        client.models()
    assert b"authorization: bearer sk-1" in proxy.requests[0].lower()


@pytest.mark.asks
def test_the_token_of_a_gateway_on_this_machine_is_found_and_sent_to_no_other(
    service: Service, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = httpx.URL(service.url).port or 0
    with connect(service.url) as client:
        with pytest.raises(package.Unauthorized, match="the token that the service printed"):
            client.models()
        open_token.leave(SecretStr("x" * 40), port)  # of a gateway that has ended
        with pytest.raises(package.Unauthorized, match="not the token"):
            client.models()
        open_token.leave(service.parts.open_token, port)
        video = client.create("a red circle")
        service.complete(service.claim(video.id))
        client.download(video.id, tmp_path / "out.mp4")
        assert [event.type for event in client.events(video.id)][-1] == "completed"
    monkeypatch.setattr("adaspa_client.local_token.is_here", lambda host: host != "127.0.0.1")
    with flaky(service.url) as proxy, connect(proxy.url) as client, pytest.raises(package.Unauthorized):
        client.models()
    assert b"authorization" not in proxy.requests[0].lower()


def test_it_needs_nothing_heavy() -> None:
    code = (
        "import sys, adaspa_client\n"
        "heavy = {'torch', 'fastapi', 'celery', 'redis', 'adaspa_jobs', 'adaspa_service'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    needed = {re.split(r"\W", requirement)[0] for requirement in requires("adaspa-client") or ()}
    assert needed == {"httpx", "pydantic"}


def test_words_of_a_later_gateway_are_read_as_they_are(service: Service) -> None:
    with Client(service.url) as client:
        found = client.create("a red circle").model_dump(mode="json")
    later = found | {"phase": "upscaling", "output_format": "apng", "error": {"code": "melted", "message": "it did"}}
    video = Video.model_validate(later | {"a_field": 1})
    assert (video.phase, video.output_format, video.error and video.error.code) == ("upscaling", "apng", "melted")
    assert not video.done and video.model_dump(mode="json") == later


def test_the_synchronous_client_is_what_the_asynchronous_one_makes_it() -> None:
    assert sync_client() == MADE.read_text(), "run: make sync-client"


def test_an_event_without_a_place_leaves_a_reader_where_it_was() -> None:
    """As a new place in the queue."""
    reader = EventReader("1-0")
    for text, place in (
        ("event: queued\n", "1-0"),
        ("id: 2-0\nevent: in_progress\n", "2-0"),
        ("event: queued\n", "2-0"),
    ):
        assert len(list(reader.feed(f"{text}data: {{}}\n\n"))) == 1
        assert reader.headers() == {"Last-Event-ID": place}
