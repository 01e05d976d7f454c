"""The OpenAPI document: an example for each operation, valid by the document's own schemas."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.app import create_app
from jsonschema import Draft202012Validator
from running_gateway import Service

BINARY = ("video/", "image/")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(storage_url="memory:///")).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in (document["paths"] | document["webhooks"]).items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def contents(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every body and answer that has a form: where it is, its type, its description."""
    for name, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} request", kind, content
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                if not kind.startswith(BINARY):
                    yield f"{name} {status}", kind, content


def test_every_body_and_answer_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    checked = 0
    for where, _, content in contents(document):
        examples = [example["value"] for example in content.get("examples", {}).values()] or [content.get("example")]
        validator = Draft202012Validator({**content["schema"], "components": document["components"]})
        for example in examples:
            assert example is not None, f"{where} has no example"
            problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(example)]
            assert problems == [], where
            checked += 1
    assert checked > 60


def test_every_body_is_described_as_json_and_as_a_form(document: dict[str, Any]) -> None:
    """FastAPI does not see it: the gateway reads it by itself."""
    taken = {name for name, operation in operations(document) if "requestBody" in operation}
    assert taken == {
        "post /v1/videos",
        "post /v1/videos/estimate",
        "post /v1/videos/{video_id}/remix",
        *(f"post video.{end}" for end in ("completed", "failed", "cancelled")),  # which receivers take
    }
    for name, operation in operations(document):
        if name in taken and "/videos" in name:
            assert set(operation["requestBody"]["content"]) == {"application/json", "multipart/form-data"}, name
            assert {"408", "413", "415"} <= operation["responses"].keys(), name


def test_every_identifier_in_a_path_has_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] != "path" or parameter["example"], name


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"] and operation["description"] and operation["tags"], name


def test_the_examples_of_requests_are_accepted(service: Service, document: dict[str, Any]) -> None:
    posts = document["paths"]
    body = posts["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["example"]
    video = service.http.post("/v1/videos", json=body).json()
    remix = posts["/v1/videos/{video_id}/remix"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert service.http.post(f"/v1/videos/{video['id']}/remix", json=remix).status_code == 200
    example = posts["/v1/videos"]["post"]["responses"]["200"]["content"]["application/json"]["examples"]["one"]["value"]
    assert set(example) == set(video), "an answer has the fields of its example"


def test_it_is_served(service: Service, document: dict[str, Any]) -> None:
    assert service.http.get("/openapi.json").json() == json.loads(json.dumps(document))
