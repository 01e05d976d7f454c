"""Settings and catalog: what they hold, and what they say of a value that cannot be used."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog, CatalogError, ModelSpec
from adaspa_jobs.settings import SettingsError, get_settings

MODEL = {
    "id": "tiny",
    "source": "/models/tiny",
    "description": "A tiny model.",
    "sizes": ["64x64", "128x64"],
    "frames": [9, 17],
    "default_frames": 17,
    "fps": 8,
    "fps_range": [1, 30],
    "steps_range": [1, 50],
    "default_steps": 10,
    "guidance_range": [1, 10],
    "default_guidance": 4.0,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("LEASE_SECONDS", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("QUEUE_CAP", "-1"),
        ("RESULT_TTL_SECONDS", "week"),
        ("RESULT_TTL_SECONDS", "999999999999"),
        ("LEASE_SECONDS", "inf"),
        ("WEBHOOK_RETRY_SECONDS", "1e999"),
        ("LOG_LEVEL", "loud"),
        ("STORAGE_URL", ""),
    ],
)
def test_a_bad_variable_is_named_in_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ADASPA_{name}", value)
    get_settings.cache_clear()
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert f"ADASPA_{name}" in str(caught.value) and repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["valkey://:hunter2@redis:6379/0", "redis://:hunter2/x@redis:6379/0", ":hunter2@redis"])
def test_a_bad_address_of_redis_is_named_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADASPA_REDIS_URL", url)
    get_settings.cache_clear()
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert "ADASPA_REDIS_URL" in str(caught.value) and "\n" not in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("name", "value"), [("BOOTSTRAP_KEY", "k" * 40 + "\n"), ("PROMPT_CHECK_TOKEN", "two words")])
def test_a_secret_that_no_request_can_carry_is_named_without_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ADASPA_{name}", value)
    get_settings.cache_clear()
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert f"ADASPA_{name}: contains a space, a line break" in str(caught.value)
    assert value.strip() not in str(caught.value)


def test_settings_come_from_the_environment_and_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADASPA_PORT", "9000")
    get_settings.cache_clear()
    settings = get_settings()
    assert settings.port == 9000 and settings.storage_url == "./data/objects" and get_settings() is settings
    get_settings.cache_clear()


def test_the_built_in_catalog_serves_the_demo_models() -> None:
    catalog = Catalog.load(None)
    tasks = {model.id: (model.tasks, model.needs_image) for model in catalog.models.values()}
    assert tasks == {"demo": (["text_to_video"], False), "demo-image": (["image_to_video"], True)}
    assert catalog.default.id == "demo" and catalog.get("demo") is catalog.default
    assert catalog.get("other") is None


def test_a_catalog_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps([MODEL, {**MODEL, "id": "second", "attention": {"sparsity": 0.5}}]))
    catalog = Catalog.load(path)
    assert list(catalog.models) == ["tiny", "second"]
    second = catalog.get("second")
    assert second is not None and second.attention == {"sparsity": 0.5} and second.max_prompt_chars == 2000


def test_what_a_denoising_depends_on_is_told_apart_from_what_is_offered() -> None:
    first = ModelSpec.model_validate(MODEL).denoising
    for changes in (
        {"source": "/elsewhere"},
        {"memory": {"gguf": ["/other.gguf"]}},
        {"flow_shift": 5.0},
        {"scheduler": {"name": "UniPCMultistepScheduler"}},
        {"call": {"max_sequence_length": 8}},
    ):
        assert ModelSpec.model_validate(MODEL | changes).denoising != first, changes
    for changes in ({"description": "Another"}, {"attention": {"sparsity": 0.5}}, {"memory": {"vae_tiling": True}}):
        assert ModelSpec.model_validate(MODEL | changes).denoising == first, changes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": "Has Spaces"}, "id"),
        ({"id": "../up"}, "id"),
        ({"sizes": []}, "sizes"),
        ({"sizes": ["64 x 64"]}, "sizes"),
        ({"sizes": ["0x64"]}, "sizes"),
        ({"frames": []}, "frames"),
        ({"default_frames": 18}, "default_frames"),
        ({"default_steps": 51}, "steps"),
        ({"steps_range": [0, 50]}, "steps_range"),
        ({"steps_range": [50, 1]}, "steps_range"),
        ({"fps_range": [0, 30]}, "fps_range"),
        ({"default_guidance": 11}, "guidance"),
        ({"colour": "red"}, "colour: unknown field; allowed: id, source, "),
        ({"memory": {"offlod": True}}, "memory.offlod: unknown field; allowed: "),
        ({"parallelism": {"guidence": 2}}, "parallelism.guidence: unknown field; allowed: guidance, ulysses"),
        ({"guidance_range": [1, 1], "default_guidance": 1}, "negative_prompt"),
        ({"call": {"true_cfg_scale": 1}}, "negative_prompt"),
        ({"call": {"true_cfg_scale": "2"}}, "negative_prompt"),
        ({"flow_shift": 0}, "flow_shift"),
    ],
    ids=str,
)
def test_a_bad_entry_is_named_in_one_line(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps([{**MODEL, **changes}]))
    with pytest.raises(CatalogError) as caught:
        Catalog.load(path)
    model = changes.get("id", "tiny")
    assert str(caught.value).startswith(f"catalog {path}: model {model}: ")
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_family_of_an_earlier_version_is_noted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps([MODEL | {"family": "wan"}]))
    for _ in range(2):
        spec = Catalog.load(path).default
    assert caplog.messages == [f"catalog {path}: model tiny: family no longer has an effect; remove it"]
    assert "family" not in spec.model_dump_json()


@pytest.mark.parametrize("text", ["", "{}", "[", "[]", "null"])
def test_a_file_that_is_no_catalog_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(text)
    with pytest.raises(CatalogError, match=r"catalog\.json") as caught:
        Catalog.load(path)
    assert "\n" not in str(caught.value)


def test_a_catalog_that_is_not_there_or_names_a_model_twice(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    with pytest.raises(CatalogError, match="No such file"):
        Catalog.load(path)
    path.write_text(json.dumps([MODEL, MODEL]))
    with pytest.raises(CatalogError, match="twice"):
        Catalog.load(path)
