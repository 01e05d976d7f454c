"""A whole service with clients, receivers and workers that are killed: see ``tests/chaos/examine.py``."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.planted import ROOT


@pytest.mark.timeout(1800)
def test_a_service_keeps_its_promises_whatever_its_clients_ask_and_whoever_is_killed(tmp_path: Path) -> None:
    seed, out = str(secrets.randbelow(10**6)), tmp_path / "report.json"
    command = [sys.executable, "-m", "chaos.examine", "--served", "--seed", seed, "--out", str(out)]
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert out.exists(), f"seed {seed}: {done.stderr[-2000:]}"
    assert json.loads(out.read_text())["violations"] == [], f"seed {seed}"
