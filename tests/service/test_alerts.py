"""The alerts, answered from what a real gateway tells: which of them fire, and for which release."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_text import samples
from promql import Scrape, answer
from running_gateway import Service

RULES = Path(__file__).parents[2] / "helm" / "adaspa-serve" / "files" / "alerts.yaml"
ALERTS = {rule["alert"]: rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
OTHER = {"namespace": "other", "job": "o-gateway"}
BUSY = [
    ("adaspa_jobs_running", {"model": "demo"}, 50.0),
    ("adaspa_webhook_attempts_total", {"outcome": "delivered"}, 100.0),
    ("adaspa_redis_memory_bytes", {"kind": "limit"}, 2.0**40),
    ("adaspa_redis_connections", {"kind": "limit"}, 10.0**6),
    ("adaspa_http_requests_total", {"status": "200"}, 10.0**6),
]
"""What happens in a release that is in order."""
WRONG: dict[str, list[tuple[str, dict[str, str], float]]] = {
    "AdaspaStoreDown": [("adaspa_store_up", {}, 0)],
    "AdaspaRedisFull": [
        ("adaspa_redis_memory_bytes", {"kind": kind}, size) for kind, size in (("used", 9), ("limit", 10))
    ],
    "AdaspaRedisConnections": [
        ("adaspa_redis_connections", {"kind": "used"}, 900),
        ("adaspa_redis_connections", {"kind": "limit"}, 1000),
    ],
    "AdaspaQueueSlow": [("adaspa_queue_oldest_seconds", {"model": "demo", "priority": "interactive"}, 901)],
    "AdaspaNobodyWorks": [("adaspa_jobs_waiting", {"model": "demo", "priority": "bulk"}, 1)],
    "AdaspaJobsFail": [
        ("adaspa_jobs_ended_total", {"model": "demo", "status": "failed", "code": code}, 2)
        for code in ("device_failed", "worker_lost")
    ],
    "AdaspaWorkersLost": [("adaspa_leases_lost_total", {"model": "demo"}, 3)],
    "AdaspaWebhooksBlocked": [("adaspa_webhook_attempts_total", {"outcome": "timed_out"}, 11)],
    "AdaspaGatewayErrors": [("adaspa_http_requests_total", {"status": "503"}, 1000)],
}
"""What each alert is about."""


def scrape(service: Service, target: dict[str, str]) -> Scrape:
    """What Prometheus reads, with the labels of what it reads it from."""
    service.http.get("/videos")
    told = samples(service.http.get("/metrics").text)
    return {(name, labels | frozenset(target.items())): value for (name, labels), value in told.items()}


def changed(before: Scrape, changes: list[tuple[str, dict[str, str], float]]) -> Scrape:
    """The same with other values. A series that only begins has the labels of another one of its name."""
    after = dict(before)
    for name, labels, value in changes:
        known = [dict(each) for metric, each in before if metric == name]
        assert known and labels.keys() <= known[0].keys(), name
        (found, *_) = [each for each in known if labels.items() <= each.items()] or known
        after[name, frozenset((found | labels).items())] = value
    return after


def fired(history: list[Scrape]) -> dict[str, list[Any]]:
    """The labels of each alert that fires."""
    answers = {name: answer(query, history) for name, query in ALERTS.items()}
    return {name: [dict(labels) for labels in found] for name, found in answers.items() if found}


@pytest.mark.parametrize(
    "target", [{"job": "adaspa"}, {"namespace": "video", "job": "r-gateway"}], ids=["compose", "chart"]
)
def test_a_fresh_service_alerts_nobody(service: Service, target: dict[str, str]) -> None:
    first = scrape(service, target)
    assert fired([first]) == fired([first, scrape(service, target)]) == {}


def test_every_alert_has_a_situation_here() -> None:
    assert WRONG.keys() | {"AdaspaNoGateway"} == ALERTS.keys()


@pytest.mark.parametrize("alert", WRONG)
def test_an_alert_fires_for_its_release_alone_whatever_another_one_does(service: Service, alert: str) -> None:
    ours = {"namespace": "video", "job": "r-gateway"}
    before, other = scrape(service, ours), scrape(service, OTHER)
    errors = ("adaspa_http_requests_total", {"status": "503"}, 0.0)
    history = [changed(before, [errors]) | other, changed(before, WRONG[alert]) | changed(other, BUSY)]
    (found,) = fired(history).values()
    assert [each | ours for each in found] == found and list(fired(history)) == [alert]


def test_gateways_that_tell_nothing_are_noticed(service: Service) -> None:
    ours, other = scrape(service, {"namespace": "video", "job": "r-gateway"}), scrape(service, OTHER)
    assert fired([{}]) == {"AdaspaNoGateway": [{}]}, "none was ever read"
    for rest in (other, {}):
        assert fired([ours | rest, rest]) == {"AdaspaNoGateway": [{"namespace": "video", "job": "r-gateway"}]}
