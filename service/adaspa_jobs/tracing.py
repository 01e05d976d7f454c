"""Tracing by OpenTelemetry, off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or its variant for traces) names a collector.

A trace begins with the HTTP request and goes on with the phases of the job's attempts. They take it from the record,
because the message that made a worker claim the job may have been sent for another one.
The other ``OTEL_*`` variables mean what OpenTelemetry says: sampler, resource attributes, headers.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from adaspa_jobs.settings import SettingsError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(service: str) -> bool:
    """Send this process's spans to the collector, those of Celery messages included; False if none is named.

    The exporter has a thread: in a worker this is called in the child, after the fork.

    Args:
        service: the ``service.name`` of the spans, unless ``OTEL_SERVICE_NAME`` is set.

    Raises:
        SettingsError: a collector is named, but the ``tracing`` extra is not installed.
    """
    named = [name for name in ENDPOINTS if os.environ.get(name)]
    if not named:
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(f"{named[0]}: requires the extra adaspa-serve[tracing] ({error})") from error
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
    return True


def current() -> str:
    """Return the present trace context as a ``traceparent``; empty if there is none."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Spans that begin within the block belong to this trace; to the present one if there is none."""
    if not traceparent:
        yield
        return
    token = context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


def flush() -> None:
    """Send what has not been sent yet: before a process ends that runs no exit handlers."""
    provider = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):  # the SDK's, when tracing is on
        provider.force_flush()
