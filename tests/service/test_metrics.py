"""What the gateway counts, as Prometheus reads it."""

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
