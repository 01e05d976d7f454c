"""Images and compose file, as far as they can be checked without a Docker engine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distribution, distributions, requires
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from adaspa_service.local.supervisor import free_port
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rendered_chart import container, render
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOOLS = Path(sys.executable).parent
OURS = dict(os.environ)
"""As it is before the tests begin, which trust no server: pip asks real ones."""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    found = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of an image's Dockerfile, with their values."""
    parser = DockerfileParser(path=str(ROOT / "docker" / f"{name}.Dockerfile"), cache_content=True)
    return [(item["instruction"], item["value"]) for item in parser.structure]


def values(name: str, instruction: str) -> list[str]:
    return [value for kind, value in stage(name) if kind == instruction]


def build_system(project: Path) -> dict[str, Any]:
    """What a distribution's wheel is built with."""
    found: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["build-system"]
    return found


def build(name: str, folder: Path, shared: Path) -> Path:
    """The environment that an image's RUN lines make of the files that its COPY lines bring.

    ``shared``: a folder of packages that count as installed there; pip takes those that have the version asked for, and
    downloads what is not there.
    """
    (folder / "tools").mkdir()
    tools = only(brought(*build_system(ROOT)["requires"]), folder / "tools")
    source, venv = folder / "src", folder / "venv"
    for copied in values(name, "COPY"):
        *names, target = copied.split()
        for item in names if not copied.startswith("--from") else ():
            where = source / (target if target != "./" else item)
            copy = shutil.copytree if (ROOT / item).is_dir() else shutil.copy
            where.parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / item, where)
    # The same files in less time: pip comes from here, takes what was downloaded before, and compiles nothing. What the
    # wheels ask for to be built lies here too, and nothing else; pip reads the 0 as "no isolation".
    env = OURS | {"TORCH_INDEX": "", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": str(tools)}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(str(shared))
    pip = f"{TOOLS / 'pip'} --python {venv / 'bin' / 'python'} install"
    lines = [line for line in values(name, "RUN") if "/venv/bin/pip install" in line]
    for line in lines:
        shell = line.removeprefix("python -m venv /venv && ").replace("/venv/bin/pip install", pip)
        shell = shell.replace("--no-cache-dir", "--no-compile")
        subprocess.run(shell, shell=True, cwd=source, env=env, check=True)
    shutil.rmtree(source)  # the image does not have it either
    return venv


def installed(venv: Path) -> set[str]:
    """The names of the distributions in an environment itself."""
    return {found.name for found in distributions(path=[str(path) for path in venv.glob("lib/python*/site-packages")])}


def brought(*asked: str) -> set[str]:
    """The names of distributions, and of all that they need by what they say of it."""
    found: set[str] = set()
    left = list(map(Requirement, asked))
    done: set[tuple[str, str]] = set()
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                needed = map(Requirement, requires(name) or ())
                left += [x for x in needed if not x.marker or x.marker.evaluate({"extra": extra})]
        found.add(name)
    return found


def only(names: set[str], folder: Path) -> Path:
    """A folder with these of the distributions that the tests run with, as links."""
    packages = Path(sysconfig.get_path("purelib"))
    for item in map(distribution, names):
        for top in {path.parts[0] for path in item.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(packages / top)
    return folder


@pytest.fixture(scope="module")
def gateway_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the gateway's image installs, beside what our distributions say that they need."""
    needed = brought("adaspa-client", "adaspa-serve[service,tracing]") - {"adaspa-client", "adaspa-serve"}
    return build("gateway", tmp_path_factory.mktemp("gateway"), only(needed, tmp_path_factory.mktemp("needed")))


@pytest.fixture(scope="module")
def worker_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker's image installs, beside all that these tests run with; torch alone is gigabytes."""
    return build("worker", tmp_path_factory.mktemp("worker"), Path(sysconfig.get_path("purelib")))


@pytest.mark.parametrize(
    ("image", "rooms"),
    [
        ("gateway", ["service/adaspa_jobs", "service/adaspa_service", "service/client/adaspa_client"]),
        (
            "worker",
            ["kernels/adaspa", "service/adaspa_jobs", "worker/adaspa_worker", "demo_model/weights/adaspa_demo_model"],
        ),
    ],
)
def test_everything_that_lies_beside_the_code_is_installed(
    image: str, rooms: list[str], request: pytest.FixtureRequest
) -> None:
    """Page, scripts, catalog, the demo model."""
    (packages,) = request.getfixturevalue(f"{image}_venv").glob("lib/python*/site-packages")
    for room in map(ROOT.joinpath, rooms):
        files = [path for path in room.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        missing = [path for path in files if not (packages / path.relative_to(room.parent)).is_file()]
        assert files and not missing


def test_the_wheels_are_all_built_alike() -> None:
    """The gateway's are, here, with nothing but what their build system asks for."""
    alike = [build_system(ROOT / name) for name in ("kernels", "service/client", "demo_model", ".")]
    assert alike == 4 * alike[:1]


def test_no_weights_are_in_the_service_and_no_figures_in_the_library(gateway_venv: Path, worker_venv: Path) -> None:
    """The sizes of what the wheels hold."""
    sizes = {}
    for venv, name in ((gateway_venv, "adaspa-serve"), (worker_venv, "adaspa")):
        (found,) = distributions(name=name, path=[str(path) for path in venv.glob("lib/python*/site-packages")])
        files = [path for path in found.files or () if path.suffix != ".pyc"]
        sizes[name] = sum(Path(str(path.locate())).stat().st_size for path in files)
    assert sizes["adaspa-serve"] < 2e6 and sizes["adaspa"] < 1e6


def test_the_library_alone_brings_nothing_of_the_service() -> None:
    """By what it and all that it needs say they need."""
    names = brought("adaspa")
    assert {"adaspa", "torch", "triton"} <= names
    assert not names & {"adaspa-serve", "celery", "diffusers", "fastapi", "httpx", "redis", "typer", "uvicorn"}


def test_the_gateways_image_serves_without_torch(gateway_venv: Path, redis_url: str, tmp_path: Path) -> None:
    python = gateway_venv / "bin" / "python"
    absent = "import importlib.util; print([importlib.util.find_spec(name) for name in ('torch', 'diffusers')])"
    assert subprocess.check_output([python, "-c", absent], cwd=tmp_path, text=True) == "[None, None]\n"
    port = free_port("127.0.0.1")
    settings = {"redis_url": redis_url, "storage_url": str(tmp_path / "o"), "port": str(port), "open_access": "true"}
    (host,) = re.findall(r"ADASPA_HOST=(\S+)", " ".join(values("gateway", "ENV")))
    env = {"PATH": f"{gateway_venv}/bin", "HOME": "/tmp", "ADASPA_HOST": host}
    env |= {f"ADASPA_{name.upper()}": value for name, value in settings.items()}
    (entry,), (health,) = values("gateway", "ENTRYPOINT"), values("gateway", "HEALTHCHECK")
    probe = json.loads(health[health.index("[") :].replace(":8000", f":{port}"))
    gateway = subprocess.Popen(json.loads(entry), executable=python, env=env, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        until(
            lambda: (
                subprocess.run(probe, executable=python, env=env, check=False, stderr=subprocess.DEVNULL).returncode
                == 0
            ),
            "up",
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            assert "AdaSpa" in http.get("/").text
            assert http.post("/videos", json={"prompt": "a red circle"}).status_code == 200
            assert [model["id"] for model in http.get("/models").json()["data"]] == ["demo", "demo-image"]
    finally:
        gateway.terminate()
        gateway.communicate(timeout=PATIENCE)
    assert subprocess.run(probe, executable=python, env=env, check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_the_images_have_what_is_tested_here(gateway_venv: Path, worker_venv: Path) -> None:
    """Their pip lines bring our own distributions; of all others they take the versions that these tests run with."""
    assert installed(gateway_venv) == {"adaspa-client", "adaspa-serve"}
    assert installed(worker_venv) == {"adaspa", "adaspa-client", "adaspa-demo-model", "adaspa-serve"}


def test_a_model_can_be_put_into_the_workers_image(worker_venv: Path, tmp_path: Path) -> None:
    line = values("worker", "RUN")[2].replace("/venv", str(worker_venv))
    for model in ("", "builtin:demo-image"):
        env = {"MODEL": model, "HF_HOME": str(tmp_path / "models"), "PATH": os.environ["PATH"]}
        done = subprocess.run(line, shell=True, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.startswith(model), done.stderr
    folder = Path(done.stdout.split()[-1])
    assert all(part.resolve().is_relative_to(worker_venv) for part in folder.iterdir()), "links into the image"
    done = subprocess.run(line, shell=True, env=env | {"MODEL": "builtin:none"}, capture_output=True, check=False)
    assert done.returncode == 1


def test_the_workers_image_starts_and_is_probed_as_the_chart_does_it() -> None:
    worker = container(render({}), "worker")
    assert json.loads(values("worker", "ENTRYPOINT")[0]) == worker["command"]
    (health,) = values("worker", "HEALTHCHECK")
    assert json.loads(health[health.index("[") :]) == worker["livenessProbe"]["exec"]["command"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_images_are_pinned_staged_and_run_as_nobody(name: str) -> None:
    bases = values(name, "FROM")
    assert len(bases) == 2 and bases[0].endswith(" AS build")
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert values(name, "USER") == ["10001:10001"]


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ("cpu", {"worker-cpu"}),
        ("gpu", {"worker-gpu"}),
        ("cpu,second", {"worker-cpu", "worker-second"}),
        ("cpu,s3,monitoring", {"worker-cpu", "s3", "bucket", "prometheus", "grafana"}),
    ],
)
def test_compose_takes_the_file(profiles: str, services: set[str]) -> None:
    config = compose(profiles)
    assert set(config["services"]) == {"gateway", "redis", "storage"} | services
    models = {name: config["services"][name]["command"][1] for name in services if name.startswith("worker")}
    assert set(models.values()) <= set(Catalog.load(None).models) and len(set(models.values())) == len(models)
    for name in ("gateway", *(name for name in config["services"] if name.startswith("worker"))):
        service = config["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["depends_on"]["redis"]["condition"] == "service_healthy"
        assert service["tmpfs"] == ["/tmp:exec" if name.startswith("worker") else "/tmp"]
        ours = {variable for variable in service["environment"] if variable.startswith("ADASPA_")}
        assert ours <= {f"ADASPA_{field.upper()}" for field in Settings.model_fields}


def test_everything_starts_once_what_it_needs_is_healthy() -> None:
    config = compose("cpu,s3,monitoring")["services"]
    waits = {
        (name, other): how["condition"]
        for name, service in config.items()
        for other, how in service.get("depends_on", {}).items()
    }
    for name in ("gateway", "worker-cpu"):
        assert waits[name, "redis"] == "service_healthy"
        assert waits[name, "storage"] == waits[name, "bucket"] == "service_completed_successfully"
    assert waits["bucket", "s3"] == waits["grafana", "prometheus"] == "service_healthy"
    for (_, other), condition in waits.items():
        if condition == "service_healthy":
            assert config[other]["healthcheck"]["test"]


def test_everything_that_runs_on_is_there_again_after_a_restart_of_the_machine() -> None:
    config = compose("cpu,gpu,second,s3,monitoring")["services"]
    waits = [wait for service in config.values() for wait in service.get("depends_on", {}).items()]
    once = {name for name, how in waits if how["condition"] == "service_completed_successfully"}
    assert {name for name, service in config.items() if service.get("restart") != "unless-stopped"} == once


def test_prometheus_asks_all_that_serve_metrics() -> None:
    services = compose("cpu,gpu,second,monitoring")["services"]
    served = {name for name, each in services.items() if "ADASPA_METRICS_PORT" in each.get("environment", {})}
    config = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())
    (sought,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert served == set(sought["names"]) and len(served) == 4
    assert {services[name]["environment"]["ADASPA_METRICS_PORT"] for name in served} == {str(sought["port"])}


def test_redis_refuses_writes_before_it_is_killed_and_keeps_what_it_took() -> None:
    options = " ".join(compose("cpu")["services"]["redis"]["command"])
    assert "--appendonly yes" in options and "--maxmemory-policy noeviction" in options
    assert "--maxmemory 1gb" in options, "without a limit nothing is ever refused"
    chart = " ".join(container(render({}), "redis")["command"])
    assert "--maxmemory-policy noeviction" in chart and "--maxmemory 512mb" in chart


def test_redis_is_reached_by_gateway_and_worker_alone_and_asks_for_its_password() -> None:
    config = compose("cpu,s3,monitoring")
    services = config["services"]
    assert {name for name in services if "redis" in services[name].get("networks", {})} == {
        "gateway",
        "redis",
        "worker-cpu",
    }
    assert config["networks"]["redis"]["internal"] and not services["redis"].get("ports")
    options = services["redis"]["command"]
    password = options[options.index("--requirepass") + 1]
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == password
    assert services["gateway"]["environment"]["ADASPA_REDIS_URL"] == f"redis://:{password}@redis:6379/0"


def test_without_a_password_for_redis_nothing_starts(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / ".env.example").write_text("COMPOSE_PROFILES=cpu\n")
    with pytest.raises(AssertionError, match=r"REDIS_PASSWORD is missing a value: set it in \.env"):
        compose("cpu", tmp_path)


def test_any_setting_can_be_given_in_a_file(tmp_path: Path) -> None:
    assert compose("cpu")["services"]["gateway"]["environment"].get("ADASPA_QUEUE_CAP") is None
    for name in ("docker-compose.yml", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "settings.env").write_text("ADASPA_QUEUE_CAP=5\nADASPA_STORAGE_URL=/elsewhere\n")
    environment = compose("cpu", tmp_path)["services"]["gateway"]["environment"]
    assert environment["ADASPA_QUEUE_CAP"] == "5"
    assert environment["ADASPA_STORAGE_URL"] == "/videos", "what the file itself says comes first"


def test_catalog_models_and_bucket_may_be_ones_own(tmp_path: Path) -> None:
    config = compose("gpu")["services"]
    (mounted,) = [volume for volume in config["gateway"]["volumes"] if volume["type"] == "bind"]
    assert Catalog.load(Path(mounted["source"])).models == Catalog.load(None).models
    assert config["gateway"]["environment"]["AWS_ENDPOINT"] == "http://s3:9000"
    own = {
        "ADASPA_MODEL": "wan",
        "ADASPA_GPUS": "2",
        "ADASPA_CATALOG": "./catalog.json",
        "MODELS": "/srv/models",
        "AWS_ENDPOINT": "https://s3.eu-central-1.amazonaws.com",
        "AWS_REGION": "eu-central-1",
    }
    example = (ROOT / ".env.example").read_text()
    for name, value in own.items():
        example = re.sub(f"^{name}=.*$", f"{name}={value}", example, flags=re.M)
    (tmp_path / ".env.example").write_text(example)
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    config = compose("gpu", tmp_path)["services"]
    for name in ("gateway", "worker-gpu"):
        service = config[name]
        bucket = {variable: value for variable, value in own.items() if variable.startswith("AWS_")}
        assert bucket.items() <= service["environment"].items()
        sources = {volume["target"]: volume["source"] for volume in service["volumes"]}
        assert sources[service["environment"]["ADASPA_CATALOG"]] == str(tmp_path / "catalog.json")
    worker = config["worker-gpu"]
    assert sources["/models"] == "/srv/models" and worker["command"] == ["--model", "wan"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 2
    assert int(worker["shm_size"]) == 8 * 2**30, "for what NCCL's processes share"


def test_the_example_names_every_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    named = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    assert named == used | {"COMPOSE_PROFILES"}


def compose(profiles: str, folder: Path = ROOT) -> dict[str, Any]:
    """The file as Docker Compose reads it, checked against its schema, with the example's variables."""
    line = f"{TOOLS / 'docker-compose'} --env-file .env.example config --format json"
    env = {"COMPOSE_PROFILES": profiles, "PATH": ""}
    done = subprocess.run(shlex.split(line), cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr  # after an error its exit status is 0 all the same
    config: dict[str, Any] = json.loads(done.stdout)
    return config
