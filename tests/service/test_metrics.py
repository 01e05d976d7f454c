"""What the gateway counts, as Prometheus reads it."""

import pytest
from adaspa_api.words import ErrorCode
from claiming import FAILURE
from prometheus_text import value
from running_gateway import Service


def test_what_has_not_happened_is_counted_as_none(service: Service) -> None:
    """``increase`` and ``rate`` see nothing of the first of a kind if its series begins with it."""
    failed = {"model": "demo", "status": "failed"}
    before = service.http.get("/metrics").text
    for code in ErrorCode:
        assert value(before, "adaspa_jobs_ended_total", **failed, code=code) == 0
    for status in ("completed", "cancelled"):
        assert value(before, "adaspa_jobs_ended_total", model="demo", status=status, code="") == 0
    assert value(before, "adaspa_leases_lost_total", model="demo") == 0
    assert value(before, "adaspa_webhook_attempts_total", outcome="timed_out") == 0
    service.store.fail(service.claim(service.create()["id"]), FAILURE)
    after = service.http.get("/metrics").text
    assert value(after, "adaspa_jobs_ended_total", **failed, code="generation_failed") == 1
    assert after.count('adaspa_jobs_ended_total{code="generation_failed",model="demo"') == 1


@pytest.mark.parametrize(
    ("waiting", "running", "workers", "wanted"),
    [(0, 0, 0, 0), (0, 0, 3, 0), (2, 0, 0, 2), (2, 1, 1, 3), (1, 0, 3, 3), (0, 1, 2, 2), (1, 1, 2, 2)],
)
def test_workers_are_wanted_for_all_jobs_and_none_of_those_that_may_be_busy_is_let_go(
    service: Service, waiting: int, running: int, workers: int, wanted: int
) -> None:
    for _ in range(running):
        service.claim(service.create()["id"])
    for _ in range(waiting):
        service.create()
    spec = service.parts.catalog.models["demo"]
    for number in range(workers):
        service.store.announce(spec, f"announced-{number}")
    told = service.http.get("/metrics").text
    names = {"running": running, "unfinished": waiting + running}
    assert {name: value(told, f"adaspa_jobs_{name}", model="demo") for name in names} == names
    assert value(told, "adaspa_workers", model="demo") == workers
    assert value(told, "adaspa_workers_wanted", model="demo") == wanted
    shown = service.http.get("/models/demo").json()
    assert (shown["waiting"], shown["running"], shown["workers"]) == (waiting, running, workers)
