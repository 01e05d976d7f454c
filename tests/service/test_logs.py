"""Logs as people and as machines read them."""

import json
import os
import pty
import subprocess
import sys

LINE = """
from adaspa_jobs import logs
from adaspa_jobs.settings import Settings
import logging
logs.configure(Settings())
with logs.bound(job="video_1", attempt=2):
    logging.getLogger("adaspa").warning("%s: a line", "video_1")
"""
RUN = [sys.executable, "-c", LINE]


def in_a_terminal(**settings: str) -> str:
    ours, theirs = pty.openpty()
    subprocess.run(RUN, env=os.environ | settings, stderr=theirs, check=True)
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    return text


def test_a_terminal_gets_plain_lines_and_anything_else_json() -> None:
    assert in_a_terminal().strip().endswith("WARNING adaspa: video_1: a line")
    piped = subprocess.run(RUN, capture_output=True, text=True, check=True).stderr
    line = json.loads(piped)
    assert (line["level"], line["message"], line["job"], line["attempt"]) == (
        "WARNING",
        "video_1: a line",
        "video_1",
        2,
    )
    assert line["time"]


def test_the_setting_wins() -> None:
    assert json.loads(in_a_terminal(ADASPA_LOG_FORMAT="json"))["job"] == "video_1"
    env = os.environ | {"ADASPA_LOG_FORMAT": "text"}
    assert "WARNING adaspa: video_1" in subprocess.run(RUN, env=env, capture_output=True, text=True, check=True).stderr


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
    env = os.environ | {"ADASPA_LOG_LEVEL": "debug"}
    made = subprocess.run([sys.executable, "-c", CALL], env=env, capture_output=True, text=True, check=True)
    assert made.stdout == "302\n" and "a line" in made.stderr and "secret" not in made.stderr
