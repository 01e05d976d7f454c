"""Traces: which one a piece of work belongs to, in its lines of the log too, and whose spans go to a collector."""

import logging
import os
import sys
from functools import partial

import forked
import pytest
from adaspa_jobs import logs, tracing
from adaspa_jobs.settings import SettingsError

TRACE, OTHER = "ab" * 16, "cd" * 16
PARENT, SECOND = f"00-{TRACE}-{'12' * 8}-01", f"00-{OTHER}-{'34' * 8}-01"


def fields(*arguments: object) -> dict[str, object]:
    """What a line of the log says beside its text."""
    record = logging.makeLogRecord({"msg": "%s", "args": arguments})
    assert logs.add_fields(record)
    return {name: getattr(record, name) for name in ("job", "attempt", "trace_id") if hasattr(record, name)}


def test_work_belongs_to_the_trace_that_it_goes_on_with_and_only_for_so_long() -> None:
    assert tracing.current() == "" and fields() == {}
    with tracing.continued(PARENT):
        assert tracing.current() == PARENT and fields() == {"trace_id": TRACE}
        for nothing in (None, ""):
            with tracing.continued(nothing):
                assert tracing.current() == PARENT
        with tracing.continued(SECOND):
            assert tracing.current() == SECOND and fields() == {"trace_id": OTHER}
        assert tracing.current() == PARENT
        with pytest.raises(RuntimeError), tracing.continued(SECOND):
            raise RuntimeError
        assert tracing.current() == PARENT
    assert tracing.current() == ""
    with tracing.continued("no trace"):
        assert tracing.current() == "" and fields() == {}


def test_a_line_speaks_of_the_innermost_work_and_else_of_the_video_that_it_begins_with() -> None:
    video, other = "video_" + "1" * 32, "video_" + "2" * 32
    assert fields(video) == {"job": video} and fields("a", video) == fields(f"{video} x") == fields(5) == {}
    with logs.bound(job=other, attempt=1):
        assert fields(video) == {"job": other, "attempt": 1}
        with logs.bound(attempt=2):
            assert fields() == {"job": other, "attempt": 2}
        with pytest.raises(RuntimeError), logs.bound(job=video):
            raise RuntimeError
        assert fields() == {"job": other, "attempt": 1}
    assert fields() == {}


STARTS = """
from adaspa_jobs import tracing
from opentelemetry import trace
print(tracing.start("gateway"), getattr(trace.get_tracer_provider(), "resource", None) is not None)
if hasattr(trace.get_tracer_provider(), "resource"):
    print(trace.get_tracer_provider().resource.attributes["service.name"])
tracing.flush()
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ["False False"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SERVICE_NAME": "own"}, ["False False"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, ["True True", "gateway"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, ["True True", "gateway"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SERVICE_NAME": "own"}, ["True True", "own"]),
    ],
    ids=str,
)
def test_spans_are_sent_where_a_collector_is_named(variables: dict[str, str], said: list[str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = forked.run(partial(exec, STARTS, {}), ["program"], clean | variables)
    assert ended.returncode == 0 and ended.stdout.splitlines() == said, ended.stderr


def test_a_collector_without_what_sends_to_it_is_a_setting_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"^OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: requires .*serve\[tracing\]"):
        tracing.start("gateway")
