"""The life of a video over HTTP, on a real port with a real Valkey."""

import time
from pathlib import Path
from typing import Any

import pytest
from adaspa_api.report import JobError, TokenCount
from adaspa_api.videos import Video
from adaspa_api.words import ErrorCode
from adaspa_jobs.job import Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobCancelled
from adaspa_service.cli.progress import summary
from adaspa_service.gateway.state import REMOVALS
from claiming import FAILURE, claim
from running_gateway import Service, serving
from waiting import until


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_prompt_alone_makes_a_job_with_the_models_defaults(service: Service, prefix: str) -> None:
    response = service.http.post(f"{prefix}/videos", json={"prompt": "a red circle"})
    video = response.json()
    assert response.status_code == 200 and abs(video["created_at"] - time.time()) < 60
    assert 0 <= video["seed"] < 2**53
    expected = {
        "object": "video",
        "model": "demo",
        "status": "queued",
        "progress": 0,
        "prompt": "a red circle",
        "size": "128x128",
        "seconds": "4.125",
        "num_frames": 33,
        "fps": 8,
        "steps": 24,
        "guidance_scale": 4.0,
        "negative_prompt": None,
        "quality": None,
        "sparsity": None,
        "retained_mass": None,
        "warmup": None,
        "output_format": "mp4",
        "remixed_from_video_id": None,
        "phase": "queued",
        "step": 0,
        "queue_position": 1,
        "attempt": 0,
        "error": None,
        "completed_at": None,
        "expires_at": None,
        "attention": None,
    }
    assert {name: video[name] for name in expected} == expected
    assert service.http.get(f"{prefix}/videos/{video['id']}").json() == video
    assert service.messages() == 1
    assert service.store.client.zcard("adaspa:outbox") == 0


def test_everything_that_is_asked_for_reaches_the_record(service: Service) -> None:
    asked = {
        "prompt": "ein roter Kreis für 赤い円 🔴",
        "model": "demo",
        "size": "128x128",
        "num_frames": 33,
        "fps": 11,
        "steps": 7,
        "guidance_scale": 2.5,
        "negative_prompt": "grey",
        "seed": 2**53 - 1,
        "sparsity": 0.25,
        "warmup": 2,
        "output_format": "webm",
    }
    video = service.create(**asked)
    assert {name: video[name] for name in asked} == asked
    assert video["seconds"] == "3"


def test_a_length_in_seconds_becomes_frames(service: Service) -> None:
    for seconds in ("4", 4, "4.125", 4.125):
        assert service.create(seconds=seconds)["num_frames"] == 33
    assert service.create(seconds="3.3", fps=10)["seconds"] == "3.3"


def test_a_seed_is_drawn_anew_each_time(service: Service) -> None:
    assert service.create()["seed"] != service.create()["seed"]


def test_a_job_is_seen_step_by_step_to_its_end(service: Service) -> None:
    video_id = service.create(steps=10)["id"]
    lease = service.claim(video_id)
    service.store.report_progress(lease, Progress(phase="loading", steps=10))
    seen = []
    for step in (1, 5, 10):
        service.step(lease, step)
        seen.append(service.http.get(f"/videos/{video_id}").json())
    assert [video["step"] for video in seen] == [1, 5, 10]
    assert all(video["status"] == "in_progress" and video["queue_position"] is None for video in seen)
    assert 0 < seen[0]["progress"] < seen[1]["progress"] < seen[2]["progress"] < 100
    assert (seen[1]["phase"], seen[1]["step_kind"], seen[1]["eta_seconds"]) == ("denoising", "sparse", 1.5)
    service.complete(lease)
    done = service.http.get(f"/videos/{video_id}").json()
    assert (done["status"], done["progress"], done["eta_seconds"]) == ("completed", 100, None)
    assert done["attention"]["density"] == 0.3 and done["attention"]["sparse_seconds"] == 0.5
    assert (done["timings"], seen[0]["content_type"], done["content_type"]) == ({"denoising": 1.5}, None, "video/mp4")
    assert (seen[0]["has_audio"], done["has_audio"]) == (None, False)
    assert done["expires_at"] - done["completed_at"] == 7 * 86400


def test_what_was_asked_is_shown_whatever_a_worker_tells_of_its_progress(service: Service) -> None:
    asked = service.create(steps=10)
    lease = service.claim(asked["id"])
    for told in (Progress(phase="loading"), Progress(phase="denoising", step=3, steps=7)):
        service.store.report_progress(lease, told)
        shown = service.http.get(f"/videos/{asked['id']}").json()
        assert (shown["steps"], shown["step"]) == (10, told.step)


def test_what_the_model_took_of_the_texts_is_told_from_their_encoding_on(service: Service) -> None:
    video_id = service.create(negative_prompt="grey")["id"]
    lease = service.claim(video_id)
    assert service.http.get(f"/videos/{video_id}").json()["prompt_tokens"] is None
    counts = {"used": 226, "cut": 74, "limit": 226}, {"used": 2, "cut": 0, "limit": 226}
    tokens = {"prompt_tokens": TokenCount(**counts[0]), "negative_prompt_tokens": TokenCount(**counts[1])}
    service.store.report_progress(lease, Progress(phase="denoising", step=1, steps=24, **tokens))
    service.complete(lease)
    video = service.http.get(f"/videos/{video_id}").json()
    assert (video["prompt_tokens"], video["negative_prompt_tokens"]) == counts
    told = summary(Video.model_validate(video))
    assert "the prompt has 300 tokens; the model ignored the last 74" in told and "negative" not in told


def test_a_failed_job_shows_code_and_message(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    service.step(lease, 12)
    service.store.fail(lease, JobError(code=ErrorCode.out_of_memory, message="too little memory"))
    video = service.http.get(f"/videos/{lease.job.id}").json()
    assert (video["status"], video["error"]) == ("failed", {"code": "out_of_memory", "message": "too little memory"})
    assert 0 < video["progress"] < 100
    content = service.http.get(f"/videos/{lease.job.id}/content")
    assert (content.status_code, content.json()["error"]["code"]) == (409, "video_not_ready")


def test_waiting_jobs_know_their_place(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(3)]
    assert [service.http.get(f"/videos/{i}").json()["queue_position"] for i in ids] == [1, 2, 3]
    service.claim(ids[0])
    listed = service.http.get("/videos", params={"order": "asc"}).json()["data"]
    assert [video["queue_position"] for video in listed] == [None, 1, 2]


def test_pages_cover_every_job_once_while_jobs_come_and_go(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        query: dict[str, Any] = {"limit": 3} | ({"after": after} if after else {})
        page = service.http.get("/videos", params=query).json()
        assert page["object"] == "list"
        found = [video["id"] for video in page["data"]]
        assert (page["first_id"], page["last_id"]) == (found[0], found[-1])
        seen += found
        if not page["has_more"]:
            break
        service.create()
        service.http.delete(f"/videos/{found[-1]}")  # the cursor itself
        after = page["last_id"]
    assert seen == ids[::-1]


def test_an_empty_list_is_a_list(service: Service) -> None:
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert service.http.get("/v1/videos").json() == empty


def test_a_queued_job_that_is_deleted_is_gone(service: Service) -> None:
    video_id = service.create()["id"]
    deleted = service.http.delete(f"/videos/{video_id}")
    assert deleted.json() == {"id": video_id, "object": "video.deleted", "deleted": True}
    assert service.http.get(f"/videos/{video_id}").status_code == 404
    assert service.http.delete(f"/videos/{video_id}").status_code == 404
    assert claim(service.store, video_id) is None
    assert service.store.get(video_id) is None
    assert service.http.get("/videos").json()["data"] == []


def test_a_running_job_that_is_deleted_is_stopped_and_removed(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    assert service.http.delete(f"/videos/{lease.job.id}").status_code == 200
    assert service.http.get(f"/videos/{lease.job.id}").status_code == 404
    with pytest.raises(JobCancelled):
        service.step(lease, 1)
    assert service.http.get("/models/demo").json()["running"] == 1, "it has not stopped yet"
    service.store.release_cancelled(lease)
    assert service.http.get("/models/demo").json()["running"] == 0
    until(lambda: service.store.get(lease.job.id) is None, "the janitor removes the record")


def test_a_finished_job_is_deleted_with_its_files(service: Service, settings: Settings) -> None:
    video_id, kept = service.completed(), service.completed()
    folder = Path(settings.storage_url) / "videos"
    assert service.http.delete(f"/videos/{video_id}").status_code == 200
    assert [path.name for path in folder.iterdir()] == [kept]
    assert service.store.get(video_id) is None
    for path in (f"/videos/{video_id}", f"/videos/{video_id}/content"):
        assert service.http.get(path).json()["error"]["code"] == "video_not_found"
    assert service.http.get(f"/videos/{kept}/content").status_code == 200


def test_one_deletion_after_the_other_removes_at_once(service: Service) -> None:
    for _ in range(REMOVALS + 1):
        video_id = service.complete(service.claim(service.create()["id"]), b"small").id
        assert service.http.delete(f"/videos/{video_id}").status_code == 200
        assert service.store.get(video_id) is None and service.parts.storage.keys("videos/") == []


def test_files_that_cannot_be_removed_now_are_removed_later(service: Service, settings: Settings) -> None:
    video_id = service.completed()
    folder = Path(settings.storage_url) / "videos"
    away = folder.rename(folder.with_name("away"))
    folder.write_text("an outage: no folder here")
    assert service.http.delete(f"/videos/{video_id}").status_code == 200
    assert service.http.get(f"/videos/{video_id}").status_code == 404
    assert service.store.get(video_id) is not None, "the record must not go before the files"
    folder.unlink()
    away.rename(folder)
    service.store.client.zadd("adaspa:purge", {video_id: 0}, xx=True)
    until(lambda: service.store.get(video_id) is None, "the janitor removes files and record")
    assert not (folder / video_id).exists()


def test_a_cancelled_job_keeps_its_record(service: Service) -> None:
    queued, lease = service.create()["id"], service.claim(service.create()["id"])
    assert service.http.post(f"/videos/{queued}/cancel").json()["status"] == "cancelled"
    assert service.http.post(f"/videos/{lease.job.id}/cancel").json()["status"] == "in_progress"
    with pytest.raises(JobCancelled):
        service.step(lease, 1)
    service.store.release_cancelled(lease)
    for video_id in (queued, lease.job.id):
        assert service.http.get(f"/videos/{video_id}").json()["status"] == "cancelled"
    done = service.completed()
    assert service.http.post(f"/videos/{done}/cancel").json()["status"] == "completed"
    assert service.http.post(f"/videos/video_{'0' * 32}/cancel").status_code == 404


def test_records_outlive_the_gateway(settings: Settings, tmp_path: Path) -> None:
    with serving(settings, tmp_path) as first:
        done, queued = first.completed(), first.create()["id"]
        waiting = f"/videos/{queued}"
        until(lambda: first.http.get(waiting).json()["estimated_seconds"] == 1.5, "it is known what the first job took")
        before = first.http.get("/videos").json()
    with serving(settings, tmp_path) as second:
        assert second.http.get("/videos").json() == before
        assert second.http.get(f"/videos/{done}/content").status_code == 200
        assert second.http.get(f"/videos/{queued}").json()["queue_position"] == 1


def test_models_tell_what_may_be_asked(service: Service) -> None:
    models = service.http.get("/v1/models").json()
    assert models["object"] == "list"
    demo, moving = models["data"]
    assert (demo["id"], demo["tasks"]) == ("demo", ["text_to_video"])
    assert (moving["id"], moving["tasks"]) == ("demo-image", ["image_to_video"])
    assert "input_reference" in moving["parameters"]["required"]
    assert demo == service.http.get("/models/demo").json()
    assert (demo["sizes"], demo["default_size"], demo["frames"]) == (["128x128"], "128x128", [33])
    assert (demo["steps_range"], demo["default_steps"]) == ([1, 100], 24)
    assert "source" not in demo and "attention" not in demo
    assert (demo["waiting"], demo["running"]) == (0, 0)


def test_probes(service: Service) -> None:
    for path in ("/healthz", "/readyz", "/v1/healthz"):
        response = service.http.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert response.headers["x-content-type-options"] == "nosniff"


def test_the_document_has_an_example_and_typed_answers(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    post = document["paths"]["/v1/videos"]["post"]
    for kind in ("application/json", "multipart/form-data"):
        schema = post["requestBody"]["content"][kind]["schema"]
        assert schema["required"] == ["prompt"] and schema["additionalProperties"] is False
        assert service.http.post("/videos", json=schema["example"]).status_code == 200
    answers = post["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert [answer["$ref"].rsplit("/", 1)[1] for answer in answers] == ["Video", "VideoList"]
    assert {"400", "413", "415", "429", "503"} <= set(post["responses"])
    assert "422" not in document["paths"]["/v1/videos/{video_id}"]["get"]["responses"]


def test_the_phase_agrees_with_the_status(service: Service) -> None:
    def stand(video_id: str) -> tuple[str, str]:
        video = service.http.get(f"/videos/{video_id}").json()
        return video["status"], video["phase"]

    cancelled, running = service.create()["id"], service.create()["id"]
    assert stand(cancelled) == ("queued", "queued")
    service.http.post(f"/videos/{cancelled}/cancel").raise_for_status()
    assert stand(cancelled) == ("cancelled", "cancelled")
    lease = service.claim(running)
    assert stand(running) == ("in_progress", "loading"), "before the worker has told of anything"
    service.store.report_progress(lease, Progress(phase="uploading", step=10, steps=10))
    service.complete(lease)
    assert stand(running) == ("completed", "completed")
    last = service.http.get(f"/videos/{running}/events").text
    assert (
        '"phase":"completed"' in last and '"phase":"uploading"' not in last.replace(" ", "").split("event:completed")[1]
    )
    failed = service.claim(service.create()["id"])
    service.store.fail(failed, FAILURE)
    assert stand(failed.job.id) == ("failed", "failed")


def test_a_job_of_a_model_that_no_worker_serves_says_so_from_the_first_answer_on(service: Service) -> None:
    video = service.create()
    assert (video["status"], video["workers"]) == ("queued", 0)
    assert service.http.get("/models").json()["data"][0]["workers"] == 0
    service.store.announce(service.parts.catalog.default, "worker-1")
    until(lambda: service.http.get(f"/videos/{video['id']}").json()["workers"] == 1, "a worker has started")
    service.claim(video["id"])
    assert service.http.get(f"/videos/{video['id']}").json()["workers"] is None
    assert service.http.get("/models").json()["data"][0]["workers"] == 1
