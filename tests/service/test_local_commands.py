"""What commands do on this machine, without a server: their processes, what these say, and what is said of the end."""

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_service.access.keys import KeyStore, Scope
from adaspa_service.cli import app, local
from adaspa_service.cli.compare import join, report
from adaspa_service.cli.demo import check_image, chosen
from adaspa_service.cli.local import described, generate_here, need, resolved
from drawn import picture
from running_gateway import REPORT, data_uri, demo_catalog
from typer.testing import CliRunner

bench = import_module("adaspa_service.cli.bench")
demo = import_module("adaspa_service.cli.demo")
Params = Callable[..., JobParams]


@pytest.fixture
def making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params) -> Callable[..., Any]:
    """Asks for three clips of a process that does as it is told in the worker's place."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(local, "MODULE", "makes")
    monkeypatch.chdir(tmp_path)
    begin = """
        import json, sys, time
        asked = json.load(sys.stdin)
        def tell(**event):
            print(json.dumps(event), flush=True)
    """

    def make(code: str, images: Path | None = None, *, quiet: bool = True) -> Any:
        (tmp_path / "makes.py").write_text(dedent(begin) + dedent(code))
        jobs = [params(seed=seed) for seed in (5, 6, 7)]
        return generate_here(jobs, [Path(f"{job.seed}.mp4") for job in jobs], images, quiet=quiet)

    return make


DONE_PROGRESS = Progress(phase="decoding", step=10, steps=10)
DONE = f"attention=json.loads('''{REPORT.model_dump_json()}'''), timings={{'denoising': 2.0}}, warnings=['is blank']"


def test_clips_are_made_by_one_process_and_come_in_the_order_in_which_they_were_asked_for(
    making: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"""
        open("asked.json", "w").write(json.dumps(asked))
        tell(job=0, progress=dict(phase="loading", step=0, steps=10))
        for number in (2, 0, 1):
            tell(job=number, progress=dict(phase="denoising", step=3, steps=10, step_kind="dense"))
            tell(job=number, {DONE})
    """
    videos, _ = making(code, tmp_path / "images", quiet=False)
    assert [video.seed for video in videos] == [5, 6, 7]
    for video in videos:
        assert (video.status, video.step, video.timings, video.warnings) == (
            "completed",
            10,
            {"denoising": 2.0},
            ["is blank"],
        )
        assert video.attention and video.attention.density == REPORT.density
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert [each["output"] for each in asked] == [str(tmp_path / f"{seed}.mp4") for seed in (5, 6, 7)]
    assert [each["params"]["seed"] for each in asked] == [5, 6, 7]
    assert {each["images"] for each in asked} == {str(tmp_path / "images")}
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["loading", *["denoising (dense) step 3/10", "completed"] * 3]
    making(f"open('asked.json', 'w').write(json.dumps(asked))\nfor n in range(3): tell(job=n, {DONE})")
    assert {each["images"] for each in json.loads((tmp_path / "asked.json").read_text())} == {None}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("tell(error=dict(code='out_of_memory', message='No memory.'))", "No memory. (out_of_memory)"),
        ("tell(error=dict(code='a', message='b')); sys.exit(1)", "b (a)"),
        ("tell(error=dict(code='a', message='b')); time.sleep(600)", "b (a)"),
        ("sys.exit('one\\ntwo: why\\n')", "the generating process ended unexpectedly: two: why (worker_lost)"),
        ("sys.stderr.buffer.write(b'\\xff why\\n'); sys.exit(3)", "ended unexpectedly: \ufffd why (worker_lost)"),
        ("sys.exit(1)", "ended unexpectedly: no error message (worker_lost)"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "ended unexpectedly: no error message (worker_lost)",
        ),
    ],
)
def test_clips_that_cannot_be_made_are_told_in_one_line(making: Callable[..., Any], ends: str, said: str) -> None:
    _, lost = making(f"tell(job=0, {DONE})\n{ends}")
    assert str(lost).endswith(said) and "\n" not in str(lost)


def test_a_process_ends_with_the_command_that_began_it(
    making: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    plain = local.subprocess.Popen
    monkeypatch.setattr(
        local.subprocess, "Popen", lambda *args, **how: started.append(plain(*args, **how)) or started[-1]
    )

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "described", interrupted)
    with pytest.raises(KeyboardInterrupt):
        making("tell(job=0, progress=dict(phase='loading', step=0, steps=10)); time.sleep(600)")
    assert started[0].returncode is not None


def test_what_is_not_installed_is_named_with_what_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    need(("json", "adaspa_jobs"), "--local")
    with pytest.raises(SystemExit, match="1"):
        need(("json", "not_there", "nor_this"), "--local")
    assert "--local: not_there, nor_this not installed; pip install" in capsys.readouterr().err


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of models of texts, of images and of both, and small limits; gives an empty folder."""
    models = {
        "text": {},
        "image": {"tasks": ["image_to_video"], "sizes": ["64x64", "128x64"]},
        "both": {"tasks": ["text_to_video", "image_to_video", "first_last_frame"]},
    }
    settings = Settings(catalog=demo_catalog(tmp_path / "catalog.json", models), image_bytes=2000, image_pixels=50_000)
    for module in (demo, local):
        monkeypatch.setattr(module, "get_settings", lambda: settings)
    (folder := tmp_path / "images").mkdir()
    return folder


def test_jobs_are_those_that_a_gateway_would_make(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = resolved("a star", 3, {"seed": 5, "steps": 7, "negative_prompt": "a circle"})
    assert [job.seed for job in jobs] == [5, 6, 7]
    assert {(job.model, job.steps, job.negative_prompt, job.inputs) for job in jobs} == {("text", 7, "a circle", ())}
    for asked, said in (
        ({"steps": 1000}, "steps: 1000 is out of range; allowed: 1 to 100"),
        ({"model": "none"}, "model: 'none' is not served; allowed: text, image, both"),
        ({"model": "image"}, "input_reference"),
    ):
        with pytest.raises(SystemExit, match="1"):
            resolved("a star", 1, asked, own)  # type: ignore[arg-type]
        assert said in (told := capsys.readouterr().err) and told.count("\n") == 1, told
    assert not list(own.iterdir())


def test_a_catalog_that_cannot_be_read_and_what_is_not_installed_are_told_in_one_line(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "catalog.json").write_text("[{")
    for ask in (lambda: resolved("a star", 1, {}), lambda: chosen(None, with_image=False)):
        with pytest.raises(SystemExit, match="1"):
            ask()
        assert f"adaspa: catalog {tmp_path / 'catalog.json'}: " in (told := capsys.readouterr().err)
        assert told.count("\n") == 1
    monkeypatch.setattr(local, "NEEDED", ("fastapi", "not_there"))
    with pytest.raises(SystemExit, match="1"):
        resolved("a star", 1, {})
    assert capsys.readouterr().err.startswith("adaspa: --local: not_there not installed; ")


def test_images_of_a_job_are_files_of_any_size_or_what_a_gateway_takes(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = b"".join(n.to_bytes(2, "big") for n in range(3000))
    (small := tmp_path / "small.png").write_bytes(picture(96, 48))
    (large := tmp_path / "large.png").write_bytes(picture(96, 48) + noise)
    (wide := tmp_path / "wide.png").write_bytes(picture(400, 200))
    (text := tmp_path / "text.png").write_bytes(b"a star")
    for given in (str(small), str(large), data_uri(small.read_bytes())):
        jobs = resolved("a star", 2, {"model": "image", "input_reference": given}, own)
        (image,) = jobs[0].inputs
        assert (image.role, image.width, image.height) == ("first", 128, 64) and jobs[1].inputs == (image,)
        assert {(job.width, job.height, job.task) for job in jobs} == {(128, 64, "image_to_video")}
        assert ObjectStorage(str(own)).read(image.key)[1:4] == b"PNG"
    before = sorted(own.rglob("*"))
    for given, said in (
        (data_uri(large.read_bytes()), "is too large; allowed: up to 2000 bytes"),
        (str(wide), "is 400x200, 80000 pixels; allowed: up to 50000"),
        (str(text), "is not an image"),
        ("http://127.0.0.1:1/a.png", "the URL's host does not exist or has a private address"),
        ("data:video/mp4;base64,AAAA", "is 'video/mp4'"),
    ):
        with pytest.raises(SystemExit, match="1"):
            resolved("a star", 1, {"model": "image", "input_reference": given}, own)
        told = capsys.readouterr().err
        assert told.startswith("adaspa: input_reference: ") and said in told and told.count("\n") == 1, told
    both = {"model": "both", "input_reference": str(small), "last_frame": str(small)}
    (job,) = resolved("a star", 1, both, own)  # type: ignore[arg-type]
    assert {each.role for each in job.inputs} == {"first", "last"} and job.task == "first_last_frame"
    assert [path for path in before if not path.exists()] == []


@pytest.mark.parametrize(
    ("model", "with_image", "found"),
    [
        (None, False, "text"),
        (None, True, "image"),
        ("both", True, "both"),
        ("both", False, "both"),
        ("image", False, "image"),
        ("text", True, "model text does not take images; the catalog has text, image, both"),
        ("none", False, "--model: 'none' is not in the catalog; allowed: text, image, both"),
    ],
)
def test_a_demo_runs_the_first_model_that_fits(
    own: Path, capsys: pytest.CaptureFixture[str], model: str | None, with_image: bool, found: str
) -> None:
    if found in ("text", "image", "both"):
        assert chosen(model, with_image=with_image).id == found
        return
    with pytest.raises(SystemExit, match="2"):
        chosen(model, with_image=with_image)
    assert found in capsys.readouterr().err


def test_a_demo_looks_at_its_image_as_a_gateway_would(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in (
        (picture(250, 200), None),
        (picture(250, 201), "is 250x201, 50250 pixels; allowed: up to 50000"),
        (picture()[:-40], "is damaged or incomplete"),
        (b"a star", "is not an image"),
    ):
        (path := own / "a.png").write_bytes(content)
        if said is None:
            check_image(path)
            continue
        with pytest.raises(SystemExit, match="2"):
            check_image(path)
        assert f"--image: {path}: {said}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        check_image(own)


def ran(folder: Path, code: str) -> str:
    """A program that stands for Python and does this."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o700)
    return str(program)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("echo one >&2; echo 'error: two' >&2; exit 2", "error: two"),
        ("exit 3", "exit status 3, without an error message"),
        ("kill -9 $$", "exit status -9, without an error message"),
    ],
)
def test_a_process_that_fails_is_told_in_one_line_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (output := Path("both.mp4")).write_bytes(b"of before")
    monkeypatch.setattr(sys, "executable", ran(tmp_path, f'[ -z "$6" ] || touch "$6"; {code}'))
    with pytest.raises(SystemExit, match="1"):
        join([Path("a.mp4"), Path("b.mp4")], output)
    assert capsys.readouterr().err == f"adaspa: the videos cannot be compared: {said}\n"
    assert output.read_bytes() == b"of before" and {path.name for path in tmp_path.iterdir()} == {"python", "both.mp4"}
    with pytest.raises(SystemExit, match="1"):
        bench.bench()
    assert capsys.readouterr().err == f"adaspa: bench: {said.removeprefix('error: ')}\n"


def test_two_videos_beside_each_other_are_there_when_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """echo "$@" > asked; echo both > "$6"; echo '{"psnr_db": 30.5, "ssim": 0.5}'"""
    monkeypatch.setattr(sys, "executable", ran(tmp_path, code))
    assert join([Path("a.mp4"), Path("b.mp4")], Path("both.mp4")) == {"psnr_db": 30.5, "ssim": 0.5}
    assert Path("both.mp4").read_text() == "both\n"
    assert {path.name for path in tmp_path.iterdir()} == {"python", "asked", "both.mp4"}
    asked = r"-m adaspa_worker.side_by_side a.mp4 b.mp4 --output \S+\.mp4 --labels dense AdaSpa\n"
    assert re.fullmatch(asked, Path("asked").read_text()), "the dense one is on the left, as its label is"


def test_a_comparison_is_told_as_far_as_there_is_anything_to_tell(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(seconds: float, **fields: Any) -> Any:
        found = REPORT.model_copy(update=fields) if fields else None
        return described(params(seed=7), DONE_PROGRESS, report=found, timings={"denoising": seconds})

    nothing = {"sparse_steps": 0, "sparse_seconds": 0.0, "attention_work": None, "density": 1.0, "recall": None}
    videos = [made(9.0, **nothing), made(4.5, recall=0.9)]
    found = {"psnr_db": 31.234, "ssim": 0.98765}
    report(videos, found, Path("both.mp4"), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "dense\t9.0 s\t0.25 s\t\t\t1.00\t",
        "AdaSpa\t4.5 s\t0.25 s\t0.12 s\t0.65\t0.30\t0.900",
        "Denoising took 4.5 s with AdaSpa and 9.0 s with dense attention: 2.00 times as fast.",
        "PSNR 31.23 dB, SSIM 0.9877, measured on the compressed files.",
        "Wrote both.mp4 (seed 7)",
    ]
    report([made(9.0), made(6.0)], found, Path("both.mp4"), as_json=False)
    assert capsys.readouterr().out.splitlines()[:2] == ["dense\t9.0 s\t\t\t\t\t", "AdaSpa\t6.0 s\t\t\t\t\t"]
    report(videos, found, Path("both.mp4"), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["dense"]["timings"]["denoising"], told["adaspa"]["timings"]["denoising"]) == (9.0, 4.5)
    assert {name: told[name] for name in ("psnr_db", "ssim", "speedup", "output")} == {
        **found,
        "speedup": 2.0,
        "output": "both.mp4",
    }


@pytest.fixture
def served(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """Serves until Ctrl-C: what is started, and what is said. No process is started."""

    def serve(*arguments: str, **own: Any) -> tuple[dict[str, Any], list[str]]:
        settings = Settings(redis_url=redis_url, data_dir=tmp_path / "data", **own)
        started: dict[str, Any] = {}

        class Started:
            url, page, redis_url = "http://127.0.0.1:8000", "http://127.0.0.1:8000/#token", settings.redis_url

            def __init__(self, folder: Path, host: str, port: int, *, workers: list[str | None], say: Any) -> None:
                started.update(folder=folder, host=host, port=port, workers=workers)

            def __enter__(self) -> "Started":
                return self

            def __exit__(self, *_: object) -> None:
                started["ended"] = True

            def serve(self) -> None:
                raise KeyboardInterrupt

        module = import_module("adaspa_service.cli.serve")
        monkeypatch.setattr(module, "get_settings", lambda: settings)
        monkeypatch.setattr(module, "Supervisor", Started)
        done = CliRunner().invoke(app, ["serve", *arguments])
        assert done.exit_code == 0, done.exception
        assert started.pop("ended")
        return started, done.stdout.splitlines()

    return serve


def test_a_service_has_a_worker_for_each_model_that_is_asked_for(served: Any, tmp_path: Path) -> None:
    """By default all that are built in, which are small, but the first alone of a catalog."""
    catalog = demo_catalog(tmp_path / "catalog.json", {"one": {}, "two": {}})
    built_in = list(Catalog.load(None).models)
    for arguments, own, workers in (
        ((), {}, built_in),
        ((), {"catalog": catalog}, [None]),
        (("--model", "two", "--model", "one", "--model", "two"), {"catalog": catalog}, ["two", "one"]),
        (("--model", built_in[-1]), {}, [built_in[-1]]),
        (("--no-worker",), {}, []),
        (("--no-worker", "--model", "one"), {"catalog": catalog}, []),
    ):
        assert served(*arguments, **own)[0]["workers"] == workers, arguments


def test_a_service_listens_where_it_is_told_and_says_where_and_who_is_let_in(
    served: Any, tmp_path: Path, store: JobStore
) -> None:
    started, said = served()
    assert started == {"folder": tmp_path / "data", "host": "127.0.0.1", "port": 8000, "workers": started["workers"]}
    assert said[0].startswith(f"AdaSpa is running at http://127.0.0.1:8000 (data and logs in {tmp_path / 'data'})")
    assert said[1].startswith("Access: ") and said[2:] == ["Page: http://127.0.0.1:8000/#token", "stopped"]
    own = {"host": "127.0.0.2", "port": 9000}
    arguments = ("--host", "127.0.0.3", "--port", "9001", "--data-dir", str(tmp_path / "other"))
    for given, found in (((), ("127.0.0.2", 9000, "data")), (arguments, ("127.0.0.3", 9001, "other"))):
        started, _ = served(*given, **own)
        assert (started["host"], started["port"], started["folder"]) == (*found[:2], tmp_path / found[2])
    assert served(open_access=True)[1][2:] == ["stopped"], "whoever needs no token is shown none"
    KeyStore(store.client).create("one", frozenset({Scope.read}))
    assert served()[1][2:] == ["stopped"], "nor whoever needs a key"
