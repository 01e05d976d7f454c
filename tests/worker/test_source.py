"""A missing or broken model folder is found before a worker takes a job, without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from adaspa_worker.source import (
    BUNDLED_FOLDERS,
    ModelUnavailable,
    bundled,
    bundled_lora,
    check_folder,
    is_hub_name,
    resolve,
)


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
    "index is not JSON": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json: cannot be read"),
    "index is not an object": (lambda f: (f / "model_index.json").write_text("[]"), "must contain a JSON object"),
    "no component": (lambda f: shutil.rmtree(f / "vae"), "vae: the component's folder or its configuration is missing"),
    "broken configuration": (lambda f: (f / "vae" / "config.json").write_text("{"), "config.json: cannot be read"),
    "no weights": (lambda f: (f / "transformer" / "diffusion_pytorch_model.safetensors").unlink(), "no safetensors"),
    "cut weights": (lambda f: truncate(f / "text_encoder" / "model.safetensors"), "model.safetensors: damaged weights"),
    "pointer for weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs"),
        "damaged weights",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_folder_is_refused_with_one_line_that_names_the_culprit(folder: Path, breakage: str) -> None:
    damage, message = BREAKAGES[breakage]
    check_folder(folder)
    damage(folder)
    with pytest.raises(ModelUnavailable, match=message) as caught:
        resolve(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "nowhere", "~/nowhere"])
def test_a_missing_folder_is_refused(source: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"nowhere.*the model folder does not exist"):
        resolve(source)


def test_an_unknown_bundled_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelUnavailable, match=r"builtin:nope.*allowed: demo, demo-image"):
        resolve("builtin:nope")


def test_a_bundled_model_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adaspa_demo_model", None)
    with pytest.raises(ModelUnavailable, match=r"^builtin:demo: adaspa-demo-model is not installed$"):
        resolve("builtin:demo")


def test_an_unknown_bundled_adapter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelUnavailable, match=r"builtin:nope: not a built-in adapter; allowed: eight-steps"):
        bundled_lora("nope")


def test_a_component_that_the_index_leaves_out_is_not_looked_for(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert index["transformer_2"] == [None, None]
    assert resolve(str(folder)) == folder


def test_the_check_imports_no_torch(folder: Path) -> None:
    code = (
        f"import sys; from adaspa_worker.source import resolve; resolve({str(folder)!r}); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("source", "at_hub"),
    [
        *((name, True) for name in ("owner/name", "owner/name@abc", "owner/name@refs/pr/1", "Owner-1/Name.v2_x")),
        *((path, False) for path in ("name", "a/b/c", "/a/b", "./a", "../a", "~/a", ".hidden/a", "builtin:demo/x")),
        ("here/model", False),
    ],
)
def test_a_source_with_one_slash_is_the_hubs_unless_it_is_written_as_a_path_or_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, at_hub: bool
) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(source) == at_hub


@pytest.mark.parametrize("what", [bundled, bundled_lora])
def test_a_bundled_part_that_is_not_to_be_had_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, what: Callable[[str], Path]
) -> None:
    monkeypatch.setitem(sys.modules, "adaspa_demo_model", None)
    with pytest.raises(ModelUnavailable, match=r"^builtin:demo: adaspa-demo-model is not installed$"):
        what("demo")


def test_a_bundled_model_whose_folder_cannot_be_made_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(BUNDLED_FOLDERS, "demo", full)
    with pytest.raises(ModelUnavailable, match=r"^builtin:demo: cannot create its folder \(.*No space left"):
        resolve("builtin:demo")
