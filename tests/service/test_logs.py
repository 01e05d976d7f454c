"""Logs as people and as machines read them."""

import json
import os
import pty
from functools import partial
from pathlib import Path

import forked
from waiting import PATIENCE

LINE = """
from adaspa_jobs import logs
from adaspa_jobs.settings import Settings
import logging
logs.configure(Settings())
with logs.bound(job="video_1", attempt=2):
    logging.getLogger("adaspa").warning("%s: a line", "video_1")
"""


def said(code: str, **settings: str) -> tuple[str, str]:
    """What a program says to pipes or files: output and errors."""
    ended = forked.run(partial(exec, code, {}), ["program"], os.environ | settings)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def in_a_terminal(tmp_path: Path, **settings: str) -> str:
    ours, theirs = pty.openpty()
    run = partial(exec, LINE, {})
    program = forked.Started(run, ["program"], os.environ | settings, tmp_path / "out", Path(os.ttyname(theirs)))
    assert program.wait(PATIENCE) == 0
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    return text


def test_a_terminal_gets_plain_lines_and_anything_else_json(tmp_path: Path) -> None:
    assert in_a_terminal(tmp_path).strip().endswith("WARNING adaspa: video_1: a line")
    line = json.loads(said(LINE)[1])
    assert (line["level"], line["message"], line["job"], line["attempt"]) == (
        "WARNING",
        "video_1: a line",
        "video_1",
        2,
    )
    assert line["time"]


def test_the_setting_wins(tmp_path: Path) -> None:
    assert json.loads(in_a_terminal(tmp_path, ADASPA_LOG_FORMAT="json"))["job"] == "video_1"
    assert "WARNING adaspa: video_1" in said(LINE, ADASPA_LOG_FORMAT="text")[1]


CALL = r"""
import httpcore, logging
from adaspa_jobs import logs
from adaspa_jobs.settings import Settings
logs.configure(Settings())
answer = b"HTTP/1.1 302 Found\r\nLocation: http://user:secret@a.example/\r\nContent-Length: 0\r\n\r\n"
with httpcore.ConnectionPool(network_backend=httpcore.MockBackend([answer])) as pool:
    print(pool.request("GET", "http://a.example/").status)
logging.getLogger("adaspa").debug("a line")
"""


def test_where_a_call_is_redirected_to_is_not_logged() -> None:
    output, errors = said(CALL, ADASPA_LOG_LEVEL="debug")
    assert output == "302\n" and "a line" in errors and "secret" not in errors
