"""What a killed run of the chaos leaves behind: nothing."""

import signal
import subprocess
import sys
from pathlib import Path

from waiting import runs, until

PARENT = """
import subprocess, sys
from adaspa_service.local.process import tied
print(subprocess.Popen(["sleep", "1000"], preexec_fn=tied()).pid, flush=True)
sys.stdin.read()
"""

EXAMINING = """
import os, threading
from chaos.by_hand import bench

def scene():
    with bench() as at:
        print(at.client.info("server")["process_id"], flush=True)
        threading.Event().wait()

threading.Thread(target=scene, daemon=True).start()
input()
os._exit(1)
"""
"""An examination that ends at its first violation, in the middle of a scene."""


def test_a_process_that_is_tied_ends_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not runs(child), "the child has ended")


def test_an_examination_that_stops_in_a_scene_leaves_no_server() -> None:
    command = [sys.executable, "-c", EXAMINING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, cwd=Path(__file__).parent) as examining:
        assert examining.stdout is not None and examining.stdin is not None
        server = int(examining.stdout.readline())
        assert runs(server)
        examining.communicate(b"\n")
    until(lambda: not runs(server), "the scene's server has ended")
