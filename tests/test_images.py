"""Images and compose file, as far as they can be checked without a Docker engine."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adaspa_service.contract.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    found = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_gateways_pip_line_gives_a_gateway_without_torch(tmp_path: Path) -> None:
    line = next(line for line in (ROOT / "docker" / "gateway.Dockerfile").read_text().splitlines() if "pip" in line)
    venv = tmp_path / "venv"
    shell = line.removeprefix("RUN ").replace("/venv", str(venv)).replace("python -m venv", f"{sys.executable} -m venv")
    subprocess.run(shell, shell=True, cwd=ROOT, check=True, capture_output=True)
    check = "import adaspa_service.gateway.__main__, importlib.util; print(importlib.util.find_spec('torch'))"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", check], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ("cpu", {"worker-cpu"}),
        ("gpu", {"worker-gpu"}),
        ("cpu,s3,monitoring", {"worker-cpu", "s3", "bucket", "prometheus", "grafana"}),
    ],
)
def test_compose_takes_the_file(profiles: str, services: set[str]) -> None:
    config = compose(profiles)
    assert set(config["services"]) == {"gateway", "redis", "storage"} | services
    for name in ("gateway", *(name for name in config["services"] if name.startswith("worker"))):
        service = config["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["depends_on"]["redis"]["condition"] == "service_healthy"
        ours = {variable for variable in service["environment"] if variable.startswith("ADASPA_")}
        assert ours <= {f"ADASPA_{field.upper()}" for field in Settings.model_fields}


def test_the_example_names_every_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    named = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    assert named == used | {"COMPOSE_PROFILES"}


def compose(profiles: str) -> dict[str, Any]:
    """The file as Docker Compose reads it, checked against its schema, with the example's variables."""
    line = f"{TOOLS / 'docker-compose'} --env-file .env.example config --format json"
    env = {"COMPOSE_PROFILES": profiles, "PATH": ""}
    done = subprocess.run(shlex.split(line), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config
