"""docs/api.md leaves no route, field or format out; tests/e2e/test_docs.py runs its examples."""

from pathlib import Path

from adaspa_api.fields import VideoCreate
from adaspa_api.words import ErrorCode
from running_gateway import Service

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_route_and_field_is_there(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            name = f"{method.upper()} {path.removeprefix('/v1')}".replace("{video_id}", "{id}").replace(
                "{model_id}", "{id}"
            )
            assert f"`{name}`" in TEXT, name
    assert [name for name in VideoCreate.model_fields if f"`{name}`" not in TEXT] == []


def test_every_reason_why_a_job_fails_is_there() -> None:
    assert [code for code in ErrorCode if f"| `{code}` |" not in TEXT] == []
