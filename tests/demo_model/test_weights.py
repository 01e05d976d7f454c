"""The weights that ship are those that were measured."""

import hashlib
import json
from pathlib import Path

import pytest
from accelerate import init_empty_weights
from adaspa_demo_model import IMAGE_FOLDER, LORA_FOLDER, PIPELINE_FOLDER, image_pipeline
from adaspa_jobs.catalog import Catalog
from adaspa_worker.loras.keys import fit
from adaspa_worker.loras.slots import sizes_of
from diffusers import WanPipeline
from safetensors.torch import load_file

from demo_model import distill, lengths
from demo_model.architecture import build_transformer
from demo_model.first_frames import FIRST_FRAME_PSNR, digest_of, shortfalls
from demo_model.long_clips import LONG_WEIGHTS
from demo_model.low_rank import header_of

DOCS = Path(__file__).parents[2] / "docs" / "demo_model"
TEXT_TO_VIDEO = "b75ee74806a4f31d049bed7ff3ec0fd851ea7fa61875712334ef1c3bc1375d85"
"""Of the files of the text-to-video pipeline: every figure measured on it is of these."""


def test_the_text_to_video_pipeline_is_the_one_that_all_figures_are_of() -> None:
    whole = hashlib.sha256()
    for file in sorted(PIPELINE_FOLDER.rglob("*")):
        if file.is_file():
            whole.update(file.relative_to(PIPELINE_FOLDER).as_posix().encode() + file.read_bytes())
    assert whole.hexdigest() == TEXT_TO_VIDEO


def test_the_image_to_video_weights_are_those_that_passed_the_evaluation() -> None:
    measured = json.loads((DOCS / "image_evaluation.json").read_text())
    weights = load_file(IMAGE_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
    assert digest_of(weights) == measured["weights"]
    spec = Catalog.load(None).models["demo-image"]
    assert (measured["settings"]["captions"], measured["settings"]["guidance"]) == (64, spec.default_guidance)
    assert measured["modes"].keys() == {"dense", f"mass-{spec.attention['mass']}"}
    assert shortfalls(measured["modes"]) == []


def test_the_long_models_weights_are_those_that_passed_the_evaluation() -> None:
    measured = json.loads((DOCS.parent / "kernels" / "lengths.json").read_text())
    weights = {name: value for file in LONG_WEIGHTS.glob("*.safetensors") for name, value in load_file(file).items()}
    assert digest_of(weights) == measured["weights"]
    assert {row["tokens"] for row in measured["rows"] if row["model"] == "long"} == {2304, 9216, 21504}
    assert measured["settings"]["captions"] == 64
    assert lengths.shortfalls(measured["rows"]) == []


@pytest.mark.parametrize(("name", "steps"), [("eight-steps", 8), ("four-steps", 4)])
def test_the_adapters_for_few_steps_are_those_that_passed_the_evaluation(name: str, steps: int) -> None:
    file = LORA_FOLDER / f"{name}.safetensors"
    measured = json.loads((DOCS / f"{name}.json").read_text())
    spec = Catalog.load(None).models["demo"]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    offered = next(lora for lora in spec.loras if lora.name == name)
    assert (offered.sha256, offered.source, measured["lora"]) == (sha256, f"builtin:{name}", sha256)
    weights = load_file(PIPELINE_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
    assert measured["weights"] == digest_of(weights)
    settings = measured["settings"]
    assert (settings["captions"], settings["steps"], settings["guidance"]) == (64, steps, 1.0)
    assert distill.shortfalls(measured["modes"], steps) == []
    with init_empty_weights():
        sizes = sizes_of(build_transformer())
    fitted = fit(load_file(file), header_of(file), WanPipeline, sizes)
    assert fitted.pairs.keys() == sizes.keys() and fitted.lost == []
    assert file.stat().st_size <= 1.5e6


@pytest.mark.parametrize(
    ("figures", "short"),
    [
        ({"first_frame_psnr": FIRST_FRAME_PSNR - 0.1}, ["dense: first_frame_psnr 29.9 of 30"]),
        (
            {"right": {"color": 1.0, "shape": 0.89, "motion": 0.5}},
            ["dense: shape 0.89 of 0.9", "dense: motion 0.5 of 0.9"],
        ),
    ],
)
def test_weights_that_fall_short_do_not_pass(figures: dict[str, object], short: list[str]) -> None:
    good = {"first_frame_psnr": FIRST_FRAME_PSNR, "right": {"color": 0.9, "shape": 0.9, "motion": 0.9}}
    assert shortfalls({"dense": good, "mass-0.9": good}) == []
    assert shortfalls({"dense": good | figures}) == short


def test_the_image_pipelines_folder_has_all_parts_and_holds_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = image_pipeline()
    (folder / "vae").unlink()  # as a cleaner of old temporary files does
    assert image_pipeline() == folder
    assert all(part.is_symlink() for part in folder.iterdir())
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0]]
    homes = {name: (folder / name).resolve().parent for name in parts}
    assert homes == dict.fromkeys(parts, PIPELINE_FOLDER) | {"transformer": IMAGE_FOLDER}
    files = [
        file for root in (PIPELINE_FOLDER, IMAGE_FOLDER, LORA_FOLDER) for file in root.rglob("*") if file.is_file()
    ]
    assert sum(file.stat().st_size for file in files) < 64e6
