"""``--local``: what the command makes of its worker's words, with a program in the worker's place."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from adaspa_api.words import JobStatus
from adaspa_client import VideoFields
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import get_settings
from adaspa_service.cli import local
from drawn import picture
from PIL import Image
from running_gateway import REPORT, demo_catalog

Params = Callable[..., JobParams]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the worker's place; ``asked`` is what it reads, ``tell`` writes an event."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(local, "MODULE", "stands_in")
    head = """
    import json, os, sys
    def tell(**event):
        print(json.dumps(event), flush=True)
    asked = json.load(sys.stdin)
    """

    def write(code: str) -> None:
        (tmp_path / "stands_in.py").write_text(dedent(head) + dedent(code))

    return write


DONE = {"attention": REPORT.model_dump(mode="json"), "timings": {"denoising": 1.5}, "warnings": ["is odd"]}
MAKES = f"""
for number, job in enumerate(asked):
    for step in range(job["params"]["steps"]):
        tell(job=number, progress={{"phase": "denoising", "step": step, "steps": job["params"]["steps"]}})
    with open(job["output"], "w") as file:
        file.write(job["params"]["prompt"])
    tell(job=number, **{DONE!r})
"""


def test_each_job_is_told_as_a_server_would_and_its_file_is_where_it_was_asked(
    worker: Callable[[str], None], params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    worker(MAKES)
    jobs = [params(prompt=prompt, steps=2, seed=seed) for seed, prompt in enumerate(("a star", "a moon"))]
    videos, lost = local.generate_here(jobs, [Path("one.mp4"), Path("two.mp4")], quiet=False)
    assert lost is None
    assert [path.read_text() for path in (tmp_path / "one.mp4", tmp_path / "two.mp4")] == ["a star", "a moon"]
    for seed, video in enumerate(videos):
        assert video is not None
        assert (video.status, video.seed, video.step, video.progress) == (JobStatus.completed, seed, 2, 100)
        assert video.attention == REPORT and video.timings == {"denoising": 1.5} and video.warnings == ["is odd"]
    assert capsys.readouterr().out.splitlines() == ["denoising step 0/2", "denoising step 1/2", "completed"] * 2
    local.generate_here(jobs, [Path("one.mp4"), Path("two.mp4")], quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("tell(error={'code': 'out_of_memory', 'message': 'No room.'}); sys.exit(1)", "No room. (out_of_memory)"),
        ("sys.exit('first\\nthe last words')", "ended unexpectedly: the last words (worker_lost)"),
        ("os._exit(3)", "the generating process ended unexpectedly: no error message (worker_lost)"),
        ("os.kill(os.getpid(), 9)", "the generating process ended unexpectedly: no error message (worker_lost)"),
    ],
)
def test_a_failure_is_told_and_keeps_what_was_made_before(
    worker: Callable[[str], None], params: Params, tmp_path: Path, does: str, said: str
) -> None:
    worker(f"asked[1:] = []\n{MAKES}\n{does}")
    files = [tmp_path / name for name in ("one.mp4", "two.mp4", "three.mp4")]
    (first, second, third), lost = local.generate_here([params(steps=1)] * 3, files, quiet=True)
    assert str(lost).endswith(said) and first and second and third is None
    assert (first.status, second.status) == ("completed", "failed")
    assert second.error and str(lost) == f"{second.error.message} ({second.error.code})"
    assert files[0].exists() and not files[1].exists()


def test_a_process_that_fails_when_all_is_made_has_made_all(
    worker: Callable[[str], None], params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker(f"{MAKES}\nsys.exit('torn down')")
    files = [tmp_path / name for name in ("one.mp4", "two.mp4")]
    videos, lost = local.generate_here([params(steps=1)] * 2, files, quiet=True)
    assert lost is None and [video and video.status for video in videos] == ["completed"] * 2
    said = "all videos were written; after that, the generating process ended unexpectedly: torn down"
    assert capsys.readouterr().err == f"adaspa: {said}\n"


def test_whoever_listens_no_longer_ends_the_worker(
    worker: Callable[[str], None], params: Params, tmp_path: Path
) -> None:
    worker(
        f"""
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / "ended")!r}, "w").close(), sys.exit(0)))
        tell(job=0, progress={{"phase": "loading", "step": os.getpid(), "steps": 10**9}})
        time.sleep(600)
        """
    )
    events = local.events([params()], [tmp_path / "one.mp4"], None)
    pid = next(events)["progress"]["step"]
    os.kill(pid, 0)
    events.close()
    assert (tmp_path / "ended").exists()
    with pytest.raises(ProcessLookupError):  # whoever stops waits for its end
        os.kill(pid, 0)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"text": {}, "first": {"tasks": ["image_to_video"], "sizes": ["64x64", "128x64"]}}
    monkeypatch.setenv("ADASPA_CATALOG", str(demo_catalog(tmp_path / "catalog.json", models)))
    get_settings.cache_clear()


@pytest.mark.usefixtures("catalog")
def test_a_request_is_checked_as_a_gateway_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = local.resolved("a star", 3, VideoFields(seed=5, steps=7), tmp_path)
    assert [(job.seed, job.steps, job.model, job.prompt) for job in jobs] == [
        (seed, 7, "text", "a star") for seed in (5, 6, 7)
    ]
    (tmp_path / "a.png").write_bytes(picture(200, 104))
    given = {"model": "first", "input_reference": str(tmp_path / "a.png")}
    (made,) = local.resolved("a star", 1, VideoFields(**given), tmp_path / "images")  # type: ignore[typeddict-item]
    (image,) = made.inputs
    assert (made.width, made.height, image.role) == (128, 64, "first")
    with Image.open(BytesIO((tmp_path / "images" / image.key).read_bytes())) as kept:
        assert kept.size == (128, 64)
    (tmp_path / "b.png").write_text("no image")
    for fields, said in (
        ({"steps": 0}, "steps: "),
        ({"model": "none"}, "none"),
        ({"model": "first"}, "input_reference"),
        ({"model": "first", "input_reference": str(tmp_path / "b.png")}, "is not an image"),
        ({"model": "first", "input_reference": "http://127.0.0.1/x.png"}, "private address"),
    ):
        with pytest.raises(SystemExit, match="1"):
            local.resolved("a star", 1, VideoFields(**fields), tmp_path / "images")  # type: ignore[typeddict-item]
        error = capsys.readouterr().err
        assert error.startswith("adaspa: ") and error.count("\n") == 1 and said in error, error


def test_what_is_not_installed_is_named_with_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    local.need(("json", "typer"), "compare")
    with pytest.raises(SystemExit, match="1"):
        local.need(("json", "nothing_of_the_kind", "nor_that"), "compare")
    said = "adaspa: compare: nothing_of_the_kind, nor_that not installed; pip install 'adaspa-serve[local]'\n"
    assert capsys.readouterr().err == said
