"""Logs: one JSON object a line for machines, plain lines for people, both with the job and attempt they speak of."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from adaspa_jobs.settings import Settings
from adaspa_jobs.store import VIDEO_ID

AUDIT = "adaspa.audit"
"""Name of the audit log, which is written at every log level."""
HTTP_CALLS = "httpcore"
"""Logger of the client for webhooks and images. At debug it writes every header, and redirects contain secrets."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_bound: ContextVar[Mapping[str, Any] | None] = ContextVar("bound", default=None)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every log line of the enclosed work carries these fields."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure(settings: Settings) -> None:
    """Send this process's log to standard error, as the settings say."""
    text = sys.stderr.isatty() if settings.log_format == "auto" else settings.log_format == "text"
    handler = logging.StreamHandler()
    handler.addFilter(add_fields)
    names = {"levelname": "level", "name": "logger"}
    json = JsonFormatter(["levelname", "name", "message"], rename_fields=names, timestamp="time")
    handler.setFormatter(logging.Formatter(TEXT) if text else json)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    logging.getLogger(HTTP_CALLS).setLevel(logging.INFO)
    logging.captureWarnings(True)


def add_fields(record: logging.LogRecord) -> bool:
    """Give a line its job, the attempt and the trace: from what is bound, or else the video that it begins with."""
    first = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(first, str) and VIDEO_ID.fullmatch(first):
        record.job = first
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        record.trace_id = trace.format_trace_id(span.trace_id)
    record.__dict__.update(_bound.get() or {})
    return True
