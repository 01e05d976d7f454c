"""``GET /models`` tells as JSON Schema what ``POST /videos`` takes with a model: what the schema allows is accepted,
and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from adaspa_api.fields import VideoCreate
from adaspa_client import Client
from adaspa_command import adaspa
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.params import batch
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from running_gateway import Service, demo_catalog, serving

NEEDED: dict[str, dict[str, Any]] = {"warmup": {"steps": 100}}
"""With what else a field may go up to its limits."""
OTHERS = {
    "input_reference": "https://example.com/a.png",
    "last_frame": "https://example.com/a.png",
    "start_video": "https://example.com/a.mp4",
    "reference_image": "https://example.com/a.png",
    "reference_audio": "https://example.com/a.wav",
    "fit": "cover",
    "audio": True,
    "loras": [{"name": "watercolor"}],
}
"""Values of fields that are no numbers, and that not every model takes."""


def edges(rule: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values that a rule just allows, and such that it just does not."""
    if "enum" in rule:
        return rule["enum"], ["none of them" if rule["type"] == "string" else 0]
    if "minimum" in rule:
        return [rule["minimum"], rule["maximum"]], [rule["minimum"] - 1, rule["maximum"] + 1]
    if "maxLength" in rule and "format" not in rule:
        return ["x" * rule["maxLength"]], ["x" * (rule["maxLength"] + 1)]
    return ([rule["const"]], ["another"]) if "const" in rule else ([], [])


def schema_of(service: Service) -> dict[str, Any]:
    """What the default model takes."""
    schema: dict[str, Any] = service.http.get("/models").json()["data"][0]["parameters"]
    Draft202012Validator.check_schema(schema)
    return schema


def test_what_the_schema_allows_is_accepted_and_nothing_else(service: Service) -> None:
    schema = schema_of(service)
    taken = list(schema["properties"])
    assert taken == [name for name in VideoCreate.model_fields if name in taken]
    allowed = Draft202012Validator(schema)
    tried = 0
    for name, rule in schema["properties"].items():
        good, bad = edges(rule)
        for value in [*good, *bad]:
            body = {"prompt": "a red circle", **NEEDED.get(name, {}), name: value}
            answer = service.http.post("/videos", json=body)
            assert answer.is_success == (value in good) == allowed.is_valid(body), (body, answer.text)
            assert answer.is_success or answer.json()["error"]["param"] == name
            tried += 1
    assert tried > 50
    for name in VideoCreate.model_fields.keys() - schema["properties"].keys():
        answer = service.http.post("/videos", json={"prompt": "a red circle", name: OTHERS.get(name, 2)})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, name, "invalid_value")


def test_it_has_the_defaults_of_a_job_that_names_none(service: Service) -> None:
    job = service.create()
    rules = schema_of(service)["properties"]
    assert {name: job[name] for name, rule in rules.items() if "default" in rule and name != "n"} == {
        name: rule["default"] for name, rule in rules.items() if "default" in rule and name != "n"
    }


def test_a_field_that_a_model_does_not_take_is_left_out(settings: Settings, tmp_path: Path) -> None:
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps([demo | {"negative_prompt": False, "sparsity_range": [0.2, 0.4]}]))
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        schema = schema_of(service)
    rules = schema["properties"]
    assert "negative_prompt" not in rules and schema["required"] == ["prompt"]
    assert (rules["sparsity"]["minimum"], rules["sparsity"]["maximum"]) == (0.2, 0.4)


def test_sound_is_offered_where_the_model_makes_it_and_told_once_it_is_there(
    settings: Settings, tmp_path: Path
) -> None:
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps([demo | {"audio": True}, demo | {"id": "silent"}]))
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        sounds, silent = service.http.get("/models").json()["data"]
        assert sounds["audio"] and sounds["parameters"]["properties"]["audio"]["type"] == "boolean"
        assert not silent["audio"] and "audio" not in silent["parameters"]["properties"]
        for wanted in (None, True, False):
            assert service.create(audio=wanted)["audio"] is wanted
        form = service.http.post("/videos", files={"prompt": (None, "a star"), "audio": (None, "false")}).json()
        assert form["audio"] is False and service.create(output_format="gif")["audio"] is None
        assert service.create(audio=False, output_format="webp")["audio"] is False
        for asked, allowed in (
            ({"audio": True, "output_format": "gif"}, "false, or output_format mp4 or webm"),
            ({"audio": "loud"}, "true, false"),
            ({"audio": 1}, "true, false"),
        ):
            answer = service.http.post("/videos", json={"prompt": "a star", **asked})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "audio")
            assert error["message"].endswith(f"allowed: {allowed}")
        ended = adaspa("generate", "a star", "--no-audio", "--detach", server=service.url)
        with Client(service.url) as client:
            assert client.get(ended.stdout.strip()).audio is False
            done = service.complete(service.claim(client.create("a star", audio=True).id), has_audio=True)
            assert client.get(done.id).has_audio
            assert client.remix(done.id, "a moon").audio


def test_an_animated_image_is_no_faster_than_browsers_play_it(settings: Settings, tmp_path: Path) -> None:
    """A frame of 10 ms or less is shown for 100: whoever asked for 60 frames a second would see fewer than 20."""
    moving = {"fps_range": [1, 120], "output_formats": ["gif", "webp", "webm", "mp4"]}
    quick = {"fps_range": [1, 120], "fps": 60}
    images = {"fps_range": [1, 120], "output_formats": ["gif", "webp"]}
    fast = {"fps_range": [60, 120], "fps": 60, "output_formats": ["webm", "webp"]}
    models = {"moving": moving, "quick": quick, "images": images, "fast": fast}
    with serving(
        settings.model_copy(update={"catalog": demo_catalog(tmp_path / "c.json", models)}),
        tmp_path,
    ) as service:
        for taken in (
            {"fps": 50},
            {"fps": 90, "output_format": "webp"},
            {"fps": 120, "output_format": "mp4"},
            {"model": "quick"},
        ):
            assert service.create(**taken)
        both = "or output_format mp4 or webm"
        for asked, param, most, other in (
            ({"fps": 51}, "fps", "gif at up to 50", f"fps up to 50, {both}"),
            ({"fps": 60, "output_format": "gif"}, "fps", "gif at up to 50", f"fps up to 50, {both}"),
            ({"fps": 91, "output_format": "webp"}, "fps", "webp at up to 90", f"fps up to 90, {both}"),
            ({"model": "quick", "output_format": "gif"}, "output_format", "gif at up to 50", f"fps up to 50, {both}"),
            ({"model": "images", "fps": 60}, "fps", "gif at up to 50", "fps up to 50"),
            (
                {"model": "fast", "fps": 91, "output_format": "webp"},
                "fps",
                "webp at up to 90",
                "fps up to 90, or output_format webm",
            ),
        ):
            answer = service.http.post("/videos", json={"prompt": "a star", **asked})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param) and f"browsers play {most} frames" in error[
                "message"
            ]
            assert error["message"].endswith(f"allowed: {other}")


def test_a_catalog_has_no_default_that_browsers_do_not_play() -> None:
    demo = Catalog.load(None).default.model_dump(mode="json") | {
        "fps_range": [1, 120],
        "output_formats": ["gif", "mp4"],
    }
    assert ModelSpec.model_validate(demo | {"fps": 50}).fps == 50
    with pytest.raises(ValidationError, match=r"the default of fps, 60, is too fast for gif.*allowed: up to 50"):
        ModelSpec.model_validate(demo | {"fps": 60})
    late = {"fps_range": [60, 120], "fps": 60, "output_formats": ["mp4", "gif"]}
    with pytest.raises(ValidationError, match="output_formats: gif plays at up to 50 frames per second"):
        ModelSpec.model_validate(demo | late)


def test_a_value_of_the_wrong_type_is_told_what_its_own_model_allows(settings: Settings, tmp_path: Path) -> None:
    catalog = demo_catalog(tmp_path / "c.json", {"first": {"steps_range": [1, 50]}, "other": {"steps_range": [1, 40]}})
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        for asked, most in (({}, 50), ({"model": "first"}, 50), ({"model": "other"}, 40), ({"model": "none"}, 50)):
            form = {"prompt": "a star", "steps": "many", **asked}
            for send in ({"json": form}, {"files": {name: (None, text) for name, text in form.items()}}):
                error = service.http.post("/videos", **send).json()["error"]  # type: ignore[arg-type]
                assert (error["param"], error["code"]) == ("steps", "invalid_type")
                assert error["message"].endswith(f"allowed: 1 to {most}"), error


@pytest.mark.parametrize(
    ("seconds", "fps", "frames", "wanted"),
    [
        (4, 8, [32, 33], 32),  # of two that fit, the one that the catalog has first
        (4, 8, [33, 32], 33),
        (4, 8, [25, 33], 33),
        (4.125, 8, [33, 34], 33),
        ("4.125", 8, [34, 33], 34),
    ],
)
def test_a_length_is_the_first_of_the_models_that_fits(
    seconds: float | str, fps: int, frames: list[int], wanted: int
) -> None:
    catalog = Catalog.load(None)
    own = {"frames": frames, "default_frames": frames[0]}
    catalog.models["demo"] = catalog.default.model_copy(update=own)
    asked = VideoCreate.model_validate({"prompt": "a star", "seconds": seconds, "fps": fps})
    assert [params.num_frames for params in batch(asked, catalog)] == [wanted]


def test_an_image_is_required_by_a_model_that_does_nothing_without(settings: Settings, tmp_path: Path) -> None:
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    for tasks, required in (
        (["image_to_video", "first_last_frame"], ["prompt", "input_reference"]),
        (["first_last_frame"], ["prompt", "input_reference", "last_frame"]),
        (["text_to_video", "image_to_video"], ["prompt"]),
    ):
        catalog.write_text(json.dumps([demo | {"tasks": tasks}]))
        with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
            schema = schema_of(service)
            without = service.http.post("/videos", json={"prompt": "a red circle"})
        assert schema["required"] == required and without.is_success == (required == ["prompt"])
        assert {"input_reference", "fit"} <= schema["properties"].keys()
