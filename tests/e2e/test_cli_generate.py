"""``adaspa generate`` with a real worker: through a running service, and without any."""

import json
import os
import signal
import subprocess
from pathlib import Path

import av
import pytest
from adaspa_command import ADASPA, NOWHERE, adaspa, clean_environment
from adaspa_worker.recipe import read_recipe
from drawn import picture
from service_process import Service
from tiny_families import save_family
from tiny_wan import model_spec, write_catalog
from waiting import PATIENCE


def frames(path: Path) -> int:
    """How many frames a video file has."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_through_a_server(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.port}"
    target = tmp_path / "out.mp4"
    ended = adaspa("generate", "a red circle", "-o", target, "--seed", 7, server=url)
    assert ended.returncode == 0, ended.stderr
    assert "denoising" in ended.stdout and f"Wrote {target}" in ended.stdout and "\x1b[" not in ended.stdout
    assert frames(target) == service.client.get(next(service.client.list()).id).num_frames
    several = adaspa(
        "generate", "a red circle", "-o", tmp_path / "many.gif", "--seed", 7, "-n", 2, "--json", server=url
    )
    assert [video["seed"] for video in json.loads(several.stdout)] == [7, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many-7.gif", "many-8.gif", "out.mp4"]


def test_interrupting_it_cancels_the_job(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.port}"
    command = [ADASPA, "generate", "a red circle", "--steps", "2000", "-o", tmp_path / "out.mp4"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=clean_environment(ADASPA_SERVER=url), text=True, **both)
    assert process.stdout is not None
    while "/2000" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    job = next(service.client.list())
    assert process.returncode == 130 and job.id in said
    assert service.client.wait(job.id).status == "cancelled"
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_file_with_and_without_a_server(
    service: Service, catalog: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.webm", tmp_path / "there.webm"
    asked = ("generate", "a red circle", "--seed", 7, "--quality", "fast")
    ended = adaspa(*asked, "--local", "-o", here, ADASPA_CATALOG=str(catalog))
    assert ended.returncode == 0, ended.stderr
    assert "loading" in ended.stdout and "AdaSpa:" in ended.stdout
    assert frames(here) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["here.webm"]
    adaspa(*asked, "-o", there, server=f"http://127.0.0.1:{service.port}")
    assert here.read_bytes() == there.read_bytes()


def test_with_an_image_and_without_a_server(tmp_path: Path) -> None:
    pipeline = save_family("wan-2.2-5b", tmp_path / "model")
    own = {
        "tasks": ["text_to_video", "image_to_video"],
        "sizes": ["48x48", "80x48"],
        "frames": [5],
        "default_frames": 5,
    }
    catalog = write_catalog(tmp_path / "catalog.json", model_spec(pipeline, **own))
    image, out = tmp_path / "start.jpg", tmp_path / "out.mp4"
    image.write_bytes(picture(160, 96, "JPEG"))
    asked = ("generate", "a red circle", "--local", "--seed", 7, "--steps", 2, "-o", out, "--json")
    made = adaspa(*asked, "--image", image, ADASPA_CATALOG=str(catalog))
    assert made.returncode == 0, made.stderr
    video = json.loads(made.stdout)
    assert (video["status"], video["task"], video["size"]) == ("completed", "image_to_video", "80x48")
    assert video["attention"]["dense_steps"] > 0 and video["seed"] == 7
    assert read_recipe(out)["inputs"] == {"first": {"sha256": video["inputs"][0]["sha256"]}}
    image.write_bytes(b"no image")
    refused = adaspa(*asked, "--image", image, ADASPA_CATALOG=str(catalog))
    assert refused.returncode == 1 and "is not an image" in refused.stderr


def test_a_failure_without_a_server_is_one_line(catalog: Path, tmp_path: Path) -> None:
    own = tmp_path / "catalog.json"
    own.write_text(json.dumps([model | {"source": "/nowhere/model"} for model in json.loads(catalog.read_text())]))
    ended = adaspa("generate", "a star", "--local", "-o", tmp_path / "out.mp4", ADASPA_CATALOG=str(own))
    assert ended.returncode == 4
    assert "/nowhere/model: the model folder does not exist (model_unavailable)" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.json"]


def test_interrupting_it_without_a_server_leaves_nothing(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    command = [ADASPA, "generate", "a star", "--local", "--steps", "2000", "-o", out]
    env = clean_environment(ADASPA_SERVER=NOWHERE, ADASPA_CATALOG=str(catalog))
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    while "step 2/2000" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.wait(timeout=PATIENCE) == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(tmp_path.iterdir()) == []
