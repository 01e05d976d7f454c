"""``adaspa serve`` and ``adaspa demo`` as commands: start, stop, what is left, and what is said when it cannot be."""

import json
import os
import pty
import signal
import socket
import subprocess
from pathlib import Path

from adaspa_command import ADASPA
from adaspa_jobs.connections import connections
from adaspa_jobs.store import JobStore
from adaspa_service.local.folder import reachable_redis
from adaspa_service.local.supervisor import free_port
from drawn import picture
from service_process import Service, adaspa, assert_one_clear_line, children, environment
from tiny_families import save_family
from tiny_wan import model_spec, write_catalog
from waiting import PATIENCE, until


def assert_nothing_outlives(service: Service, number: int) -> None:
    """The server ends by a signal, however deadly, and with it every process of its."""
    until(lambda: len(children(service.data_dir)) == 4, "Valkey, gateway, the worker and its child run")
    assert service.stop(number) == (-number if number == signal.SIGKILL else 0)
    until(lambda: not children(service.data_dir), "every process has ended")


def test_jobs_survive_whatever_ends_the_whole_service_and_no_process_does(catalog: Path, tmp_path: Path) -> None:
    """However long a lease is, they wait for the restart alone; in a data folder whose path no socket may have."""
    deep = tmp_path / ("long-" * 12) / ("path-" * 12) / "data"
    deep.mkdir(parents=True)
    service = Service(deep, environment(catalog, lease_seconds="3600")).start()
    try:
        done = service.run()
        running = service.client.create("a red circle", steps=1000)
        waiting = service.client.create("a blue square")
        service.until_step(running.id, 2)
        assert_nothing_outlives(service, signal.SIGKILL)
        assert f"{running.id}: released" not in service.log("worker")
        service.start()
        for video, attempt in ((running, 2), (waiting, 1)):
            ended = service.client.wait(video.id, poll=0.1)
            assert (ended.status, ended.attempt) == ("completed", attempt)
        assert service.client.get(done.id).status == "completed"
        assert service.client.download(done.id, tmp_path / "video.mp4").stat().st_size > 0
        stopped = service.client.create("a red circle", steps=2000)
        service.until_step(stopped.id, 2)
        assert_nothing_outlives(service, signal.SIGINT)
        assert f"{stopped.id}: released" in service.log("worker")
    finally:
        service.stop()
    with reachable_redis(deep) as url, connections(url).client() as client:
        kept = JobStore(client).get(stopped.id)
        assert kept is not None and (kept.status, kept.attempt, kept.lost_attempts) == ("queued", 1, 0)


def test_a_taken_port_is_one_clear_line(catalog: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = adaspa("serve", "--port", port, "--data-dir", tmp_path, env=environment(catalog))
    assert_one_clear_line(result, f"port {port} on 127.0.0.1", "--port")
    assert children(tmp_path) == {}


def test_a_missing_model_folder_is_one_clear_line(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog.json", model_spec("/nowhere/model"))
    result = adaspa(
        "serve", "--port", free_port("127.0.0.1"), "--data-dir", tmp_path / "data", env=environment(catalog)
    )
    assert_one_clear_line(result, "worker did not start", "/nowhere/model", "the model folder does not exist")
    assert children(tmp_path / "data") == {}


def test_an_unknown_model_is_one_clear_line_with_the_known_ones(catalog: Path, tmp_path: Path) -> None:
    arguments = ("--model", "nope", "--port", free_port("127.0.0.1"), "--data-dir", tmp_path)
    assert_one_clear_line(adaspa("serve", *arguments, env=environment(catalog)), "--model", "'nope'", "tiny")


def test_a_worker_alone_says_in_one_line_what_it_cannot_reach(catalog: Path, tmp_path: Path) -> None:
    env = environment(catalog, redis_url=f"redis://127.0.0.1:{free_port('127.0.0.1')}/0", storage_url=str(tmp_path))
    assert_one_clear_line(adaspa("worker", env=env), "adaspa worker", "ADASPA_REDIS_URL", "127.0.0.1")


def test_demo_writes_video_and_contact_sheet_and_says_each_step_in_a_pipe(
    catalog_with_lora: Path, tmp_path: Path
) -> None:
    """With the adapter for fewer steps, if the model has it."""
    (spec,) = json.loads(catalog_with_lora.read_text())
    (adapter,) = spec["loras"]
    quick = write_catalog(tmp_path / "catalog.json", spec | {"loras": [adapter | {"name": "eight-steps"}]})
    result = adaspa("demo", "--output", tmp_path / "out.mp4", env=environment(quick))
    assert result.returncode == 0, result.stderr
    assert "9 frames in 8 steps" in result.stdout
    assert "denoising" in result.stdout and "\x1b[" not in result.stdout
    assert (tmp_path / "out.mp4").read_bytes()[4:8] == b"ftyp"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["catalog.json", "out.mp4", "out.png"]


def test_demo_with_an_image_shows_a_progress_bar_in_a_terminal(catalog: Path, tmp_path: Path) -> None:
    """By the first model of the catalog that takes one; its size is the one nearest to the image's shape."""
    (text,) = json.loads(catalog.read_text())
    own = {"id": "moving", "tasks": ["image_to_video"], "sizes": ["48x48", "80x48"], "frames": [5], "default_frames": 5}
    moving = model_spec(save_family("wan-2.2-image", tmp_path / "model"), **own)
    both = write_catalog(tmp_path / "catalog.json", text, moving)
    (image := tmp_path / "start.webp").write_bytes(picture(160, 96, "WEBP"))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [ADASPA, "demo", "--image", image, "--output", tmp_path / "out.mp4", "--data-dir", tmp_path / "data"],
        env=environment(both) | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while chunk := read_terminal(leader):
        shown += chunk
    assert process.wait(timeout=PATIENCE) == 0, shown.decode()
    assert b"\x1b[" in shown and b"4/4" in shown
    assert b'"moves right" (moving, 80x48, 5 frames' in shown
    assert children(tmp_path / "data") == {}


def test_demo_says_in_one_line_why_an_image_cannot_be_taken_and_starts_nothing(catalog: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken.png").write_bytes(picture()[:200])
    (no_image := tmp_path / "text.png").write_text("no image")
    (whole := tmp_path / "whole.png").write_bytes(picture())
    demo = ("demo", "--data-dir", tmp_path / "data", "--output", tmp_path / "out.mp4", "--image")
    built_in, own = environment(None), environment(catalog)
    for image, env, parts in (
        (tmp_path / "none.png", built_in, ("--image", "none.png", "does not exist")),
        (broken, built_in, ("--image", "broken.png", "damaged or incomplete")),
        (no_image, built_in, ("--image", "text.png", "is not an image", "allowed: a JPEG, PNG, WebP or AVIF image")),
        (whole, own, ("--image", "no model of the catalog takes images", "tiny")),
    ):
        assert_one_clear_line(adaspa(*demo, image, env=env), *parts, status=2)
    assert_one_clear_line(
        adaspa(*demo, whole, "--model", "demo", env=built_in), "--image", "demo does not take images", status=2
    )
    assert not (tmp_path / "data").exists()


def test_a_catalog_that_the_model_cannot_keep_ends_the_start_before_any_job(catalog: Path, tmp_path: Path) -> None:
    pipeline = Path(catalog).parent / "tiny"
    wrong = write_catalog(tmp_path / "catalog.json", model_spec(pipeline, call={"max_seq_length": 16}))
    result = adaspa("serve", "--port", free_port("127.0.0.1"), "--data-dir", tmp_path / "data", env=environment(wrong))
    assert_one_clear_line(result, "tiny", "call.max_seq_length", "max_sequence_length")


def read_terminal(fd: int) -> bytes:
    """What the terminal shows next; empty when its last writer is gone."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
