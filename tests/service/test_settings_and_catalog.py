"""Settings and catalog: what they hold, and what they say of a value that cannot be used."""

import json
import traceback
from base64 import b64encode
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from adaspa_api.words import Kind, OutputFormat, Quality, Task
from adaspa_jobs.catalog import Catalog, CatalogError, ModelSpec
from adaspa_jobs.settings import Settings, SettingsError, get_settings
from adaspa_jobs.step_cache import StepCache
from pydantic import SecretStr, ValidationError

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


def encoded(size: int) -> str:
    """Base64 of this many bytes."""
    return b64encode(bytes(size)).decode()


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


BOUNDS: dict[str, tuple[list[str], list[str]]] = {
    "checkpoint_seconds": (["0", "30.5"], ["-0.1"]),
    "checkpoint_steps": (["1"], ["0", "1.5"]),
    "upload_retry_seconds": (["0"], ["-1"]),
    "visible_mark": (["", "m" * 60], ["m" * 61]),
    "worker_memory_bytes": (["1"], ["0"]),
    "host": (["::"], [""]),
    "port": (["1", "65535"], ["0", "65536"]),
    "metrics_port": (["1", "65535"], ["0", "65536"]),
    "max_connections": (["1"], ["0"]),
    "keep_alive_seconds": (["1"], ["0"]),
    "drain_seconds": (["0"], ["-1"]),
    "lease_seconds": (["0.1"], ["0.09"]),
    "max_attempts": (["1"], ["0"]),
    "queue_cap": (["1"], ["0"]),
    "queue_seconds": (["1"], ["0"]),
    "unserved_seconds": (["1"], ["0"]),
    "time_limit_seconds": (["1"], ["0"]),
    "bulk_share": (["0.01", "0.99"], ["0", "1"]),
    "result_ttl_seconds": (["1", "3153600000"], ["0", "3153600001"]),
    "image_bytes": (["1"], ["0"]),
    "image_pixels": (["1", "178000000"], ["0", "178000001"]),
    "video_bytes": (["1"], ["0"]),
    "video_pixels": (["1", "67000000"], ["0", "67000001"]),
    "video_frames": (["2"], ["1"]),
    "audio_bytes": (["1"], ["0"]),
    "prompt_check_seconds": (["0.1"], ["0"]),
    "webhook_retry_seconds": (["0.1", "5, 30,"], ["0", "5,0", "5,-1", "inf", "5,nan"]),
    "open_token": (["t" * 16, "A-_9" * 4], ["t" * 15, "t" * 16 + "/", "t" * 16 + "\n"]),
    "bootstrap_key": (["k" * 32], ["k" * 31, "k" * 32 + " k", "k" * 32 + "ü"]),
    "signing_secret": (["s" * 32], ["s" * 31]),
    "prompt_check_token": (["t"], ["t t", "t\n", "ü"]),
    "webhook_secrets": (
        [f"whsec_{encoded(size)}" for size in (24, 64)],
        [*(f"whsec_{encoded(size)}" for size in (23, 65)), encoded(24), f"x whsec_{encoded(24)}", "whsec_a"],
    ),
    "cors_origins": (
        ["https://a.example", "http://a.example:8080, https://b.example,"],
        [*("https://a.example/", "https://a.example/x", "ftp://a.example", "a.example", "https://", "*")],
    ),
    "allowed_hosts": (
        ["a.example", "*.a.example, localhost", "*"],
        ["a.example:80", "https://a.example", "a.*.example", "**", ".a", "a..b", "a b"],
    ),
    "image_networks": (["10.0.0.0/8, fd00::/8"], ["10.0.0.0/33", "10.0.0.1/8", "a.example"]),
    "webhook_networks": (["10.0.0.0/8, fd00::/8"], ["10.0.0.0/33", "10.0.0.1/8", "a.example"]),
}
"""By setting: what it takes, and what it does not."""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_setting_takes_what_is_within_its_bounds_alone(name: str) -> None:
    takes, refuses = BOUNDS[name]
    for value in takes:
        Settings.model_validate({name: value})
    for value in refuses:
        with pytest.raises(ValidationError):
            Settings.model_validate({name: value})


def test_no_setting_in_seconds_is_infinite_or_no_number() -> None:
    names = [name for name, field in Settings.model_fields.items() if field.annotation is float]
    assert len(names) > 5
    for name in names:
        for value in ("inf", "-inf", "nan"):
            with pytest.raises(ValidationError):
                Settings.model_validate({name: value})


def test_a_bad_secret_is_named_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, field in Settings.model_fields.items() if SecretStr.__name__ in str(field.annotation)]
    assert len(names) > 4
    for name in (*names, "redis_url"):
        monkeypatch.setenv(f"ADASPA_{name.upper()}", "hunter2 ü")
        get_settings.cache_clear()
        with pytest.raises(SettingsError, match=f"ADASPA_{name.upper()}: ") as caught:
            get_settings()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        monkeypatch.delenv(f"ADASPA_{name.upper()}")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"provenance_certificate": "/chain.pem"}, "ADASPA_PROVENANCE_KEY"),
        ({"provenance_key": "/key.pem"}, "ADASPA_PROVENANCE_CERTIFICATE"),
        ({"open_access": "true", "bootstrap_key": "k" * 40}, "ADASPA_BOOTSTRAP_KEY has no effect"),
    ],
)
def test_settings_that_need_or_exclude_each_other(
    settings: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"ADASPA_{name.upper()}", value)
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match=named):
        get_settings()


def test_settings_that_belong_together_are_taken() -> None:
    Settings.model_validate({"provenance_certificate": "/chain.pem", "provenance_key": "/key.pem"})
    Settings.model_validate({"open_access": False, "bootstrap_key": "k" * 40})


def test_each_kind_of_file_has_its_own_limit() -> None:
    settings = Settings.model_validate({"image_bytes": 1, "video_bytes": 2, "audio_bytes": 3})
    assert settings.input_bytes == {Kind.image: 1, Kind.video: 2, Kind.audio: 3}


def test_settings_come_from_the_environment_and_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADASPA_PORT", "9000")
    get_settings.cache_clear()
    settings = get_settings()
    assert settings.port == 9000 and settings.storage_url == "./data/objects" and get_settings() is settings


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


def test_a_negative_prompt_has_an_effect_where_guidance_has() -> None:
    for changes, scale, heeds in (
        ({}, 4.0, True),
        ({}, 1.0, False),
        ({}, 1.5, True),
        ({"negative_prompt": False}, 4.0, False),
        ({"call": {"true_cfg_scale": 2}}, 1.0, True),
        ({"call": {"true_cfg_scale": 1.0}, "negative_prompt": False}, 4.0, False),
    ):
        assert ModelSpec.model_validate(MODEL | changes).heeds_negative(scale) is heeds, (changes, scale)


def test_a_video_has_sound_unless_its_model_its_format_or_its_request_has_none(params: Callable[..., Any]) -> None:
    for model in (True, False):
        spec = ModelSpec.model_validate(MODEL | {"audio": model})
        for form in OutputFormat:
            for asked in (None, True, False):
                found = spec.gives_sound(params(output_format=form, audio=asked))
                assert found is (model and form in ("mp4", "webm") and asked is not False), (model, form, asked)


def test_what_a_request_costs_is_its_share_of_the_usual_work(params: Callable[..., Any]) -> None:
    spec = ModelSpec.model_validate(MODEL)
    usual = {"width": 64, "height": 64, "num_frames": 17, "steps": 10}
    assert spec.cost(params(**usual)) == 1
    for changes, cost in (({"width": 128}, 2), ({"height": 128}, 2), ({"num_frames": 34}, 2), ({"steps": 5}, 0.5)):
        assert spec.cost(params(**usual | changes)) == cost, changes


@pytest.mark.parametrize(("own", "general", "limit"), [(None, 60.0, 60.0), (10, 60.0, 10), (90, 60.0, 60.0)])
def test_the_lower_limit_of_a_jobs_time_applies(own: int | None, general: float, limit: float) -> None:
    assert ModelSpec.model_validate(MODEL | {"time_limit_seconds": own}).limit(general) == limit


def test_a_batch_is_no_larger_than_its_queue_whoever_names_the_model() -> None:
    """Nor is a model served for longer than it is announced."""
    own, other = (ModelSpec.model_validate(MODEL | {"id": name, "max_batch": 8}) for name in ("own", "other"))
    catalog = Catalog([own], queue_cap=3)
    catalog.follow([other])
    assert {name: spec.max_batch for name, spec in catalog.models.items()} == {"own": 3, "other": 3}
    catalog.follow([own.model_copy(update={"default_steps": 1})])
    assert list(catalog.models) == ["own"] and catalog.default.default_steps == 10
    assert Catalog([own]).default.max_batch == 8


TASKS = {
    "text_to_video": (False, False),
    "image_to_video": (True, True),
    "first_last_frame": (True, True),
    "video_continuation": (True, True),
    "reference_to_video": (False, True),
    "reference_audio_to_video": (False, True),
}
"""By task: whether its input is part of the frames, and whether it has one."""


def test_what_a_model_takes_and_what_it_cannot_do_without() -> None:
    assert {*TASKS} == {*Task}
    for first, (takes, needs) in TASKS.items():
        for second, (also, too) in TASKS.items():
            spec = ModelSpec.model_validate(MODEL | {"tasks": [first, second]})
            assert (spec.takes_images, spec.needs_image) == (takes or also, needs and too), (first, second)


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


SMALL: dict[str, dict[str, Any]] = {
    "none": {},
    "storage_dtype": {"storage_dtype": "float8_e4m3fn"},
    "int8": {"quantization": "int8"},
    "float8": {"quantization": "float8"},
    "gguf": {"gguf": ["a.gguf"]},
}
"""Ways to make a transformer's weights smaller."""
LORA = {"name": "ink", "source": "/ink.safetensors", "sha256": "ab" * 32}


def go_together(small: str, dtype: str | None, on: set[str]) -> bool:
    """Whether a catalog's entry may have all of these, by the descriptions of its fields."""
    if "group_offload" in on and (small != "none" or len(on) > 1):
        return False
    if "gpus" in on and small != "none":
        return False
    if small == "float8":
        return "compile" in on and dtype in (None, "bfloat16")
    if small == "int8":
        return "compile" not in on
    return small == "none" or not {"compile", "loras"} & on


def test_ways_to_fit_a_model_go_together_as_their_descriptions_say() -> None:
    named = ("group_offload", "cpu_offload", "compile", "loras", "gpus", "cache")
    for small, memory in SMALL.items():
        for dtype in (None, "bfloat16", "float16", "float32"):
            for which in product((False, True), repeat=len(named)):
                on = {name for name, each in zip(named, which, strict=True) if each}
                entry = MODEL | {
                    "memory": memory | {"dtype": dtype} | {name: True for name in named[:2] if name in on},
                    "compile": "compile" in on,
                    "loras": [LORA] if "loras" in on else [],
                    "gpus": 2 if "gpus" in on else 1,
                    "cache": {"kind": "sea", "threshold": 0.1} if "cache" in on else None,
                }
                try:
                    ModelSpec.model_validate(entry)
                except ValidationError:
                    assert not go_together(small, dtype, on), (small, dtype, on)
                else:
                    assert go_together(small, dtype, on), (small, dtype, on)
    for one, other in combinations(("storage_dtype", "int8", "gguf"), 2):
        with pytest.raises(ValidationError, match="allowed: one of them"):
            ModelSpec.model_validate(MODEL | {"memory": SMALL[one] | SMALL[other]})


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"gpus": 4, "parallelism": {"guidance": 2, "ulysses": 2}}, True),
        ({"gpus": 4, "parallelism": {"ulysses": 4}}, True),
        ({"gpus": 4, "parallelism": {"guidance": 2}}, False),
        ({"gpus": 1, "parallelism": {"ulysses": 2}}, False),
        ({"fps_range": [8, 8]}, True),
        ({"fps_range": [9, 30]}, False),
        ({"fps_range": [1, 7]}, False),
        ({"steps_range": [10, 10]}, True),
        ({"guidance_range": [0, 10]}, True),
        ({"guidance_range": [-1, 10]}, False),
        ({"guidance_range": [4.0, 4.0]}, True),
        ({"warmup_range": [0.5, 0.5]}, True),
        ({"warmup_range": [0.5, 0.4]}, False),
        ({"warmup_range": [0, 1.1]}, False),
        ({"flow_shift_range": [1, 9]}, True),
        ({"flow_shift_range": [9, 1]}, False),
        ({"loras": [LORA, LORA | {"name": "wash"}]}, True),
        ({"loras": [LORA, LORA]}, False),
        ({"loras": [LORA | {"scale": 2.0}]}, True),
        ({"loras": [LORA | {"scale": 2.1}]}, False),
        ({"loras": [LORA | {"scale": -0.5, "scale_range": [-1, 0]}]}, True),
        ({"loras": [LORA | {"sha256": "AB" * 32}]}, False),
        ({"loras": [LORA], "default_loras": [{"name": "ink"}]}, True),
        ({"loras": [LORA], "default_loras": [{"name": "wash"}]}, False),
        ({"bulk_above": 1}, True),
        ({"bulk_above": 0.9}, False),
        ({"max_batch": 1}, True),
        ({"max_batch": 0}, False),
        ({"start_frames": 2}, True),
        ({"start_frames": 1}, False),
        ({"time_limit_seconds": 1}, True),
        ({"time_limit_seconds": 0}, False),
        ({"frames": [1], "default_frames": 1}, True),
        ({"frames": [0], "default_frames": 0}, False),
        ({"tasks": []}, False),
        ({"qualities": []}, False),
        ({"output_formats": []}, False),
        ({"id": "a" * 64}, True),
        ({"id": "a" * 65}, False),
        ({"id": "-a"}, False),
        ({"sizes": ["99999x10"]}, True),
        ({"sizes": ["100000x10"]}, False),
        ({"sizes": ["64x9"]}, False),
    ],
    ids=str,
)
def test_an_entry_is_within_its_own_limits(changes: dict[str, Any], fits: bool) -> None:
    if fits:
        ModelSpec.model_validate(MODEL | changes)
    else:
        with pytest.raises(ValidationError):
            ModelSpec.model_validate(MODEL | changes)


CACHES: dict[str, tuple[set[str], set[str]]] = {
    "first_block": ({"threshold"}, set()),
    "mag": ({"threshold", "ratios"}, {"first_share", "in_a_row"}),
    "sea": ({"threshold"}, {"first_share", "in_a_row"}),
    "taylor_seer": ({"interval"}, {"first_share"}),
}
"""By kind of step cache: what it needs, and what it takes."""
CACHED = {"threshold": 0.1, "interval": 2, "ratios": [1.0, 0.9], "first_share": 0.0, "in_a_row": 1}


@pytest.mark.parametrize("kind", CACHES)
def test_a_step_cache_has_what_its_kind_needs_and_no_more(kind: str) -> None:
    needs, takes = CACHES[kind]
    for which in product((False, True), repeat=len(CACHED)):
        given = {name for name, each in zip(CACHED, which, strict=True) if each}
        made = {"kind": kind, **{name: CACHED[name] for name in given}}
        if needs <= given <= needs | takes:
            StepCache.model_validate(made)
        else:
            named = given - needs - takes or needs - given
            with pytest.raises(ValidationError, match=f"{kind} (does not take|needs) {', '.join(sorted(named))}"):
                StepCache.model_validate(made)
    for name, value in {"threshold": 0, "interval": 1, "ratios": [1.0], "first_share": 1, "in_a_row": 0}.items():
        with pytest.raises(ValidationError):
            StepCache.model_validate({"kind": kind, **{each: CACHED[each] for each in needs}, name: value})


def test_a_step_cache_serves_the_jobs_of_its_presets_and_none_that_is_exact() -> None:
    every = StepCache(kind="sea", threshold=0.1)
    fast = StepCache(kind="sea", threshold=0.1, presets=[Quality.fast])
    for quality in (None, *Quality):
        assert every.serves(quality) is (quality is not Quality.exact)
        assert fast.serves(quality) is (quality is Quality.fast)
    for presets in ([], ["exact"], ["fast", "exact"]):
        with pytest.raises(ValidationError):
            StepCache.model_validate({"kind": "sea", "threshold": 0.1, "presets": presets})
