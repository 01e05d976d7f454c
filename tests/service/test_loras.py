"""LoRA adapters at the gateway: named by a request, settled with the model's own, and refused before the queue."""

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from adaspa_api.fields import VideoCreate
from adaspa_api.loras import Loras, LoraUse
from adaspa_command import adaspa
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.settings import Settings
from adaspa_service.errors import ApiError
from adaspa_service.gateway.params import resolve
from field_tables import DOCS
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from running_gateway import Service, serving

NAMES = {"distilled": "steps", "turbo": "steps", "ink": None, "slow": None}
LORAS = [
    {"name": name, "source": f"{name}.safetensors", "sha256": 64 * letter, "scale": 0.8, "group": group}
    for letter, (name, group) in zip("abcd", NAMES.items(), strict=True)
]
OWN = [{"name": "distilled", "scale": 1.0, "sha256": 64 * "a"}]


def with_loras(path: Path, **changes: Any) -> Path:
    demo = Catalog.load(None).default.model_dump(mode="json")
    own = {"loras": LORAS, "default_loras": [{"name": "distilled", "scale": 1.0}], "max_loras": 3}
    path.write_text(json.dumps([demo | own | changes, demo | {"id": "plain"}]))
    return path


@pytest.fixture
def lora_service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    own = settings.model_copy(update={"catalog": with_loras(tmp_path / "catalog.json")})
    with serving(own, tmp_path) as service:
        yield service


def test_a_job_has_the_adapters_it_asked_for_beside_the_models_own(lora_service: Service) -> None:
    http, prompt = lora_service.http, {"prompt": "a red circle"}
    (model, _) = http.get("/models").json()["data"]
    assert [lora["name"] for lora in model["loras"]] == list(NAMES) and "source" not in model["loras"][0]
    assert (model["default_loras"][0]["name"], model["max_loras"]) == ("distilled", 3)
    assert lora_service.create()["loras"] == OWN
    ink = {"name": "ink", "scale": 0.8, "sha256": 64 * "c"}
    asked = http.post("/videos", json=prompt | {"loras": [{"name": "ink"}]}).json()
    assert asked["loras"] == [*OWN, ink]
    as_form = http.post("/videos", files={"prompt": (None, "a"), "loras": (None, "ink:0.5, distilled:0")}).json()
    assert as_form["loras"] == [ink | {"scale": 0.5}, OWN[0] | {"scale": 0.0}]
    remix = http.post(f"/videos/{asked['id']}/remix", json={"prompt": "a blue circle"}).json()
    assert remix["loras"] == asked["loras"]
    job = lora_service.store.get(asked["id"])
    assert job is not None and job.params.identity != lora_service.store.get(as_form["id"]).params.identity  # type: ignore[union-attr]
    told = adaspa("generate", "a circle", "--lora", "slow:1.5", "--detach", "--json", "--server", lora_service.url)
    assert [each["name"] for each in json.loads(told.stdout)["loras"]] == ["distilled", "slow"]


def test_the_same_idempotency_key_with_another_adapter_is_another_request(lora_service: Service) -> None:
    key = {"Idempotency-Key": "once"}
    bodies = [{"prompt": "a", "loras": [{"name": name}]} for name in ("ink", "ink", "slow")]
    first, again, other = (lora_service.http.post("/videos", json=body, headers=key) for body in bodies)
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("loras", "why"),
    [
        ([{"name": "oil"}], "'oil' does not exist; allowed: distilled, turbo, ink, slow"),
        ([{"name": "ink", "scale": 2.1}], "ink: scale 2.1 is out of range; allowed: 0 to 2"),
        ([{"name": "ink", "scale": -0.1}], "ink: scale -0.1 is out of range; allowed: 0 to 2"),
        ([{"name": "ink"}, {"name": "ink", "scale": 1}], "ink is named twice; allowed: each adapter once"),
        ([{"name": "turbo"}], "distilled and turbo cannot be combined; allowed: one of the two"),
        ("ink,slow,turbo,distilled:0", "4 adapters (1 are the model's defaults); allowed: up to 3"),
        ("ink,slow,turbo", "4 adapters (1 are the model's defaults); allowed: up to 3"),
        ([{"name": "ink", "sha256": 64 * "a"}], "ink: the adapter's file has changed; allowed: no sha256, or cccc"),
        ("ink:strong", "'ink:strong' cannot be read; allowed: NAME or NAME:SCALE, separated by commas"),
        ([{"scale": 1}], "loras[0].name: field required; allowed: up to 3 of distilled (0 to 2), "),
        (7, "allowed: up to 3 of distilled (0 to 2), "),
    ],
)
def test_what_cannot_be_is_refused_before_the_queue(lora_service: Service, loras: Any, why: str) -> None:
    answer = lora_service.http.post("/videos", json={"prompt": "a", "loras": loras})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "loras")
    assert why in error["message"]


@pytest.mark.parametrize("form", [False, True], ids=["JSON", "form"])
@pytest.mark.parametrize(
    ("loras", "why"),
    [
        ([{"name": "ink"}, {"name": "slow", "weight": 1}], "loras[1].weight: extra inputs are not permitted"),
        ([{"name": "ink"}, {"name": "slow", "scale": "high"}], "loras[1].scale: input should be a valid number"),
        ([{"scale": 1}], "loras[0].name: field required"),
        ([{"name": "ink"}, 3], "loras[1]: input should be a valid dictionary"),
        ([{"name": "ink", "a b": 1}], "loras[0]['a b']: extra inputs are not permitted"),
        ([{"name": "ink", "w" * 500: 1}], f"loras[0]['{'w' * 56}...]: extra inputs are not permitted"),
        ([{"name": "ink"}] * 17, "loras: list should have at most 16 items"),
    ],
)
def test_the_entry_at_fault_is_named(lora_service: Service, loras: Any, why: str, form: bool) -> None:
    given: Any = {"files": {"prompt": (None, "a"), "loras": (None, json.dumps(loras))}}
    answer = lora_service.http.post("/videos", **(given if form else {"json": {"prompt": "a", "loras": loras}}))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "loras")
    assert error["message"].startswith(why) and "; allowed: " in error["message"]
    assert "a list of name and scale" in error["message"] and len(error["message"]) < 600


def test_adapters_are_taken_as_their_schema_says(tmp_path: Path) -> None:
    """Of one adapter at a time; a schema does not say which may be combined."""
    catalog = Catalog.load(with_loras(tmp_path / "catalog.json", default_loras=[]))
    spec = catalog.default
    schema = Draft202012Validator(Loras().schema(spec))
    values = {
        "name": ("ink", "slow", "oil", "", None),
        "scale": (0, 0.8, 2, 2.01, -0.01, None),
        "sha256": (64 * "c", 64 * "d", "c", None),
        "weight": (1, None),
    }
    accepted = 0
    for chosen in product(*values.values()):
        use = {name: value for name, value in zip(values, chosen, strict=True) if value is not None}
        try:
            params = resolve(VideoCreate.model_validate({"prompt": "a", "loras": [use]}), catalog)
        except (ValidationError, ApiError):
            assert not schema.is_valid([use]), use
        else:
            (settled,) = params.loras or []
            own = next(lora for lora in spec.loras if lora.name == use["name"])
            assert settled == LoraUse(name=own.name, scale=use.get("scale", own.scale), sha256=own.sha256)
            assert schema.is_valid([use]), use
            accepted += 1
    assert accepted == 2 * 4 * 2
    with pytest.raises(ApiError, match="loras: 4 adapters; allowed: up to 3"):
        resolve(VideoCreate(prompt="a", loras="ink,slow,turbo,distilled"), catalog)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"loras": [*LORAS, LORAS[0]]}, "loras: a name appears twice"),
        ({"loras": [LORAS[0] | {"scale": 3}]}, r"loras: distilled: scale 3.0 is out of range; allowed: 0.0 to 2.0"),
        ({"default_loras": [{"name": "oil"}]}, "default_loras: 'oil' does not exist"),
        (
            {"default_loras": [{"name": "ink"}, {"name": "slow"}], "max_loras": 1},
            "default_loras: 2 adapters.*allowed: up to 1",
        ),
        ({"default_loras": [{"name": "turbo"}, {"name": "distilled"}]}, "turbo and distilled cannot be combined"),
        ({"loras": [LORAS[0] | {"sha256": "abc"}]}, "loras.0.sha256"),
    ],
)
def test_a_catalog_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(CatalogError, match=why):
        Catalog.load(with_loras(tmp_path / "catalog.json", **changes))


def test_the_documents_entry_of_a_few_step_model_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", (DOCS / "loras.md").read_text(), re.M | re.S)
    (entry,) = (found for block in blocks if "id" in (found := json.loads(block)))
    (tmp_path / "catalog.json").write_text(json.dumps([entry]))
    (model,) = Catalog.load(tmp_path / "catalog.json").models.values()
    params = resolve(VideoCreate(prompt="a"), Catalog([model]))
    assert (params.steps, params.guidance_scale) == (4, 1.0)
    assert [use.name for use in params.loras or []] == ["four-steps"]
