"""Remixes: another prompt, everything else kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from running_gateway import Service, serving

ASKED = {
    "prompt": "a red circle",
    "negative_prompt": "grey",
    "fps": 11,
    "steps": 7,
    "guidance_scale": 2.5,
    "seed": 2**53 - 1,
    "retained_mass": 0.9,
    "warmup": 2,
    "output_format": "gif",
}
OWN = ("id", "created_at", "prompt", "remixed_from_video_id", "queue_position")
"""What a remix does not share with its source while both wait."""


def kept(video: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in video.items() if name not in OWN}


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_remix_has_another_prompt_and_keeps_the_rest(service: Service, prefix: str) -> None:
    source = service.create(**ASKED)
    response = service.http.post(f"{prefix}/videos/{source['id']}/remix", json={"prompt": "a blue circle"})
    remix = response.json()
    assert response.status_code == 200, remix
    assert (remix["prompt"], remix["remixed_from_video_id"]) == ("a blue circle", source["id"])
    assert kept(remix) == kept(source) and remix["id"] != source["id"]
    assert service.http.get(f"/videos/{remix['id']}").json() == remix
    assert service.messages() == 2


def test_openais_client_remixes_a_finished_video(service: Service) -> None:
    video_id = service.completed(quality="fast", seed=5)
    remix = service.openai().videos.remix(video_id, prompt="a blue circle")
    assert (remix.remixed_from_video_id, remix.status) == (video_id, "queued")
    job = service.store.get(remix.id)
    assert job is not None and (job.params.quality, job.params.seed) == ("fast", 5)
    service.complete(service.claim(remix.id))
    again = service.openai().videos.remix(remix.id, prompt="a green circle")
    assert again.remixed_from_video_id == remix.id


@pytest.mark.parametrize(
    ("body", "param", "allowed"),
    [
        ({}, "prompt", "1 to 300 characters"),
        ({"prompt": " "}, "prompt", "1 to 300 characters"),
        ({"prompt": "x" * 301}, "prompt", "1 to 300 characters"),
        ({"prompt": "x", "seed": 3}, "seed", "allowed: prompt"),
        ({"prompt": "x", "conditions": []}, "conditions", "allowed: prompt"),
        ({"prompt": "x", "input_reference": None}, "input_reference", "allowed: prompt"),
    ],
)
def test_a_bad_remix_is_refused_and_makes_nothing(
    service: Service, body: dict[str, Any], param: str, allowed: str
) -> None:
    source = service.create()["id"]
    response = service.http.post(f"/videos/{source}/remix", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param) and allowed in error["message"]
    assert service.messages() == 1


def test_a_video_that_is_not_there_cannot_be_remixed(service: Service) -> None:
    deleted = service.create()["id"]
    service.http.delete(f"/videos/{deleted}")
    for video_id in (deleted, "video_" + "0" * 32, "nonsense"):
        response = service.http.post(f"/videos/{video_id}/remix", json={"prompt": "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "video_not_found")


def test_a_key_answers_the_same_remix_again_and_refuses_another(service: Service) -> None:
    first, second = service.create()["id"], service.create()["id"]

    def remix(video_id: str, prompt: str) -> Any:
        headers = {"Idempotency-Key": "one"}
        return service.http.post(f"/videos/{video_id}/remix", json={"prompt": prompt}, headers=headers)

    made = remix(first, "a blue circle")
    again = remix(first, "a blue circle")
    assert again.json()["id"] == made.json()["id"] and again.headers["idempotent-replayed"] == "true"
    for other in (remix(second, "a blue circle"), remix(first, "a green circle")):
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_what_the_catalog_no_longer_allows_is_refused(settings: Settings, tmp_path: Path) -> None:
    with serving(settings, tmp_path) as service:
        source = service.create(output_format="gif", sparsity=0.9, negative_prompt="grey")["id"]
    demo = next(iter(Catalog.load(None).models.values())).model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    for changes, param, allowed in (
        ({"output_formats": ["mp4", "webm"]}, "output_format", "allowed: mp4, webm"),
        ({"sparsity_range": [0, 0.8]}, "sparsity", "allowed: 0.0 to 0.8"),
        ({"negative_prompt": False}, "negative_prompt", "allowed: none"),
        ({"id": "other"}, "model", "allowed: other"),
    ):
        catalog.write_text(json.dumps([demo | changes]))
        with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
            error = service.http.post(f"/videos/{source}/remix", json={"prompt": "x"}).json()["error"]
        assert error["param"] == param and allowed in error["message"]


def test_a_remix_is_answered_again_when_its_source_is_gone(service: Service) -> None:
    source = service.create()["id"]
    asked: dict[str, Any] = {"json": {"prompt": "a blue circle"}, "headers": {"Idempotency-Key": "order-1"}}
    first = service.http.post(f"/videos/{source}/remix", **asked)
    assert service.http.delete(f"/videos/{source}").status_code == 200
    again = service.http.post(f"/videos/{source}/remix", **asked)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    asked["json"] = {"prompt": "a green circle"}
    assert service.http.post(f"/videos/{source}/remix", **asked).status_code == 422
    assert service.http.post(f"/videos/{source}/remix", json={"prompt": "a blue circle"}).status_code == 404
