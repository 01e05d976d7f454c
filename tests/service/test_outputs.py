"""Files that commands and clients write: whole or not at all, and refused before any work if they cannot be written."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import forked
import pytest
from adaspa_client.download import ABANDONED_SECONDS
from adaspa_command import adaspa, clean_environment
from adaspa_service.cli import main
from http_server import answering
from running_gateway import FILES, Service
from waiting import PATIENCE, until

UNWRITABLE = Path("/proc")
"""A folder that takes no file from anybody."""
VIDEO_ID = "video_" + "0" * 32


@contextmanager
def slow(first: bytes, second: bytes, job: bytes = b"{}") -> Iterator[tuple[str, threading.Event]]:
    """The address of a server of two files, one for each request; the first stops half way until the event is set."""
    goes_on, contents, lock = threading.Event(), [first, second], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.partition("?")[0].endswith("/content"):
                self.answer(job)
                return
            with lock:
                content = contents.pop(0)
            self.answer(content, halts=len(contents) == 1)

        def answer(self, content: bytes, *, halts: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            if halts:
                self.wfile.flush()
                assert goes_on.wait(PATIENCE)
            self.wfile.write(content[half:])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        try:
            yield f"http://127.0.0.1:{port}", goes_on
        finally:
            goes_on.set()


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_two_downloads_to_one_path_are_each_whole_and_the_last_to_end_wins(connect: Any, tmp_path: Path) -> None:
    target, first, second = tmp_path / "out.mp4", b"a" * 300_000, b"b" * 200_000
    with slow(first, second) as (url, goes_on), connect(url) as client, connect(url) as other:
        begun = threading.Thread(target=client.download, args=(VIDEO_ID, target))
        begun.start()
        until(lambda: any(part.stat().st_size for part in parts(tmp_path)), "the first is half way")
        assert other.download(VIDEO_ID, target).read_bytes() == second
        goes_on.set()
        begun.join()
    assert target.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_what_a_killed_download_left_goes_with_a_later_one_and_what_grows_stays(
    service: Service, connect: Any, tmp_path: Path
) -> None:
    (folder := tmp_path / "videos").mkdir()
    left, grows, own = (folder / name for name in (".adaspa-1.part", ".adaspa-2.part", ".notes.part"))
    for path in (left, grows, own):
        path.write_text("part")
    before = time.time() - ABANDONED_SECONDS - 60
    for path in (left, own):
        os.utime(path, (before, before))
    with connect(service.url) as client:
        client.download(service.completed(), folder / "out.mp4")
    assert {path.name for path in folder.iterdir()} == {grows.name, own.name, "out.mp4"}


def test_a_file_may_have_the_longest_name_that_there_is(service: Service, connect: Any, tmp_path: Path) -> None:
    target = tmp_path / ("a" * 251 + ".mp4")
    with connect(service.url) as client:
        assert client.download(service.completed(), target).read_bytes() == FILES["video"][2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_download_that_is_ended_leaves_nothing(service: Service, tmp_path: Path, number: signal.Signals) -> None:
    video_id = service.completed()
    (folder := tmp_path / "videos").mkdir()
    with slow(b"a" * 300_000, b"", service.http.get(f"/videos/{video_id}").content) as (url, _):
        line = ["adaspa", "download", video_id, "-o", str(folder / "out.mp4")]
        said = tmp_path / "out", tmp_path / "err"
        command = forked.Started(main, line, clean_environment(ADASPA_SERVER=url), *said)
        until(lambda: any(part.stat().st_size for part in parts(folder)), "it is half way")
        command.send_signal(number)
        assert command.wait(PATIENCE) == 128 + number
    assert list(folder.iterdir()) == [] and said[1].read_text() == ""


COMMANDS = (("generate", "a star"), ("generate", "a star", "-n", 2), ("compare", "a star"), ("demo",))


@pytest.mark.parametrize("command", [*COMMANDS, ("download", VIDEO_ID)], ids=lambda command: command[0])
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_takes_no_file_is_told_before_any_work(
    service: Service, monkeypatch: pytest.MonkeyPatch, command: tuple[object, ...], named: bool
) -> None:
    if not named:
        monkeypatch.chdir(UNWRITABLE)
    output = ("--output", UNWRITABLE / "out.mp4") if named else ()
    done = adaspa(*command, *output, server=service.url)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"adaspa: --output: no file can be written to {UNWRITABLE}: ")
    assert done.stdout == "" and service.messages() == 0


def test_an_output_is_looked_at_without_a_trace(service: Service, tmp_path: Path) -> None:
    (folder := tmp_path / "videos").mkdir()
    (output := folder / "out.mp4").write_bytes(b"of before")
    (folder / "star-8.mp4").mkdir()
    for command, option, told in (
        (("generate", "a star", "--steps", 5000), output, "allowed: 1 to 100"),
        (("generate", "a star", "-n", 2, "--seed", 7), folder / "star.mp4", "star-8.mp4 is a folder"),
        (("generate", "a star"), folder / ("a" * 300 + ".mp4"), "File name too long"),
        (("compare", "a star", "--steps", 5000), output, "allowed: 1 to 100"),
        (("download", VIDEO_ID), output, "there is no video"),
        (("demo", "--model", "none"), output, "not in the catalog"),
        (("demo",), folder / "out.png", "must end in .mp4, .webm, .gif, .webp"),
    ):
        done = adaspa(*command, "--output", option, server=service.url)
        assert done.returncode in (1, 2) and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert output.read_bytes() == b"of before" and service.messages() == 0
    assert {path.name for path in folder.iterdir()} == {"out.mp4", "star-8.mp4"}


def test_a_command_that_writes_nothing_here_needs_no_folder(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(UNWRITABLE)
    assert adaspa("generate", "a star", "--detach", server=service.url).returncode == 0
