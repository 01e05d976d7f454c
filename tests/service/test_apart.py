"""Processes that read clients' files: what they are told, what they may, and what becomes of those that end early."""

import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from adaspa_api.words import Kind
from adaspa_service.inputs.apart import Reader, apart
from adaspa_service.inputs.source import InputRefused


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module that such a process runs; gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(code: str) -> str:
        (tmp_path / "reads.py").write_text(dedent(code))
        return "reads"

    return write


LIMITED = """
    from adaspa_service.inputs import reader
    from adaspa_service.inputs.source import InputRefused
    reader.SECONDS = {seconds}
    def main(asked):
        {does}
    reader.read(main, "is broken")
"""


def refused(module: str, *asked: object) -> InputRefused:
    """What is said of a file at which its process ends so."""
    with pytest.raises(InputRefused) as caught, apart(module, Kind.video, *asked) as reader:
        reader.answer()
    return caught.value


@pytest.mark.parametrize(
    ("does", "too_large", "said"),
    [
        ("raise ValueError('x')", False, "is broken"),
        ("raise InputRefused('is odd')", False, "is odd"),
        ("raise InputRefused('is vast', too_large=True)", True, "is vast"),
        ("raise KeyError('x')", False, "takes too much time or memory to read; allowed: an MP4"),
        ("bytearray(5 << 30)", False, "takes too much time or memory to read; allowed: an MP4"),
        ("while True: pass", False, "takes too much time or memory to read; allowed: an MP4"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_its_reader_says(
    module: Any, does: str, too_large: bool, said: str
) -> None:
    error = refused(module(LIMITED.format(does=does, seconds=1 if "while" in does else 120)))
    assert said in str(error) and error.too_large is too_large
    assert error.code(Kind.video) == ("video_too_large" if too_large else "invalid_video")


def test_the_log_says_why_a_reader_ended(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    refused(module("import sys; sys.exit('one\\ntwo: why')"))
    refused(module("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert caplog.messages == [
        f"{Kind.video.one} could not be read: {why}" for why in ("two: why", "the process was ended")
    ]


def test_a_reader_is_asked_as_json_has_it_and_knows_no_secret(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADASPA_BOOTSTRAP_KEY", "k" * 40)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code = """
        import json, os, sys
        print(json.dumps({"asked": json.loads(sys.argv[1]), "environment": dict(os.environ)}), flush=True)
        print(json.dumps({"told": json.loads(sys.stdin.read())}), flush=True)
    """
    with apart(module(code), Kind.audio, "a b", 1, 2.5, True) as reader:
        answer = reader.answer()
        reader.tell([640, 480])
        assert reader.answer() == {"told": [640, 480]}
    assert answer["asked"] == ["a b", 1, 2.5, True]
    allowed = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LC_CTYPE"}  # Python sets the last one itself
    assert {*answer["environment"]} <= allowed and answer["environment"]["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("told", [[640, 480], "x" * 100_000], ids=["little", "much"])
def test_a_file_whose_reader_ended_before_it_was_told_is_refused(module: Any, told: object) -> None:
    with (
        pytest.raises(InputRefused, match="takes too much time or memory"),
        apart(module("print('{\"size\": [1, 1]}', flush=True); raise SystemExit"), Kind.video) as reader,
    ):
        reader.answer()
        reader._process.wait()
        reader.tell(told)
        reader.answer()


def test_a_reader_ends_with_whoever_asked_it(module: Any) -> None:
    code = "import json, time; print(json.dumps({}), flush=True); time.sleep(600)"
    held: list[Reader] = []
    with pytest.raises(RuntimeError), apart(module(code), Kind.video) as reader:
        held.append(reader)
        reader.answer()
        raise RuntimeError
    assert held[0]._process.returncode is not None
