"""A prompt goes in over HTTP and a real video comes out, through real processes."""

from pathlib import Path

import av
import numpy as np
import openai
import pytest
from adaspa_client import ApiError
from PIL import Image
from service_process import Service, children
from tiny_wan import FAILING_PROMPT, FRAMES, SIZE


def frames_of(path: Path) -> np.ndarray:
    """All frames, uint8 [frames, height, width, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_prompt_becomes_a_playable_video_with_thumbnail_and_spritesheet(service: Service, tmp_path: Path) -> None:
    video = service.run(fps=5)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert set(video.timings) == {
        "loading",
        "encoding_prompt",
        "denoising",
        "previews",
        "decoding",
        "encoding",
        "uploading",
    }
    assert video.attention is not None
    assert video.attention.dense_steps + video.attention.search_steps + video.attention.sparse_steps == video.steps
    assert frames_of(service.client.download(video.id, tmp_path / "video.mp4")).shape == (FRAMES, SIZE, SIZE, 3)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert container.streams.video[0].average_rate == 5
    for variant, size in (("thumbnail", (SIZE, SIZE)), ("spritesheet", (4 * SIZE, 3 * SIZE))):
        with Image.open(service.client.download(video.id, tmp_path / variant, variant)) as image:
            assert (image.format, image.size) == ("WEBP", size)


def test_progress_is_seen_step_by_step(service: Service) -> None:
    created = service.client.create("a blue square", steps=100)
    told = [event.data for event in service.client.events(created.id) if event.type != "preview"]
    denoising = [data for data in told if data["phase"] == "denoising" and data["step"]]
    assert [data["step"] for data in denoising] == [*range(1, 101)]
    percents = [data["progress"] for data in told]
    assert percents == sorted(percents) and len(set(percents)) >= 10
    assert all(percent < 100 for percent in percents[:-1]) and percents[-1] == 100
    assert any(data["eta_seconds"] is not None for data in denoising)
    assert {data["step_kind"] for data in denoising} <= {"dense", "search", "sparse"}


def test_a_seed_gives_the_same_frames_twice_and_another_seed_does_not(service: Service, tmp_path: Path) -> None:
    clips = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        clips.append(frames_of(service.client.download(service.run(seed=seed).id, tmp_path / f"{name}.mp4")))
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_a_drawn_seed_is_reported_and_repeats_the_video(service: Service, tmp_path: Path) -> None:
    first = service.run()
    again = service.run(seed=first.seed)
    clips = [service.client.download(v.id, tmp_path / f"{v.id}.mp4").read_bytes() for v in (first, again)]
    assert clips[0] == clips[1]


def test_a_running_job_stops_when_cancelled_and_the_next_one_succeeds(service: Service) -> None:
    video = service.client.create("a red circle", steps=2000)
    service.until_step(video.id, 3)
    service.client.delete(video.id)
    following = service.run()
    assert following.status == "completed"
    with pytest.raises(ApiError) as caught:
        service.client.get(video.id)
    assert caught.value.status == 404
    log = service.log("worker")
    assert f"{video.id}: cancelled" in log and f"{video.id}: completed" not in log
    assert not (service.data_dir / "objects" / "videos" / video.id).exists()


def test_a_failing_job_says_why_and_the_next_one_succeeds(service: Service) -> None:
    failed = service.run(FAILING_PROMPT)
    assert failed.status == "failed" and failed.error is not None
    assert (failed.error.code, failed.attempt) == ("generation_failed", 1)
    assert failed.error.message
    assert service.run().status == "completed"


def test_the_openai_client_creates_polls_and_downloads(service: Service, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key=service.token, max_retries=0)
    video = client.videos.create_and_poll(model="tiny", prompt="a blue circle", size="64x64", poll_interval_ms=50)  # type: ignore[arg-type]
    assert (video.status, video.progress, video.size) == ("completed", 100, "64x64")
    client.videos.download_content(video.id).write_to_file(tmp_path / "video.mp4")
    assert frames_of(tmp_path / "video.mp4").shape == (FRAMES, SIZE, SIZE, 3)
    assert client.videos.delete(video.id).deleted


def test_the_gateway_may_die_in_mid_job(service: Service) -> None:
    video = service.client.create("a red circle", steps=1000)
    service.until_step(video.id, 3)
    service.kill_part("adaspa_service.gateway")
    final = service.client.wait(video.id, poll=0.1)
    assert (final.status, final.attempt) == ("completed", 1)


def test_a_worker_killed_in_mid_job_loses_nothing(service: Service) -> None:
    video = service.client.create("a red circle", steps=1000)
    waiting = service.client.create("a blue circle")
    service.until_step(video.id, 3)
    service.kill_part("adaspa_worker")
    final = service.client.wait(video.id, poll=0.1)
    assert (final.status, final.attempt) == ("completed", 2)
    assert service.client.wait(waiting.id, poll=0.1).status == "completed"


def test_the_workers_parent_process_never_loads_torch(service: Service) -> None:
    service.run()
    pids = {pid for pid, command in children(service.data_dir).items() if "adaspa_worker" in command}
    [with_torch] = [pid for pid in pids if "libtorch" in Path(f"/proc/{pid}/maps").read_text()]
    [parent] = pids - {with_torch}
    assert str(with_torch) in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
