"""Clips without any service, in one process: what is told of each, and what lies there at the end."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from adaspa_jobs.job import Input, JobParams
from adaspa_worker import local
from adaspa_worker.local import LocalJob, make_all
from adaspa_worker.provenance import ProvenanceError
from adaspa_worker.recipe import read_recipe
from adaspa_worker.source import ModelUnavailable
from chaos.stub_engine import StubEngine
from chaos.workshop import raising
from drawn import picture
from waiting import PATIENCE

Params = Callable[..., JobParams]


class Engine(StubEngine):
    """The stand-in for a model, which notes when it forgets, and fails for one seed."""

    def __init__(self) -> None:
        super().__init__()
        self.forgot: list[bool] = []
        self.seen: list[Any] = []

    def encode_prompt(self, params: JobParams, images: object = None) -> Any:
        self.seen.append(images)
        if params.seed == 13:
            raise ValueError("shapes do not fit\nat line 3")
        return super().encode_prompt(params, images)

    def reset(self) -> None:
        self.forgot.append(self._last is not None)
        super().reset()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr("adaspa_worker.pipeline.load", lambda spec, folder: made)
    return made


@pytest.fixture
def small(params: Params) -> Params:
    return lambda **changes: params(
        **{"model": "demo", "width": 64, "height": 64, "num_frames": 9, "steps": 3} | changes
    )


def test_each_job_is_told_of_by_its_number_and_its_file_is_there_only_when_it_is_whole(
    engine: Engine, small: Params, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    seen: list[list[str]] = []

    def tell(event: dict[str, Any]) -> None:
        told.append(event)
        seen.append(sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".part-")))

    names = ("one.mp4", "two.webp")
    jobs = [
        LocalJob(params=small(seed=seed, output_format=name.rpartition(".")[2]), output=tmp_path / name)
        for seed, name in enumerate(names)
    ]
    make_all(jobs, tell)
    numbers = [event["job"] for event in told]
    assert numbers == sorted(numbers) and {*numbers} == {0, 1}
    phases = [[e["progress"]["phase"] for e in told if e["job"] == number and "progress" in e] for number in range(2)]
    later = ["encoding_prompt", *["denoising"] * 4, "decoding"]
    assert phases == [["loading", *later], later], "the model is loaded once"
    ends = [event for event in told if "attention" in event]
    assert [event["job"] for event in ends] == [0, 1] and all(event["warnings"] == [] for event in ends)
    assert set(ends[1]["timings"]) == {"encoding_prompt", "denoising", "decoding", "encoding"}
    first = next(at for at, event in enumerate(told) if "attention" in event)
    assert seen[first - 1] == [] and seen[first] == ["one.mp4"] and seen[-1] == [*names]
    assert [read_recipe(tmp_path / name)["seed"] for name in names] == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names], "nothing else is left"
    assert engine.forgot == [True, True], "before the next one begins"


def test_a_job_that_fails_leaves_the_files_before_it_and_nothing_of_its_own(
    engine: Engine, small: Params, tmp_path: Path
) -> None:
    jobs = [LocalJob(params=small(seed=seed), output=tmp_path / f"{seed}.mp4") for seed in (1, 13, 2)]
    (tmp_path / "13.mp4").write_bytes(b"of an earlier run")
    with pytest.raises(ValueError, match="shapes"):
        make_all(jobs, lambda event: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.mp4", "13.mp4"]
    assert (tmp_path / "13.mp4").read_bytes() == b"of an earlier run"
    assert len(engine.forgot) == 2


def test_a_jobs_images_are_those_of_its_folder(engine: Engine, small: Params, tmp_path: Path) -> None:
    images = tmp_path / "images" / "inputs" / "x"
    images.mkdir(parents=True)
    (images / "first.png").write_bytes(picture(64, 64))
    given = {"key": "inputs/x/first.png", "content_type": "image/png", "bytes": 9, "role": "first", "sha256": "ab" * 32}
    asked = small(inputs=(Input.model_validate(given),))
    make_all([LocalJob(params=asked, output=tmp_path / "a.mp4", images=tmp_path / "images")], lambda event: None)
    (seen,) = engine.seen
    assert {role: image.size for role, image in seen.items()} == {"first": (64, 64)}


def test_a_model_that_the_catalog_lacks_is_named(small: Params, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"^model none is not in the catalog$"):
        make_all([LocalJob(params=small(model="none"), output=tmp_path / "a.mp4")], lambda event: None)


def test_files_that_cannot_be_signed_are_told_of_before_the_model_loads(
    small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the first clip is made, after minutes or hours."""
    nowhere = {"provenance_certificate": tmp_path / "chain.pem", "provenance_key": tmp_path / "key.pem"}
    settings = local.get_settings().model_copy(update=nowhere)
    monkeypatch.setattr(local, "get_settings", lambda: settings)
    monkeypatch.setattr("adaspa_worker.pipeline.load", lambda *_: pytest.fail("it loads"))
    with pytest.raises(ProvenanceError):
        make_all([LocalJob(params=small(), output=tmp_path / "a.mp4")], lambda event: None)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, small: Params, tmp_path: Path) -> Callable[[Any], tuple[Any, list[Any]]]:
    """Runs the program with jobs that end so; its exit status or message, and the lines that it wrote."""

    def run(ends: Any) -> tuple[Any, list[Any]]:
        jobs = json.dumps([{"params": small().model_dump(mode="json"), "output": str(tmp_path / "a.mp4")}])
        out, err = (tmp_path / name for name in ("out", "err"))
        with out.open("w") as lines, err.open("w") as rest, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jobs.encode())))
            patch.setattr(sys, "stdout", lines)
            patch.setattr(sys, "stderr", rest)
            before = list[str]()
            patch.setattr(local, "make_all", lambda *given: (before.append("jobs"), ends(*given)))
            patch.setattr(local.kernel_cache, "use", lambda settings: before.append("kernel cache"))
            patch.setattr(local.allocator, "use", lambda: before.append("allocator"))
            patch.setattr(local.signal, "signal", lambda *_: None)
            try:
                local.main()
            except SystemExit as ended:
                status = ended.code
            else:
                status = 0
        assert before == ["kernel cache", "allocator", "jobs"], "PyTorch looks at both when it loads"
        return status, [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_the_program_ends_as_its_jobs_do(program: Callable[[Any], tuple[Any, list[Any]]]) -> None:
    def whole(jobs: list[LocalJob], tell: local.Tell) -> None:
        print("what a library prints")
        tell({"job": 0, "prompt": jobs[0].params.prompt, "output": str(jobs[0].output.name)})

    told = [{"job": 0, "prompt": "a red circle", "output": "a.mp4"}]
    assert program(whole) == (0, told)
    assert program(raising(KeyboardInterrupt())) == (130, [])  # type: ignore[arg-type]
    assert program(raising(local.CatalogError("catalog: broken"))) == ("catalog: broken", [])
    assert program(raising(local.SettingsError("ADASPA_X: wrong"))) == ("ADASPA_X: wrong", [])
    error = {"code": "model_unavailable", "message": "/models/x: missing"}
    assert program(raising(ModelUnavailable("/models/x: missing"))) == (1, [{"error": error}]), "all is the operator's"
    error = {"code": "generation_failed", "message": "ValueError: no"}
    assert program(raising(ValueError("no\nwhy"))) == (1, [{"error": error}])


def test_a_program_that_is_told_to_end_removes_what_is_half_written(tmp_path: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from tempfile import TemporaryDirectory
        from adaspa_worker import local

        def half(jobs, tell):
            with TemporaryDirectory(prefix=".part-", dir={str(tmp_path)!r}) as folder:
                Path(folder, "video.mp4").write_bytes(b"half a video")
                tell({{"job": 0}})
                time.sleep(600)

        local.make_all = half
        local.main()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"[]")
    process.stdin.close()
    assert json.loads(process.stdout.readline()) == {"job": 0} and [*tmp_path.iterdir()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130 and [*tmp_path.iterdir()] == []
