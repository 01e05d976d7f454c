"""What the gateway does by itself when a worker is lost or a job is over, as seen over HTTP."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import Lease, StoreUnavailable
from adaspa_service.access.open_access import Access
from adaspa_service.gateway import janitor as janitor_module
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.removal import each, tidy
from adaspa_service.gateway.state import AppState
from admitting import create
from claiming import claimed, lose_lease
from faults import let_time_pass
from running_gateway import FILES, Service, serving
from waiting import until


def changed(settings: Settings, **changes: Any) -> Settings:
    """The settings with other limits."""
    return Settings.model_validate(settings.model_dump() | changes)


def status(service: Service, video_id: str) -> str | None:
    """The job's status; None if it is unknown."""
    answer = service.http.get(f"/videos/{video_id}")
    return answer.json()["status"] if answer.is_success else None


def test_a_job_whose_worker_vanished_is_queued_again_and_given_up_at_the_limit(
    settings: Settings, valkey: redis.Redis, tmp_path: Path
) -> None:
    with serving(changed(settings, lease_seconds=0.2, max_attempts=2), tmp_path) as service:  # nobody renews a lease
        video_id = service.create()["id"]
        service.claim(video_id)
        until(lambda: status(service, video_id) == "queued", "the job is queued again")
        service.claim(video_id)
        until(lambda: status(service, video_id) == "failed", "the job is given up")
        assert service.http.get(f"/videos/{video_id}").json()["error"]["code"] == "worker_lost"


def test_an_expired_job_is_removed_with_its_files(settings: Settings, tmp_path: Path) -> None:
    with serving(changed(settings, result_ttl_seconds=3600), tmp_path) as service:
        video_id = service.completed()
        files = tmp_path / "objects" / "videos" / video_id
        assert len([path for path in files.rglob("*") if path.is_file()]) == len(FILES)
        let_time_pass(service.store.client, 3601)
        until(lambda: status(service, video_id) is None, "the job expires")
        until(lambda: not files.exists() and service.store.get(video_id) is None, "files and record are removed")


@pytest.mark.parametrize("end", ["completed", "cancelled", "worker_lost"])
def test_what_lost_workers_left_of_a_job_is_removed_when_it_ends(settings: Settings, tmp_path: Path, end: str) -> None:
    with serving(changed(settings, max_attempts=2), tmp_path) as service:
        video_id, storage = service.create()["id"], service.parts.storage

        def leave(lease: Lease) -> None:
            storage.create(f"videos/{video_id}/{lease.token}/video.mp4", b"half a video")
            storage.create(f"checkpoints/{video_id}/{lease.token}", b"latents")

        leave(service.claim(video_id))
        lose_lease(service.store, video_id)
        until(lambda: status(service, video_id) == "queued", "the worker is lost")
        lease = service.claim(video_id)
        if end == "completed":
            service.complete(lease)
        else:
            leave(lease)
            if end == "cancelled":
                service.http.post(f"/videos/{video_id}/cancel")
            lose_lease(service.store, video_id)
        until(lambda: status(service, video_id) in ("completed", "cancelled", "failed"), "the job ends")
        job = service.store.get(video_id)
        assert job is not None
        left = sorted(artifact.key for artifact in job.artifacts.values())
        until(lambda: sorted(storage.keys("")) == left, "only the result is left")
        assert len(left) == (len(FILES) if end == "completed" else 0)


def test_checkpoints_of_jobs_that_ended_or_are_gone_are_removed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.gateway.janitor.ORPHANS_SECONDS", 0.0)
    with serving(settings, tmp_path) as service:
        storage, ended = service.parts.storage, service.completed()
        running = service.claim(service.create()["id"]).job.id
        for video_id in (running, ended, f"video_{0:032x}"):
            storage.create(f"checkpoints/{video_id}/000001-000008", b"latents")
        unfinished = tmp_path / "objects" / "checkpoints" / f"video_{1:032x}" / "000001-000008#1"
        (made := tmp_path / "left").mkdir()  # a janitor removes a folder in which there is nothing yet
        (made / unfinished.name).write_bytes(b"late")
        os.utime(made / unfinished.name, (0, 0))
        made.rename(unfinished.parent)
        storage.create(".probe/left", b"adaspa")  # by a worker that was killed, or whose storage went away
        left = [f"checkpoints/{running}/000001-000008"]
        until(lambda: storage.keys("checkpoints/") == left, "only the running job's is left")
        until(lambda: storage.keys(".probe/") == [], "what a look at storage left is removed")
        until(lambda: not unfinished.parent.exists(), "what a killed worker left is removed")
        service.http.delete(f"/videos/{running}")


@pytest.mark.parametrize(
    ("error", "answers", "goes_on"),
    [
        (StorageUnavailable("away"), True, True),
        (StorageUnavailable("away"), False, True),
        (StoreUnavailable("away"), True, True),
        (StoreUnavailable("away"), False, False),
        (ValueError("a mistake of ours"), False, True),
    ],
    ids=str,
)
def test_a_chore_that_fails_keeps_no_other_from_being_done_unless_redis_is_away(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, answers: bool, goes_on: bool
) -> None:
    done: list[str] = []

    def fails() -> None:
        done.append("fails")
        raise error

    def other() -> None:
        done.append("other")

    def ping() -> None:
        if not answers:
            raise StoreUnavailable("away")

    monkeypatch.setattr(service.store, "ping", ping)
    janitor = Janitor(service.parts)
    for _ in range(2):
        janitor._do((fails, other))
    assert done == (["fails", "other"] if goes_on else ["fails"]) * 2


def test_storage_is_looked_through_each_minute_and_sooner_after_a_look_that_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [0.0], list[float]()

    def look(_: AppState) -> None:
        looks.append(now[0])
        if now[0] < 25:
            raise StorageUnavailable("refuses")

    monkeypatch.setattr(janitor_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for name in ("remove_lost_inputs", "remove_orphaned_checkpoints", "remove_left_probes"):
        monkeypatch.setattr(janitor_module, name, look)
    janitor = Janitor(AppState.of(settings))
    for second in range(200):
        now[0] = float(second)
        with suppress(StorageUnavailable):
            janitor._remove_orphans()
    assert looks == [at for at in (0, 10, 20, 30, 90, 150) for _ in range(3)]


def test_a_job_that_runs_keeps_what_its_attempts_left(service: Service) -> None:
    lease, storage = service.claim(service.create()["id"]), service.parts.storage
    own = [f"videos/{lease.job.id}/{lease.token}/video.mp4", f"checkpoints/{lease.job.id}/{lease.token}"]
    for key in own:
        storage.create(key, b"half a video")
    tidy(service.store, storage, lease.job.id)
    assert sorted(storage.keys("")) == sorted(own)
    service.http.post(f"/videos/{lease.job.id}/cancel")
    service.store.release_cancelled(lease)
    tidy(service.store, storage, lease.job.id)
    assert storage.keys("") == []


def test_the_log_names_each_job_that_a_janitor_brings_back_or_gives_up(
    settings: Settings, valkey: redis.Redis, params: Callable[..., JobParams], caplog: pytest.LogCaptureFixture
) -> None:
    state = AppState.of(settings)
    lost, waits = (create(state.store, params()) for _ in range(2))
    claimed(state.store, lost)
    janitor = Janitor(state)
    janitor.sweep()
    assert caplog.text == "", "there is nothing to tell"
    lose_lease(state.store, lost.id)
    janitor.sweep()
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert told == [("WARNING", f"{lost.id}: worker lost; job returned to the queue")]
    caplog.clear()
    let_time_pass(valkey, 10_000_000)
    janitor.sweep()
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert sorted(told) == sorted(
        ("WARNING", f"{job.id}: failed because no worker took it in time") for job in (lost, waits)
    )
    caplog.clear()
    janitor.sweep()
    assert caplog.text == ""


def test_each_outage_is_logged_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    janitor, away, told = Janitor(AppState.of(settings)), [False], []

    def chore() -> None:
        if away[0]:
            raise StorageUnavailable("is away")

    for now in (True, True, False, False, True, True, True, False, True):
        away[0] = now
        caplog.clear()
        janitor._do((chore,))
        told.append(caplog.text.count("janitor: chore: is away"))
    assert told == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_lost_keys_are_logged_once_each_time(
    settings: Settings, valkey: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, told = AppState.of(settings), []
    janitor = Janitor(state)
    for access in (Access.keys, Access.lost, Access.lost, Access.keys, Access.lost, Access.token, Access.lost):
        monkeypatch.setattr(state.entrance, "now", lambda access=access: access)
        caplog.clear()
        janitor._watch_keys()
        told.append("all requests are refused" in caplog.text)
    assert told == [False, True, False, False, True, False, True]


def test_what_storage_refuses_keeps_nothing_else_as_long_as_storage_answers(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def act(number: int) -> None:
        done.append(number)
        if number in (1, 3):
            raise StorageUnavailable(f"refuses {number}")
        if number == 5:
            raise StoreUnavailable("Redis is away")

    with pytest.raises(StorageUnavailable, match="refuses 1"):  # what was wrong first tells most
        each(service.parts, range(5), act)
    assert done == [0, 1, 2, 3, 4]
    each(service.parts, (0, 2, 4), act)
    done.clear()
    with pytest.raises(StoreUnavailable):
        each(service.parts, (4, 5, 6), act)
    assert done == [4, 5]

    async def away() -> None:
        raise StorageUnavailable("is away")

    monkeypatch.setattr(service.parts.storage, "ping", away)
    done.clear()
    with pytest.raises(StorageUnavailable, match="is away"):
        each(service.parts, range(5), act)
    assert done == [0, 1]


def test_files_are_removed_only_once_their_deletion_is_on_the_disk_of_redis(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(service.store.file, "synced", lambda: done.append("synced"))
    monkeypatch.setattr(service.parts.storage, "delete_prefix", lambda *_, **__: done.append("removed"))
    janitor = Janitor(service.parts)
    monkeypatch.setattr(service.store, "take_purgeable", lambda: [])
    janitor._purge()
    assert done == [], "nothing is waited for without a deletion"
    monkeypatch.setattr(service.store, "take_purgeable", lambda: ["video_" + "0" * 32])
    janitor._purge()
    assert done[0] == "synced" and "removed" in done


def test_files_that_a_record_names_go_also_where_storage_lists_none(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    video_id = service.completed()

    def refuses(*_: object, **__: object) -> None:
        raise StorageUnavailable("may not list")

    monkeypatch.setattr(service.parts.storage, "delete_prefix", refuses)
    service.http.delete(f"/videos/{video_id}")
    until(lambda: not [*service.parts.storage.keys("videos/")], "its files are removed")
    assert service.store.get(video_id) is not None, "what else there may be is still to be looked for"


@pytest.mark.parametrize(("version", "left"), [("99", True), ("1", False)], ids=["a later version's", "damaged"])
def test_what_attempts_left_of_a_job_that_cannot_be_read_is_for_whoever_can_read_it(
    service: Service, version: str, left: bool
) -> None:
    video_id = service.completed()
    until(lambda: not service.store.client.exists("adaspa:leavings"), "it is tidy")
    record = {"priority": "urgent", "schema_version": version}
    service.store.client.hset(f"adaspa:job:{video_id}", mapping=record)
    service.store.client.zadd("adaspa:leavings", {video_id: 0})
    tidy(service.store, service.parts.storage, video_id)
    assert (service.store.client.zscore("adaspa:leavings", video_id) is not None) == left
    assert len([*service.parts.storage.keys("videos/")]) == len(FILES), "its result stays"
