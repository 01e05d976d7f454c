"""What the gateway does when something is lost, full, over or away, as seen over HTTP."""

from pathlib import Path
from typing import Any

import redis
from adaspa_service.contract.settings import Settings
from running_gateway import FILES, Service, serving, until


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
    with serving(changed(settings, lease_seconds=0.2, max_attempts=2), tmp_path) as service:
        video_id = service.create()["id"]
        valkey.delete("generate.demo")  # a worker took its message
        service.claim(video_id)
        until(lambda: service.messages() == 1, "a new message is sent")
        assert status(service, video_id) == "queued"
        service.claim(video_id)
        until(lambda: status(service, video_id) == "failed", "the job is given up")
        assert service.http.get(f"/videos/{video_id}").json()["error"]["code"] == "worker_lost"


def test_an_expired_job_is_removed_with_its_files(settings: Settings, tmp_path: Path) -> None:
    with serving(changed(settings, result_ttl_seconds=1), tmp_path) as service:
        video_id = service.completed()
        files = tmp_path / "objects" / "videos" / video_id
        assert len([path for path in files.rglob("*") if path.is_file()]) == len(FILES)
        until(lambda: status(service, video_id) is None, "the job expires")
        until(lambda: not files.exists() and service.store.get(video_id) is None, "files and record are removed")


def test_a_full_queue_refuses_says_when_to_come_back_and_stores_nothing(settings: Settings, tmp_path: Path) -> None:
    with serving(changed(settings, queue_cap=1), tmp_path) as service:
        first = service.create()
        refused = service.http.post("/videos", json={"prompt": "one too many"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        assert [item["id"] for item in service.http.get("/videos").json()["data"]] == [first["id"]]
        assert service.messages() == 1
        service.claim(first["id"])
        assert service.create()["queue_position"] == 1


def test_without_redis_it_is_alive_not_ready_and_refuses_without_telling_of_its_inside(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"unix://{tmp_path}/none.sock", storage_url=str(tmp_path / "objects"))
    with serving(settings, tmp_path) as service:
        assert service.http.get("/healthz").status_code == 200
        for refused in (
            service.http.get("/readyz"),
            service.http.post("/videos", json={"prompt": "a star"}),
            service.http.get("/videos"),
        ):
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
            assert "none.sock" not in refused.text
        assert refused.headers["retry-after"]
