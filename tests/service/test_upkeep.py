"""What the gateway does by itself when a worker is lost or a job is over, as seen over HTTP."""

import os
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import Lease
from claiming import lose_lease
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
        unfinished.parent.mkdir()
        unfinished.write_bytes(b"late")
        os.utime(unfinished, (0, 0))
        storage.create(".probe/left", b"adaspa")  # by a worker that was killed, or whose storage went away
        left = [f"checkpoints/{running}/000001-000008"]
        until(lambda: storage.keys("checkpoints/") == left, "only the running job's is left")
        until(lambda: storage.keys(".probe/") == [], "what a look at storage left is removed")
        until(lambda: not unfinished.parent.exists(), "what a killed worker left is removed")
        service.http.delete(f"/videos/{running}")
