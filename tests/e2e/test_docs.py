"""What the documentation tells to type: every command and snippet is run, page by page, in their order.

One service with the demo model serves all pages, in two denoising steps of a quarter of its size. What cannot be run
here stands in ELSEWHERE, with the reason and with what is looked at instead; any other command has to succeed.
"""

import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partialmethod
from pathlib import Path
from typing import Any

import av
import helm_python as helm
import pytest
import yaml
from adaspa.plugins.settings import from_fields
from adaspa_demo_model import PIPELINE_FOLDER
from adaspa_jobs.catalog import Catalog
from diffusers import WanPipeline
from pages import PAGES, ROOT, blocks, check_parses, commands, name
from receiver import receiving
from rendered_chart import merged, render
from service_process import Service, children, environment
from waiting import PATIENCE

RECEIVER = "https://example.com/hooks/videos"
FIRST_KEY = """kubectl get secret adaspa-api-key -n videos -o go-template='{{index .data "api-key" | base64decode}}'"""
RECIPES = "helm/adaspa-serve/values/recipes"
SMALL = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3, "max_sequence_length": 64}
"""What the snippets that leave size and steps to the pipeline get: Wan's own defaults need a GPU."""
WRITTEN, READ = (
    ("docs", "tests"),
    (
        "Makefile",
        "benchmarks",
        "constraints.txt",
        "demo_model",
        "docker",
        "helm",
        "kernels",
        "pyproject.toml",
        "service",
    ),
)
"""The parts of the checkout that the commands write into, and those that they only read."""
TESTED_BY = {
    "python": "tests/e2e/test_docs.py",
    "sh": "tests/e2e/test_docs.py",
    "console": "tests/service/test_cli_reference.py",
    "yaml": "tests/test_chart.py",
    "json": "tests/service/test_field_tables.py",
    "redis": "tests/service/test_redis_check.py",
}
"""By a block's language."""


@dataclass(frozen=True, eq=False)
class Desk:
    """Where a reader sits: a copy of the checkout, with files of earlier jobs in it, beside a running service."""

    folder: Path
    service: Service
    env: dict[str, str]
    receiver: str

    def filled(self, text: str) -> str:
        """The text with what is there for its placeholders. Who runs ``kubectl exec`` has Redis in the pod."""
        known = {
            "localhost:8000": f"localhost:{self.service.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.service.port}",
            "path/to/wan": str(PIPELINE_FOLDER),
            ', dtype=torch.bfloat16).to("cuda")': ")",  # a GPU's
            "kubectl exec -n videos deploy/video-gateway -- ": "",
            "https://$HOST": f"http://127.0.0.1:{self.service.port}",
            FIRST_KEY: "adaspa token",
            RECEIVER: self.receiver,
        }
        if "VIDEO_ID" in text:
            known["VIDEO_ID"] = next(self.service.client.list()).id
        for placeholder, value in known.items():
            text = text.replace(placeholder, value)
        return text

    def run(self, command: str) -> str:
        """What a shell command prints; AssertionError if it fails."""
        ran = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout


def is_a_target(desk: Desk, command: str) -> None:
    """``make`` knows what it would do."""
    desk.run(command.replace("make", "make --dry-run", 1))


def is_understood(_: Desk, command: str) -> None:
    """``adaspa`` takes these arguments."""
    check_parses(command)


@cache
def options(module: str) -> set[str]:
    """Those that a module's help tells. In this process, which has PyTorch: another would load it for each of them."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [module, "--help"])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    return set(re.findall(r"--[\w-]+", said.getvalue()))


def has_these_options(_: Desk, command: str) -> None:
    """The module is there, and its help tells every option."""
    words = shlex.split(command, comments=True)
    asked = {word for word in words if word.startswith("--")}
    assert asked <= options(words[words.index("-m") + 1])


def names_a_file(desk: Desk, command: str) -> None:
    """What ``-f`` names is there."""
    words = shlex.split(command, comments=True)
    assert (desk.folder / words[words.index("-f") + 1]).is_file()


def values_of(desk: Desk, words: list[str]) -> dict[str, Any]:
    """What the files that ``-f`` names hold together."""
    files = [words[i + 1] for i, word in enumerate(words) if word == "-f"]
    return merged(*(yaml.safe_load((desk.folder / file).read_text()) for file in files))


def renders(desk: Desk, command: str) -> None:
    """The chart takes the values and knows every one that is set."""
    words = shlex.split(command, comments=True)
    assert (desk.folder / words[3] / "Chart.yaml").is_file()
    values = values_of(desk, words)
    settings = [words[i + 1].split("=") for i, word in enumerate(words) if word == "--set"]
    for path, value in settings:
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    text = yaml.safe_dump_all(render(values))
    assert all(value in text for _, value in settings)


def names_a_secret(_: Desk, command: str) -> None:
    """One that the values for production ask for."""
    words = shlex.split(command, comments=True)
    values = yaml.safe_load((ROOT / "helm/adaspa-serve/values/s3-production.yaml").read_text())
    assert words[4] in yaml.safe_dump_all(render(values))


def passes(desk: Desk, command: str) -> None:
    """Helm finds no fault in the chart with these values."""
    words = shlex.split(command, comments=True)
    assert not helm.lint(desk.folder / words[2], values_of(desk, words), strict=True)["errors"]


def follows_a_worker(desk: Desk, command: str) -> None:
    """The values that the page tells to save have this worker, and this container."""
    words = shlex.split(command, comments=True)
    name = next(word for word in words if word.startswith("deployment/")).removeprefix("deployment/video")
    objects = render(values_of(desk, ["-f", f"{RECIPES}/wan2.2-ti2v-5b.yaml", "-f", "my-values.yaml"]))
    (pod,) = [
        item["spec"]["template"]["spec"]
        for item in objects
        if item["metadata"]["name"] == f"r{name}" and item["kind"] == "Deployment"
    ]
    containers = {item["name"] for item in [*pod["containers"], *pod["initContainers"]]}
    assert "-c" not in words or words[words.index("-c") + 1] in containers


def is_where_the_rest_goes(_: Desk, command: str) -> None:
    """Every other command of the page names this namespace."""
    assert set(re.findall(r" -n ([\w-]+)", (ROOT / "docs/kubernetes.md").read_text())) == {command.split()[3]}


def is_one_that_was_built(_: Desk, command: str) -> None:
    """The page builds what it pushes."""
    assert f"-t {command.split()[2]} " in (ROOT / "docs/kubernetes.md").read_text()


def asks_for_gpus(_: Desk, command: str) -> None:
    """By the name that the recipes' workers ask for."""
    limits = yaml.safe_load((ROOT / RECIPES / "wan2.2-ti2v-5b.yaml").read_text())["models"][0]["resources"]["limits"]
    assert command.replace("\\", "").split("allocatable.")[1].rstrip("'") in limits


def has_its_documents(desk: Desk, command: str) -> None:
    """What it takes as JSON is that, in the command or in a file that the page tells to save."""
    for word in shlex.split(command, comments=True):
        if word.startswith(("{", "file://")):
            json.loads(word if word.startswith("{") else (desk.folder / word.removeprefix("file://")).read_text())


def names_a_distribution(desk: Desk, command: str) -> None:
    """It is there."""
    assert (desk.folder / command.split()[2] / "pyproject.toml").is_file()


def asks_for_the_backend(_: Desk, command: str) -> None:
    """By the name whose place the adapter takes."""
    name = command.split("--diffusion-attention-backend ")[1]
    assert f"DiffusionAttentionBackendEnum.{name}," in (ROOT / "kernels/adaspa/plugins/vllm_omni.py").read_text()


def asks_sglang_for_the_backend(_: Desk, command: str) -> None:
    """By the name whose place the adapter takes, with settings that it takes."""
    words = shlex.split(command)
    name = words[words.index("--attention-backend") + 1]
    assert f"AttentionBackendEnum.{name.upper()}\n" in (ROOT / "kernels/adaspa/plugins/sglang_dense.py").read_text()
    from_fields(json.loads(words[words.index("--attention-backend-config") + 1]), "config")


def has_the_tag(desk: Desk, _: str) -> None:
    """The file says what the command would print."""
    with av.open(str(desk.folder / "out.mp4")) as container:
        assert json.loads(container.metadata["comment"])["prompt"]


ELSEWHERE: dict[str, tuple[str, Callable[[Desk, str], None]]] = {
    "make demo": ("sets up an environment of its own; tests/e2e/test_serve.py runs `adaspa demo`", is_a_target),
    "make serve": ("runs until Ctrl-C; tests/e2e/test_serve.py runs `adaspa serve`", is_a_target),
    "make test": ("would run this test; .ci/run runs it", is_a_target),
    "make lint": ("a part of `make test`", is_a_target),
    "make format": ("rewrites the sources", is_a_target),
    "adaspa serve": ("runs until Ctrl-C; the service of these tests is one", is_understood),
    "ADASPA_CATALOG=catalog.json .venv/bin/adaspa serve": ("needs a large model and a GPU", is_understood),
    "ADASPA_CATALOG=catalog.json .venv/bin/adaspa fetch-model": (
        "fetches a large model; tests/worker/test_hub.py",
        is_understood,
    ),
    ".venv/bin/adaspa fetch-model": ("fetches a large model; tests/worker/test_hub.py", is_understood),
    ".venv/bin/adaspa serve": ("needs a large model and a GPU", is_understood),
    "adaspa doctor": ("tests/e2e/test_doctor.py", is_understood),
    ".venv/bin/adaspa doctor": ("tests/e2e/test_doctor.py", is_understood),
    "adaspa compare": ("tests/e2e/test_cli_measure.py", is_understood),
    ".venv/bin/adaspa compare": ("tests/e2e/test_cli_measure.py", is_understood),
    'adaspa generate "a large red circle moves left" -o out.mp4 --local': (
        "loads the model again; tests/e2e/test_cli_generate.py",
        is_understood,
    ),
    "PYTHONPATH=tests .venv/bin/python -m chaos": (
        "takes minutes; tests/e2e/test_chaos.py runs a smaller one",
        has_these_options,
    ),
    "PYTHONPATH=tests .venv/bin/python -m chaos.simulate": (
        "takes minutes; tests/service/test_simulation.py runs a shorter one",
        has_these_options,
    ),
    "PYTHONPATH=tests .venv/bin/python -m chaos.soak": (
        "takes two hours; its parts are those of chaos",
        has_these_options,
    ),
    "PYTHONPATH=tests .venv/bin/python -m chaos.planted": ("takes an hour of a machine of its own", has_these_options),
    ".venv/bin/python -m benchmarks.load": ("takes minutes, and a machine of its own", has_these_options),
    "python -m benchmarks.capacity.redis_cost": (
        "takes minutes; tests/benchmarks/test_capacity.py runs it in small",
        has_these_options,
    ),
    "python -m benchmarks.capacity": (
        "takes most of a minute; tests/benchmarks/test_capacity.py runs it in small",
        has_these_options,
    ),
    "python -m demo_model.training": (
        "trains on a GPU; tests/demo_model/test_training.py",
        has_these_options,
    ),
    "python -m demo_model.image_training": (
        "trains on a GPU; tests/demo_model/test_image_training.py",
        has_these_options,
    ),
    "python -m demo_model.long_training": (
        "trains on a GPU; tests/demo_model/test_long_training.py",
        has_these_options,
    ),
    "python -m demo_model.lengths": ("needs a GPU; tests/demo_model/test_lengths.py", has_these_options),
    ".venv/bin/adaspa demo --image": ("starts a service of its own; tests/e2e/test_serve.py", is_understood),
    "python -m demo_model.distill": ("needs a GPU; tests/demo_model/test_distill.py", has_these_options),
    "python -m demo_model.evaluation": ("needs a GPU; tests/e2e/test_demo_model.py", has_these_options),
    "docker build": ("needs a Docker engine; tests/test_images.py runs the steps that can be", names_a_file),
    "kubectl create secret": ("needs a cluster; tests/test_chart.py looks at all of them", names_a_secret),
    "helm install": ("needs a cluster", renders),
    "helm lint": ("Helm's own program; its library does the same", passes),
    "kubectl create namespace": ("needs a cluster", is_where_the_rest_goes),
    "kubectl get nodes": ("needs a cluster", asks_for_gpus),
    "kubectl logs": ("needs a cluster", follows_a_worker),
    "docker push": ("needs a registry", is_one_that_was_built),
    "aws": ("needs an account; tests/service/test_storage_s3.py tries the policy", has_its_documents),
    "pip install ./kernels": ("goes into the server's environment; tests/plugins", names_a_distribution),
    "sglang serve": ("needs a GPU; tests/plugins runs the server's attention layers", asks_sglang_for_the_backend),
    "vllm serve": ("needs a GPU; tests/plugins runs the server's attention layers", asks_for_the_backend),
    "ffprobe": ("FFmpeg's own program, which the project does not install", has_the_tag),
}
"""By how a command begins: why it is not run, and what is looked at instead."""


def elsewhere(command: str) -> list[str]:
    """The entries for a command."""
    return [beginning for beginning in ELSEWHERE if f"{command} ".startswith(f"{beginning} ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A service, and a checkout that may be written into."""
    home = tmp_path_factory.mktemp("docs")
    folder, few_steps = home / "checkout", home / "catalog.json"
    folder.mkdir()
    for part in WRITTEN:
        shutil.copytree(ROOT / part, folder / part)
    for part in READ:
        (folder / part).symlink_to(ROOT / part)
    (folder / ".venv").symlink_to(sys.prefix)
    (home / ".curlrc").write_text("fail-with-body\n")  # an answer of 400 is a failure
    small = {"default_steps": 2, "sizes": ["64x64"], "frames": [9], "default_frames": 9}
    spec = Catalog.load(None).default.model_copy(update=small)
    few_steps.write_text(json.dumps([spec.model_dump(mode="json")]))
    env = environment(None, webhook_http="true", webhook_networks="127.0.0.0/8") | {"ADASPA_CATALOG": str(few_steps)}
    with receiving() as receiver:
        service = Service(home / "data", env).start()
        try:
            url = f"http://127.0.0.1:{service.port}"
            paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            own = {"PATH": paths, "CURL_HOME": str(home), "ADASPA_SERVER": url, "ADASPA_PORT": str(service.port)}
            for video_format in ("mp4", "webm", "gif"):
                video = service.run(output_format=video_format)
                service.client.download(video.id, folder / f"out.{video_format}")
            yield Desk(folder, service, env | own, f"{receiver.url}/hooks/videos")
        finally:
            service.stop()
    assert children(service.data_dir) == {}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_a_page_does_what_it_says(page: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    monkeypatch.setattr(WanPipeline, "__call__", partialmethod(WanPipeline.__call__, **SMALL))
    names: dict[str, Any] = {}
    if name(page) == "kernels/README.md":  # which speaks of a pipeline that the reader has
        names["pipe"] = WanPipeline.from_pretrained(PIPELINE_FOLDER)
    for file, text in re.findall(r"[Ss]ave\sthis\sas\s`([\w.-]+)`.*?```\w+\n(.*?)```", page.read_text(), re.DOTALL):
        (desk.folder / file).write_text(text)
    for language, code in blocks(page):
        if language == "python":
            exec(compile(desk.filled(code), name(page), "exec"), names)
        variables = ""
        for command in commands(code) if language == "sh" else ():
            listed = elsewhere(command)
            for beginning in listed:
                ELSEWHERE[beginning][1](desk, command)
            if not listed:
                desk.run(variables + desk.filled(command))
            words = shlex.split(command, comments=True)
            if len(words) == 1 and re.match(r"\w+=", words[0]):  # a variable of the commands after it
                variables += f"{desk.filled(command)}\n"


def test_no_block_and_no_exception_is_forgotten() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert {language for language, _ in found} == set(TESTED_BY)
    told = [command for language, code in found if language == "sh" for command in commands(code)]
    assert {beginning for command in told for beginning in elsewhere(command)} == set(ELSEWHERE)
