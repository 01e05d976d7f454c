"""Images of requests once they are taken: who sees them, which jobs share them, and when they go."""

import asyncio
import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from adaspa_api.words import Fit, Role
from adaspa_jobs.logs import AUDIT
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import InputsLate, Lease, QueueFull, StoreUnavailable
from adaspa_service.gateway import videos
from adaspa_service.gateway.orphans import find_orphans, remove_orphan
from adaspa_service.gateway.removal import remove, remove_lost_inputs
from adaspa_service.inputs.clips import Tail
from adaspa_service.inputs.keep import Inputs
from adaspa_service.inputs.source import uploaded
from admitting import create
from claiming import FAILURE
from drawn import assert_corners, picture
from image_requests import WIDE, post, shown, stored, taking_images
from refusals import check_refused
from running_gateway import Service, data_uri
from waiting import until


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with taking_images(valkey_socket, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def service(emptied: Service) -> Service:
    """The gateway with nothing in its store and its storage."""
    return emptied


def test_an_image_is_shown_to_its_owner_and_by_a_link_and_to_nobody_else(service: Service) -> None:
    video = post(service, input_reference=data_uri(WIDE)).json()
    link = service.http.get(f"/videos/{video['id']}/link", params={"variant": "first_frame"}).json()["url"]
    whole = httpx.get(link)
    assert whole.status_code == 200 and whole.headers["content-type"] == "image/png"
    assert httpx.get(link, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.get(link.replace("first_frame", "last_frame")).status_code == 403
    missing = service.http.get(f"/videos/{video['id']}/content", params={"variant": "last_frame"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "variant_not_found")
    assert service.http.get(f"/videos/{video['id']}/content").status_code == 409


@pytest.mark.parametrize("last", [1, 3], ids=["of the batch", "a remix of a remix"])
def test_images_are_shared_by_a_batch_and_by_remixes_and_go_with_the_last(service: Service, last: int) -> None:
    batch = post(service, input_reference=data_uri(WIDE), n=2).json()["data"]
    remixed = service.http.post(f"/videos/{batch[0]['id']}/remix", json={"prompt": "a blue circle"}).json()
    again = service.http.post(f"/videos/{remixed['id']}/remix", json={"prompt": "a green circle"}).json()
    assert again["inputs"][0]["sha256"] == batch[0]["inputs"][0]["sha256"] and again["task"] == "image_to_video"
    assert len(stored(service)) == 1
    assert not [
        value for key in service.store.client.keys("*") for value in [service.store.client.dump(key)] if b"PNG" in value
    ]
    earlier = [*batch, remixed, again]
    kept = earlier.pop(last)
    for video in earlier:
        service.http.delete(f"/videos/{video['id']}")
        until(lambda video=video: service.store.get(video["id"]) is None, "it is removed")
        assert len(stored(service)) == 1
    assert_corners(shown(service, kept))
    service.http.delete(f"/videos/{kept['id']}")
    until(lambda: not stored(service), "the image goes with the last job")
    assert service.store.client.keys("adaspa:inputs:*") == []


def test_a_job_whose_record_is_gone_keeps_no_image(service: Service) -> None:
    """Its image goes with the last job that is known, and is an orphan if there is none."""
    store, storage = service.store, service.parts.storage
    shared, alone = (post(service, input_reference=data_uri(WIDE), n=n).json()["data"] for n in (2, 1))
    kept = post(service, input_reference=data_uri(WIDE)).json()
    for video in (shared[0], *alone):
        store.client.delete(f"adaspa:job:{video['id']}")
    assert find_orphans(storage, store, 0)[0][0].prefix.startswith("inputs/") and len(stored(service)) == 3
    service.http.delete(f"/videos/{shared[1]['id']}")
    until(lambda: len(stored(service)) == 2, "the image goes with the last job that is known")
    lease = store.claim("both", "worker", "process")
    assert isinstance(lease, Lease) and lease.job.id == kept["id"], "the others are set aside"
    (orphan,), known = find_orphans(storage, store, 0)
    assert (orphan.job_id, orphan.files, known) == (None, 1, 1)
    remove_orphan(storage, store, orphan)
    assert find_orphans(storage, store, 0) == ([], 1)
    assert_corners(shown(service, kept))
    assert len(stored(service)) == len(store.client.keys("adaspa:inputs:*")) == 1


def test_a_link_to_an_image_ends_as_its_job_is_deleted_though_its_worker_has_not_let_go(service: Service) -> None:
    video_id = post(service, input_reference=data_uri(WIDE)).json()["id"]
    link = service.http.get(f"/videos/{video_id}/link", params={"variant": "first_frame"}).json()["url"]
    assert service.store.claim("both", "worker", "process") and httpx.get(link).status_code == 200
    service.http.delete(f"/videos/{video_id}")
    assert (httpx.get(link).status_code, service.store.get(video_id) is None) == (404, False)


def test_an_image_is_shown_whatever_has_become_of_its_job(service: Service) -> None:
    ids = [post(service, input_reference=data_uri(WIDE)).json()["id"] for _ in range(3)]
    service.http.post(f"/videos/{ids[0]}/cancel")
    for _ in range(2):
        lease = service.store.claim("both", f"worker-{len(ids)}", "process")
        assert lease is not None
        ids.append(lease.job.id)
        if len(ids) == 4:
            service.store.fail(lease, FAILURE)
    for video_id in set(ids):
        answer = service.http.get(f"/videos/{video_id}/content", params={"variant": "first_frame"})
        assert answer.status_code == 200, service.http.get(f"/videos/{video_id}").json()["status"]


def test_a_running_job_keeps_its_image_until_it_has_ended(service: Service) -> None:
    video = post(service, input_reference=data_uri(WIDE)).json()
    lease = service.store.claim("both", "worker", "process")
    assert lease is not None
    service.http.delete(f"/videos/{video['id']}")
    remove(service.parts, video["id"])
    assert len(stored(service)) == 1
    service.store.release_cancelled(lease)
    until(lambda: not stored(service), "it goes once the worker has let go")


def test_the_same_image_is_the_same_request(service: Service) -> None:
    def send(content: bytes, *, form: bool = False) -> httpx.Response:
        headers = {"Idempotency-Key": "one"}
        if form:
            files = {"input_reference": ("any name.jpg", content)}
            return service.http.post("/videos", data={"prompt": "a red circle"}, files=files, headers=headers)
        body = {"prompt": "a red circle", "input_reference": data_uri(content)}
        return service.http.post("/videos", json=body, headers=headers)

    first = send(WIDE)
    for again in (send(WIDE), send(WIDE, form=True)):
        assert again.json()["id"] == first.json()["id"] and again.headers["idempotent-replayed"] == "true"
    other = send(picture(104, 200))
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(stored(service)) == 1


def test_of_two_same_requests_at_a_time_the_second_leaves_no_image(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(videos, "repeated", lambda *_: None)  # neither has been accepted when the other one is read
    caplog.set_level(logging.INFO, AUDIT)
    asked = {"prompt": "a red circle", "input_reference": data_uri(WIDE)}
    first, second = (service.http.post("/videos", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"] and len(stored(service)) == 1
    assert ("idempotent-replayed" in first.headers, second.headers["idempotent-replayed"]) == (False, "true")
    assert_corners(shown(service, second.json()))
    assert caplog.text.count("event=job.created") == service.messages("both") == 1


def test_images_of_no_job_are_orphans(service: Service) -> None:
    kept = post(service, input_reference=data_uri(WIDE)).json()
    forgotten = post(service, input_reference=data_uri(WIDE)).json()
    job = service.store.get(forgotten["id"])
    assert job is not None and job.params.inputs_folder
    service.store.client.delete(f"adaspa:inputs:{job.params.inputs_folder}")
    found, _ = find_orphans(service.parts.storage, service.store, 0)
    assert [(each.prefix, each.job_id, each.files) for each in found] == [
        (f"inputs/{job.params.inputs_folder}/", None, 1)
    ]
    remove_orphan(service.parts.storage, service.store, found[0])
    assert_corners(shown(service, kept))
    assert len(stored(service)) == 1


def test_a_janitor_removes_images_that_no_job_was_admitted_for(service: Service) -> None:
    """What a gateway leaves that is killed between the two."""
    kept = post(service, input_reference=data_uri(WIDE)).json()
    store, storage = service.store, service.parts.storage
    inputs = Inputs(service.parts.settings, storage, lambda *_: [], store.await_inputs)
    source = {Role.first: uploaded(BytesIO(WIDE))}
    taken = asyncio.run(inputs.take(source, "open", lambda *_: (64, 64), Fit.cover, Tail(17, 8)))
    inputs.close()
    folder = taken[0].key.split("/")[1]
    remove_lost_inputs(service.parts)
    assert len(stored(service)) == 2 and find_orphans(storage, store, 0)[0] == []  # it may still be admitted
    store.client.zadd("adaspa:awaited_inputs", {folder: 0})
    remove_lost_inputs(service.parts)
    assert len(stored(service)) == 1
    assert_corners(shown(service, kept))
    job = store.get(kept["id"])
    assert job is not None
    with pytest.raises(InputsLate):
        create(store, job.params.model_copy(update={"inputs": taken}))
    assert store.client.keys("adaspa:*_inputs") == []


def test_images_that_cannot_be_removed_now_are_removed_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    post(service, input_reference=data_uri(WIDE)).raise_for_status()
    (key,) = stored(service)
    folder, store = key.split("/")[1], service.store
    store.client.zadd("adaspa:lost_inputs", {folder: 0})

    def refuses(_: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(service.parts.storage, "delete_prefix", refuses)
        with pytest.raises(StorageUnavailable):
            remove_lost_inputs(service.parts)
    assert stored(service) == [key]
    remove_lost_inputs(service.parts)
    assert stored(service) == [] and not store.client.exists("adaspa:lost_inputs")


def test_a_request_whose_images_redis_forgot_is_refused_and_leaves_none(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that had not heard of them."""
    monkeypatch.setattr(service.parts.inputs, "_note", None)
    response = post(service, input_reference=data_uri(WIDE))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "service_unavailable")
    assert stored(service) == [] and service.messages("both") == 0


def test_a_request_that_is_refused_after_its_image_was_taken_leaves_none(service: Service) -> None:
    asked = {"input_reference": data_uri(WIDE), "steps": 100, "priority": "interactive"}
    check_refused(service, post(service, **asked), 400, "priority", "allowed: bulk")
    assert stored(service) == []


@pytest.mark.parametrize("away", ["storage", "Redis"])
def test_a_refusal_is_told_though_its_image_cannot_be_removed_now(
    service: Service, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    def refuses(_: str) -> None:
        raise StorageUnavailable("away") if away == "storage" else StoreUnavailable("away")

    where: Any = (service.parts.storage, "delete_prefix") if away == "storage" else (service.store, "forget_inputs")
    asked = {"input_reference": data_uri(WIDE), "steps": 100, "priority": "interactive"}
    with monkeypatch.context() as patched:
        patched.setattr(*where, refuses)
        response = post(service, **asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")


def test_a_refused_remix_leaves_its_source_the_image(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    source = post(service, input_reference=data_uri(WIDE)).json()

    def full(*_: object, **__: object) -> None:
        raise QueueFull

    with monkeypatch.context() as patched:
        patched.setattr(service.store, "admit_all", full)
        assert service.http.post(f"/videos/{source['id']}/remix", json={"prompt": "y"}).status_code == 429
        assert post(service, input_reference=data_uri(WIDE)).status_code == 429
    assert len(stored(service)) == 1
    assert_corners(shown(service, source))


@pytest.mark.parametrize("broken", [None, 1, 2], ids=["whole", "the first", "the second"])
def test_a_folder_of_images_is_noted_before_anything_lies_in_it_and_half_of_one_goes(
    service: Service, monkeypatch: pytest.MonkeyPatch, broken: int | None
) -> None:
    storage, done = service.parts.storage, list[str]()
    plain, note = storage.put_file, service.parts.inputs._note
    assert note is not None

    def put(key: str, *more: Any) -> Any:
        done.append("stored")
        if done.count("stored") == broken:
            raise StorageUnavailable("away")
        return plain(key, *more)

    monkeypatch.setattr(storage, "put_file", put)
    monkeypatch.setattr(service.parts.inputs, "_note", lambda folder: (done.append("noted"), note(folder))[1])
    answer = post(service, input_reference=data_uri(WIDE), last_frame=data_uri(WIDE))
    assert answer.status_code == (200 if broken is None else 503), answer.text
    assert done == ["noted", *["stored"] * (broken or 2)]
    assert len(stored(service)) == (2 if broken is None else 0)
