"""Fields that a model takes only if its catalog entry says so: they go with a job wherever it goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_api.fields import VideoCreate, rows
from adaspa_command import adaspa
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from running_gateway import Service, serving

FIELDS = ["flow_shift", "guidance_scale_2"]


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway whose default model takes them, from 1 to 9."""
    folder = tmp_path_factory.mktemp("gateway")
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = folder / "catalog.json"
    catalog.write_text(json.dumps([demo | {f"{name}_range": [1, 9] for name in FIELDS}]))
    own: dict[str, Any] = {"catalog": catalog, "storage_url": str(folder / "objects"), "open_access": True}
    with serving(Settings(redis_url=f"unix://{valkey_socket}?db=0", **own), folder) as running:
        yield running


@pytest.fixture
def service(gateway: Service, valkey: redis.Redis) -> Iterator[Service]:
    """The gateway with an empty store."""
    yield gateway
    gateway.settle()  # no bell is left for the next test


@pytest.mark.parametrize("name", FIELDS)
def test_it_is_in_the_job_its_record_and_its_remix(service: Service, name: str) -> None:
    video = service.create(**{name: 4.5})
    job = service.store.get(video["id"])
    assert job is not None and video[name] == getattr(job.params, name) == 4.5
    remix = service.http.post(f"/videos/{video['id']}/remix", json={"prompt": "a blue star"}).json()
    assert (remix[name], remix["prompt"]) == (4.5, "a blue star")
    assert service.create()[name] is None
    form = service.http.post("/videos", files={"prompt": (None, "a red circle"), name: (None, "2")})
    assert form.json()[name] == 2


@pytest.mark.parametrize("name", FIELDS)
def test_it_is_a_part_of_what_was_asked(service: Service, name: str) -> None:
    def post(**asked: Any) -> Any:
        return service.http.post("/videos", json={"prompt": "x", **asked}, headers={"Idempotency-Key": "order-1"})

    first = post(**{name: 4.5})
    assert post(**{name: 4.5}).json()["id"] == first.json()["id"]
    assert [post(**asked).status_code for asked in ({name: 5}, {})] == [422, 422]


@pytest.mark.parametrize("name", FIELDS)
def test_what_the_catalog_does_not_allow_is_refused(service: Service, name: str) -> None:
    rule = service.http.get("/models").json()["data"][0]["parameters"]["properties"][name]
    assert (rule["type"], rule["minimum"], rule["maximum"]) == ("number", 1, 9)
    for value in (0.5, 9.5):
        answer = service.http.post("/videos", json={"prompt": "x", name: value})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, name) and "allowed: 1.0 to 9.0" in error["message"]


@pytest.mark.parametrize("name", FIELDS)
def test_it_is_an_option_of_the_command_line(service: Service, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    made = adaspa("generate", "a red circle", "--detach", "--json", option, 4.5, server=service.url)
    video = json.loads(made.stdout)
    assert video[name] == 4.5, made.stderr
    shown = adaspa("show", video["id"], server=service.url).stdout
    assert f"{rows(VideoCreate)[name].label.lower()}\t4.5" in shown


def test_a_second_guidance_without_the_first_is_refused(service: Service) -> None:
    answer = service.http.post("/videos", json={"prompt": "x", "guidance_scale": 1, "guidance_scale_2": 3})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "guidance_scale_2")
    assert "has no effect with guidance_scale 1; allowed: none, or a guidance_scale over 1" in error["message"]
