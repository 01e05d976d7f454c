"""Models that only workers know of: served while a worker announces them, refused before and afterwards."""

import json

import redis
from adaspa_jobs.catalog import ModelSpec
from running_gateway import Service
from tiny_wan import SIZE, model_spec
from waiting import until

BUILT_IN = ["demo", "demo-image"]


def served(service: Service) -> list[str]:
    return [model["id"] for model in service.http.get("/models").json()["data"]]


def test_the_catalog_follows_what_workers_announce(service: Service, valkey: redis.Redis) -> None:
    request = {"prompt": "a red circle", "model": "tiny", "size": f"{SIZE}x{SIZE}"}
    assert served(service) == BUILT_IN
    refused = service.http.post("/videos", json=request)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "model_not_found"
    service.store.announce(ModelSpec.model_validate(model_spec("/models/tiny")), "worker-1")
    until(lambda: served(service) == [*BUILT_IN, "tiny"], "the gateway serves the announced model")
    assert service.http.post("/videos", json=request).status_code == 200
    valkey.zadd("adaspa:served_until", {"tiny": 0})  # its last worker has been silent for long
    until(lambda: served(service) == BUILT_IN, "the model is gone")
    assert service.http.post("/videos", json=request).status_code == 400


def test_the_gateways_own_entry_wins(service: Service) -> None:
    changed = service.parts.catalog.default.model_copy(update={"default_steps": 3})
    service.store.announce(changed, "worker-1")
    service.store.announce(ModelSpec.model_validate(model_spec("/models/tiny")), "worker-1")
    until(lambda: "tiny" in served(service), "the announcements are read")
    assert service.http.get("/models/demo").json()["default_steps"] != 3


def test_an_announcement_of_another_version_is_left_out(service: Service, valkey: redis.Redis) -> None:
    valkey.hset("adaspa:served", "newer", '{"id": "newer", "invented": 1}')
    valkey.zadd("adaspa:served_until", {"newer": 2e15})
    service.store.announce(ModelSpec.model_validate(model_spec("/models/tiny")), "worker-1")
    until(lambda: served(service) == [*BUILT_IN, "tiny"], "the others are served")


def test_what_a_later_version_adds_to_an_announcement_is_passed_over(service: Service, valkey: redis.Redis) -> None:
    valkey.hset("adaspa:served", "tiny", json.dumps(model_spec("/models/tiny") | {"invented": 1}))
    valkey.zadd("adaspa:served_until", {"tiny": 2e15})
    until(lambda: served(service) == [*BUILT_IN, "tiny"], "the model is served")
