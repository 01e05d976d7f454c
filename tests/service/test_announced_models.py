"""Models that only workers know of: served while a worker announces them, refused before and afterwards."""

import json

import pytest
import redis
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.store import JobStore
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


def test_of_workers_with_different_entries_the_one_that_came_last_counts_while_it_lives(store: JobStore) -> None:
    """As while a catalog is changed: clients would else get now the one's answers and now the other's."""
    before = ModelSpec.model_validate(model_spec("/models/tiny"))
    after = before.model_copy(update={"default_steps": before.default_steps + 1})

    def beat(*workers: str) -> ModelSpec:
        for worker in workers:
            store.announce(after if worker.startswith("new") else before, worker)
        (spec,) = store.announced()
        return spec

    assert beat("old-1", "old-2") == before
    assert [beat(*each) for each in (["new-1"], ["old-1"], ["old-2", "new-1"], ["old-1", "old-2"])] == [after] * 4
    store.client.zadd("adaspa:workers:tiny", {"new-1": 0})  # it was silent for long
    assert beat("old-1") == before
    assert beat("new-2", "old-1", "old-2") == after
    store.client.zadd("adaspa:served_until", {"tiny": 0})  # all were
    assert store.announced() == [] and beat("old-1") == before
    store.announce(after, "old-1")  # restarted under its name
    assert beat("old-2") == after


def test_an_announcement_of_another_version_is_left_out(service: Service, valkey: redis.Redis) -> None:
    valkey.hset("adaspa:served", "newer", '{"id": "newer", "invented": 1}')
    valkey.zadd("adaspa:served_until", {"newer": 2e15})
    service.store.announce(ModelSpec.model_validate(model_spec("/models/tiny")), "worker-1")
    until(lambda: served(service) == [*BUILT_IN, "tiny"], "the others are served")


def test_each_announcement_that_cannot_be_read_is_told_once(
    store: JobStore, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("newer", "odd"):
        valkey.hset("adaspa:served", name, json.dumps({"id": name, "invented": 1}))
        valkey.zadd("adaspa:served_until", {name: 2e15})
    for _ in range(3):
        assert store.announced() == []
    assert len([one for one in caplog.records if "which this version cannot read" in one.getMessage()]) == 2


def test_what_a_later_version_adds_to_an_announcement_is_passed_over(service: Service, valkey: redis.Redis) -> None:
    valkey.hset("adaspa:served", "tiny", json.dumps(model_spec("/models/tiny") | {"invented": 1}))
    valkey.zadd("adaspa:served_until", {"tiny": 2e15})
    until(lambda: served(service) == [*BUILT_IN, "tiny"], "the model is served")
