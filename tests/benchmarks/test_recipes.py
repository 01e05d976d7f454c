"""The recipes of docs/recipes: catalogs that are read, checked and rendered, and tables made of the measurements."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from adaspa_jobs.catalog import Catalog
from adaspa_worker import offer
from adaspa_worker.source import is_hub_name
from rendered_chart import CHART, merged, render

from benchmarks import recipes
from benchmarks.models.totals import StepSeconds

VALUES = CHART / "values"
WAN = ("WanTransformer3DModel", {"patch_size": [1, 2, 2], "rope_max_seq_len": 1024, "num_attention_heads": 40}, {})
HUNYUAN_VAE = {"spatial_compression_ratio": 8, "temporal_compression_ratio": 4}
H3_VAE = {"spatial_downsample_factors": [2, 2, 2, 2], "temporal_downsample_factors": [1, 2, 2, 1], "clip_length": 17}
H3_VAE |= {"token_drop": 3}
LTX_VAE = {"spatio_temporal_scaling": [True, True, True], "patch_size": 4, "patch_size_t": 1}
PUBLISHED: dict[str, tuple[str, tuple[str, dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "wan2.2-ti2v-5b": ("WanPipeline", (*WAN[:2], {"scale_factor_spatial": 16}), {"expand_timesteps": True}),
    "wan2.2-t2v-a14b": ("WanPipeline", WAN, {"boundary_ratio": 0.875}),
    "wan2.2-i2v-a14b": ("WanImageToVideoPipeline", WAN, {"boundary_ratio": 0.9}),
    "hunyuan-video": ("HunyuanVideoPipeline", ("HunyuanVideoTransformer3DModel", {"patch_size": 2}, HUNYUAN_VAE), {}),
    "hunyuan-video-1.5": (
        "HunyuanVideo15Pipeline",
        ("HunyuanVideo15Transformer3DModel", {"patch_size": 1}, HUNYUAN_VAE | {"spatial_compression_ratio": 16}),
        {},
    ),
    "ltx-2": ("LTX2Pipeline", ("LTX2VideoTransformer3DModel", {"patch_size": 1, "patch_size_t": 1}, LTX_VAE), {}),
    "minimax-h3": ("MiniMaxH3ModularPipeline", ("MiniMaxH3Transformer3DModel", {"patch_size": [1, 2, 2]}, H3_VAE), {}),
}
"""What the limits of each model are read from: pipeline, transformer, VAE, and what the index says besides."""
ENTRIES = [(recipe, entry) for recipe in recipes.recipes() for entry in recipes.catalog(recipe)]


def folder_of(model: str, folder: Path) -> Path:
    """A model's folder without its weights."""
    pipeline, (transformer, config, vae), index = PUBLISHED[model]
    parts = {"transformer/config": {"_class_name": transformer, **config}, "vae/config": vae}
    for name, content in (parts | {"scheduler/scheduler_config": {}}).items():
        file = folder / f"{name}.json"
        file.parent.mkdir()
        file.write_text(json.dumps(content))
    name = "modular_model_index.json" if "Modular" in pipeline else "model_index.json"
    (folder / name).write_text(json.dumps({"_class_name": pipeline, **index}))
    return folder


@pytest.mark.parametrize(("recipe", "entry"), ENTRIES, ids=[entry["id"] for _, entry in ENTRIES])
def test_a_recipes_entry_is_one_that_its_worker_takes(
    recipe: dict[str, Any], entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For a modular pipeline all of diffusers' blocks are imported, to no end here.
    monkeypatch.setattr(offer, "call_arguments", lambda _: {})
    spec = Catalog.load(recipes.RECIPES / f"{recipe['page']}.json").get(entry["id"])
    assert spec is not None and is_hub_name(spec.source) and not spec.call
    offer.check(spec, folder_of(spec.id, tmp_path))


@pytest.mark.parametrize("recipe", recipes.recipes(), ids=lambda recipe: recipe["page"])
def test_a_recipes_values_are_rendered_and_serve_its_catalog(recipe: dict[str, Any], tmp_path: Path) -> None:
    production, own = (
        yaml.safe_load((VALUES / name).read_text()) for name in ("s3-production.yaml", f"recipes/{recipe['page']}.yaml")
    )
    assert own["catalog"] == recipes.catalog(recipe)
    objects = render(merged(production, own))
    for item in objects:
        if item["kind"] == "Deployment":
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    served = next(item for item in objects if item["metadata"]["name"] == "r-catalog")["data"]["catalog.json"]
    (file := tmp_path / "catalog.json").write_text(served)
    assert set(Catalog.load(file).models) == {model["id"] for model in own["models"]}
    whole = sum(part["gigabytes"] for part in recipe["parts"])
    for model in own["models"]:
        memory, cache = model["resources"]["limits"]["memory"], model["modelCache"]["size"]
        assert int(memory.removesuffix("Gi")) >= recipes.host_memory(recipe) and int(cache.removesuffix("Gi")) > whole


@pytest.mark.parametrize("name", ["single-gpu", "scale-to-zero", "s3-production"])
def test_the_values_of_an_environment_serve_a_recipe(name: str) -> None:
    recipe, own = (yaml.safe_load((VALUES / f"{file}.yaml").read_text()) for file in ("recipes/wan2.2-ti2v-5b", name))
    (asked,), (model,) = recipe["models"], own["models"]
    assert own["catalog"] == recipe["catalog"]
    assert (model["id"], model["resources"]) == (asked["id"], asked["resources"])


def test_the_tables_are_those_of_the_measurements() -> None:
    for page in recipes.pages():
        assert recipes.filled(page) == page.read_text(), "run: python -m benchmarks.recipes"
    assert {page.stem for page in recipes.pages()} == {page.stem for page in recipes.RECIPES.glob("*.md")}


def test_the_line_between_two_densities_is_what_others_were_measured_at() -> None:
    seconds = StepSeconds.of(recipes.measured("hunyuan-video-13b-720p-129f")[0])
    line = recipes.on_a_line(StepSeconds(**vars(seconds) | {"sparse": {0.2: seconds.sparse[0.2]}}))
    for density in (0.3, 0.5):
        assert line.sparse_at(density) == pytest.approx(seconds.sparse[density], rel=0.01)


def test_a_scaled_model_is_the_other_one_if_it_has_its_operations() -> None:
    """And Wan 2.1 14B, which was measured, is not far from what Wan 2.1 1.3B says of it."""
    small, large = (
        recipes.on_a_line(StepSeconds.of(recipes.measured(name)[0]))
        for name in ("wan2.1-1.3b-480p-81f", "wan2.1-14b-720p-81f")
    )
    assert recipes.scaled(small, 1, 1) == pytest.approx(small)
    shapes = [(32760, 1536, 30, 1.42), (75600, 5120, 40, 14.29)]
    names = ("tokens", "channels", "layers", "billion_parameters")
    one, other = (recipes.operations(dict(zip(names, shape, strict=True))) for shape in shapes)
    ratios = [after / before for before, after in zip(one, other, strict=True)]
    modelled = recipes.scaled(small, *ratios)
    assert modelled.dense == pytest.approx(large.dense, rel=0.3), (modelled.dense, large.dense)
