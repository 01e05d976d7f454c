"""Models of the hub: fetched by its real client from a hub of our own, through mirrors and proxies, and pinned."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from adaspa_api.words import Task
from adaspa_jobs.catalog import CatalogError
from adaspa_worker import hub
from adaspa_worker.families import FAMILIES, pipeline_of
from adaspa_worker.fetch_model import pin
from adaspa_worker.source import ModelUnavailable, check_folder, resolve
from hub_server import Hub, serving_hub
from waiting import PATIENCE

REPO = "demo/wan"
BESIDE = (
    "wan-single-file.safetensors",
    "transformer/diffusion_pytorch_model.fp16.safetensors",
    "transformer_ref/a.json",
)
"""What lies in the repository and is not to be fetched."""


@dataclass(frozen=True)
class Desk:
    """Where models are fetched: a hub, a cache, and a catalog that names the hub's model."""

    hub: Hub
    url: str
    home: Path
    catalog: Path

    def fetch(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "ADASPA_CATALOG": str(self.catalog)}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "", "no_proxy": ""}
        patient = {f"HF_HUB_{what}_TIMEOUT": str(round(PATIENCE)) for what in ("ETAG", "DOWNLOAD")}
        command = [sys.executable, "-m", "adaspa_worker.fetch_model", "--model", "demo", *options]
        env = os.environ | own | quiet | patient | variables
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def fetched(self) -> set[str]:
        return {line.rpartition(f"/{self.hub.commit}/")[2] for line in self.hub.asked if line.startswith("GET /demo/")}


@pytest.fixture
def desk(tiny_pipeline: Path, tmp_path: Path) -> Iterator[Desk]:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))
    (folder / "tokenizer" / "chat_template.jinja").write_text("a template")
    for name in BESIDE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"0" * 1000)
    catalog = tmp_path / "catalog.json"
    built_in = Path(__file__).parents[2] / "service" / "adaspa_jobs" / "catalog.json"
    catalog.write_text(built_in.read_text().replace('builtin:demo"', f'{REPO}"'))
    with serving_hub(model := Hub(folder, REPO, token="hf_own")) as url:
        yield Desk(model, url, tmp_path / "home", catalog)


def test_a_model_comes_from_a_mirror_without_what_lies_beside_it_and_is_pinned(desk: Desk) -> None:
    before = desk.catalog.read_text()
    done = desk.fetch("--resolve", HF_TOKEN="hf_own")
    assert done.returncode == 0, done.stderr
    pinned = f"{REPO}@{desk.hub.commit}"
    assert f"{pinned}: " in done.stdout and " MB to download" in done.stdout
    needed = {name for name in desk.hub.files() if name not in BESIDE}
    assert desk.fetched() == needed
    assert desk.catalog.read_text() == before.replace(f'"{REPO}"', f'"{pinned}"')

    # From here on the files are those of the commit, and nobody has to be asked for them.
    desk.hub.commit, desk.hub.asked[:] = "1" * 40, []
    again = desk.fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0 and "0.0 MB to download" in again.stdout, again.stderr
    assert desk.fetch(HF_HUB_OFFLINE="1").returncode == 0


def test_a_proxy_is_asked_in_the_hubs_place(desk: Desk) -> None:
    done = desk.fetch("--dry-run", HF_ENDPOINT="http://hub.example", HTTP_PROXY=desk.url, HF_TOKEN="hf_own")
    assert done.returncode == 0, done.stderr
    assert "GET http://hub.example/demo/wan/resolve" in "\n".join(desk.hub.asked)
    assert not [line for line in desk.hub.asked if line.startswith("GET") and line.endswith(".safetensors")]


def test_a_proxy_that_refuses_is_told_in_one_line(desk: Desk) -> None:
    done = desk.fetch(HF_ENDPOINT="https://hub.example", HTTPS_PROXY=desk.url)
    assert "CONNECT hub.example:443" in desk.hub.asked
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"adaspa worker: {REPO}: ") and "https://hub.example (" in line and done.returncode == 1


def folder_with(folder: Path, **classes: str) -> Path:
    for name, pipeline in classes.items():
        parts = {"_class_name": pipeline, "vae": ["diffusers", "Vae"], "transformer_ref": ["diffusers", "Dit"]}
        (folder / f"{name}.json").write_text(json.dumps(parts))
    return folder


def test_of_two_indexes_the_one_whose_pipeline_is_served_counts(tmp_path: Path) -> None:
    """MiniMax-H3's repository has both, the other for its authors' own code."""
    folder_with(tmp_path, model_index="MiniMaxH3Pipeline", modular_model_index="MiniMaxH3ModularPipeline")
    assert pipeline_of(tmp_path) == "MiniMaxH3ModularPipeline"
    folder_with(tmp_path, model_index="WanPipeline", modular_model_index="WanModularPipeline")
    assert pipeline_of(tmp_path) == "WanPipeline"
    modular = {name for name in FAMILIES if "Modular" in name}
    assert set(hub.MODULAR_ONLY) == {name for name in modular if name.replace("Modular", "") not in FAMILIES}


def test_the_transformer_that_a_models_tasks_do_not_run_is_not_fetched(tmp_path: Path) -> None:
    parts = {"_class_name": "MiniMaxH3ModularPipeline", "vae": ["diffusers", "Vae"]}
    parts |= {name: ["diffusers", "Dit"] for name in ("transformer", "transformer_ref")}
    (tmp_path / "modular_model_index.json").write_text(json.dumps(parts))
    folders = {
        tasks: {pattern.split("/")[0] for pattern in hub.patterns(tmp_path, tasks) if "/" in pattern}
        for tasks in [(), (Task.image_to_video,), (Task.reference_to_video, Task.reference_audio_to_video)]
    }
    assert [*folders.values()] == [{"vae", "transformer"}, {"vae", "transformer"}, {"vae", "transformer_ref"}]
    one = {name: kind for name, kind in parts.items() if name != "transformer_ref"}
    assert hub.components(one, [Task.reference_to_video]) == ["vae", "transformer"]


def test_a_component_that_a_modular_index_only_locates_is_looked_for(tmp_path: Path) -> None:
    parts = {
        "_class_name": "MiniMaxH3ModularPipeline",
        "vae": [None, None, {"subfolder": "vae"}],
        "optional": [None, None],
    }
    (tmp_path / "modular_model_index.json").write_text(json.dumps(parts))
    assert hub.components(parts) == ["vae"]
    with pytest.raises(ModelUnavailable, match="vae: the component's folder or its configuration is missing"):
        check_folder(tmp_path)


@pytest.mark.parametrize("source", ["demo/wan@main", "demo/wan@", f"demo/wan@{'A' * 40}"])
def test_a_revision_that_may_move_is_refused(source: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"^demo/wan@.*is not a full commit; allowed: all 40 digits$"):
        resolve(source)


def test_a_disk_without_room_is_told_before_the_download(tmp_path: Path) -> None:
    hub.check_room(0, tmp_path / "not" / "there")
    with pytest.raises(hub.NotAtHub, match=r"^9000000000.0 GB to download, but .* has only "):
        hub.check_room(9 * 10**18, tmp_path / "not" / "there")


def test_only_a_hub_model_of_a_catalog_file_is_pinned(tmp_path: Path) -> None:
    catalog, found = tmp_path / "catalog.json", hub.Snapshot(REPO, "a" * 40, tmp_path)
    with pytest.raises(ModelUnavailable, match="builtin:demo is not a Hub model of a catalog file"):
        pin(catalog, "builtin:demo", None)
    with pytest.raises(ModelUnavailable, match="demo/wan is not a Hub model of a catalog file"):
        pin(None, REPO, found)
    catalog.write_text('[{"source": "demo\\/wan"}]')  # which JSON allows
    with pytest.raises(CatalogError, match=f'write it yourself: "source": "{found.source}"'):
        pin(catalog, REPO, found)
    assert [file.name for file in tmp_path.iterdir()] == ["catalog.json"]
