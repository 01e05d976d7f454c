"""OpenAI's own Python client, as it comes, against the gateway."""

import openai
import pytest
from running_gateway import FILES, Service

# The public service is to be shut down; its client stays the one that others speak to theirs.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def test_create_retrieve_list_download_and_delete(service: Service) -> None:
    with service.openai() as client:
        video = client.videos.create(prompt="a red circle moves right", model="demo", size="128x128", seconds="4")  # type: ignore[arg-type]
        assert (video.object, video.status, video.model, video.progress) == ("video", "queued", "demo", 0)
        assert (video.size, video.seconds, video.prompt) == ("128x128", "4.125", "a red circle moves right")
        lease = service.claim(video.id)
        service.step(lease, 12)
        running = client.videos.retrieve(video.id)
        assert running.status == "in_progress" and 0 < running.progress < 100
        service.complete(lease)
        done = client.videos.poll(video.id, poll_interval_ms=10)
        assert (done.status, done.progress, done.error) == ("completed", 100, None)
        assert client.videos.download_content(video.id).read() == FILES["video"][2]
        assert client.videos.download_content(video.id, variant="thumbnail").read() == FILES["thumbnail"][2]
        deleted = client.videos.delete(video.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
        with pytest.raises(openai.NotFoundError) as caught:
            client.videos.retrieve(video.id)
        assert caught.value.code == "video_not_found"


def test_our_own_fields_go_through_extra_body(service: Service) -> None:
    own = {"steps": 5, "seed": 7, "sparsity": 0.5, "guidance_scale": 2.5, "fps": 10, "negative_prompt": "grey"}
    with service.openai() as client:
        video = client.videos.create(prompt="a red circle", extra_body=own)
        assert {name: getattr(video, name) for name in own} == own
        job = service.store.get(video.id)
        assert job is not None and (job.params.steps, job.params.sparsity) == (5, 0.5)


def test_it_walks_through_all_pages(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(5)]
    with service.openai() as client:
        assert [video.id for video in client.videos.list(limit=2)] == ids[::-1]
        assert [video.id for video in client.videos.list(limit=3, order="asc")] == ids


def test_it_understands_our_errors(service: Service) -> None:
    with service.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.videos.create(prompt="a red circle", model="sora-2")
        assert (caught.value.param, caught.value.code, caught.value.type) == (
            "model",
            "model_not_found",
            "invalid_request_error",
        )
        assert "allowed: demo" in str(caught.value)
        with pytest.raises(openai.BadRequestError) as caught:
            client.videos.create(prompt="a red circle", input_reference=b"\x89PNG")
        assert caught.value.param == "input_reference"
        assert service.messages() == 0


def test_it_lists_the_models(service: Service) -> None:
    with service.openai() as client:
        assert [model.id for model in client.models.list()] == ["demo", "demo-image"]
        assert client.models.retrieve("demo").id == "demo"
