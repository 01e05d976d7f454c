"""``/metrics``: what the gateway measures itself, and the jobs as the store counts them.

Every gateway reports the same jobs, since all read one store: queries take the ``max`` of those series, not the sum.
"""

import time
from collections.abc import Iterator
from functools import cache

from adaspa_api.words import TERMINAL, ErrorCode, JobStatus
from adaspa_jobs.counts import Totals
from adaspa_jobs.queue import queue_name
from adaspa_jobs.scripts import StoreUnavailable
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaspa_service.gateway.access import Admin
from adaspa_service.gateway.state import AppState
from adaspa_service.webhooks import deliveries

ENDS = [(status, code) for status in TERMINAL for code in (ErrorCode if status is JobStatus.failed else [""])]
"""Status and error code of each way to end, counted from 0: of a series that begins at 3, ``increase`` sees none."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(request: Request, _: Admin) -> Response:
    """Return the metrics in Prometheus' text format. On a port of their own, they need no key."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


def make_registry(state: AppState) -> CollectorRegistry:
    """Make the metrics of one gateway."""
    registry = CollectorRegistry()
    registry.register(JobCollector(state))
    state.prompt_check.count_in(registry)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class JobCollector(Collector):
    """Collector of the store's counts at each scrape. If the store is away, only ``adaspa_store_up`` 0 is left."""

    def __init__(self, state: AppState) -> None:
        self.state = state

    def describe(self) -> list[Metric]:
        """Return nothing, or the registry would ask the store for the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            found = [*self._loads(), *self._counted(), *self._room()]
        except StoreUnavailable:
            found = []
        yield GaugeMetricFamily("adaspa_store_up", "Whether Redis answers (1) or not (0).", value=bool(found))
        yield from found

    def _loads(self) -> list[Metric]:
        labels = ["model", "priority", "queue"]
        waiting = GaugeMetricFamily("adaspa_jobs_waiting", "Number of jobs in the queue.", labels=labels)
        running = GaugeMetricFamily("adaspa_jobs_running", "Number of jobs that workers are running.", labels=["model"])
        unfinished = GaugeMetricFamily(
            "adaspa_jobs_unfinished", "Number of waiting and running jobs, and so of workers needed.", labels=["model"]
        )
        wanted = GaugeMetricFamily(
            "adaspa_workers_wanted",
            "Desired number of workers. Never below the current number while jobs remain, because an autoscaler "
            "cannot tell which workers are idle.",
            labels=["model"],
        )
        oldest = GaugeMetricFamily(
            "adaspa_queue_oldest_seconds", "Seconds that the oldest job in the queue has waited.", labels=labels
        )
        workers = GaugeMetricFamily("adaspa_workers", "Number of live workers.", labels=["model"])
        for model in self.state.catalog.models:
            load = self.state.store.load(model)
            for priority, queue in load.queues.items():
                where = [model, priority, queue_name(model, priority)]
                waiting.add_metric(where, queue.waiting)
                oldest.add_metric(where, queue.oldest_seconds)
            running.add_metric([model], load.running)
            unfinished.add_metric([model], load.unfinished)
            workers.add_metric([model], load.workers)
            wanted.add_metric([model], max(load.unfinished, load.workers) if load.unfinished else 0)
        return [waiting, running, unfinished, oldest, workers, wanted]

    def _counted(self) -> list[Metric]:
        totals, counts = self.state.store.totals(), self.state.deliveries.counts()
        damaged = GaugeMetricFamily(
            "adaspa_damaged_counters",
            "Number of counters in Redis that are left out because they cannot be read; the log names them.",
            labels=["key"],
        )
        for key, number in (totals.damaged | {"webhook_counts": counts.damaged}).items():
            damaged.add_metric([key], number)
        return [*self._totals(totals), *self._webhooks(counts), damaged]

    def _totals(self, totals: Totals) -> list[Metric]:
        ended = CounterMetricFamily(
            "adaspa_jobs_ended",
            "Number of jobs that ended, by status and error code.",
            labels=["model", "status", "code"],
        )
        models = self.state.catalog.models
        for key, count in ({(model, *end): 0 for model in models for end in ENDS} | totals.ended).items():
            ended.add_metric(key, count)
        lost = CounterMetricFamily(
            "adaspa_leases_lost", "Number of leases that expired because a worker was lost.", labels=["model"]
        )
        for model, count in (dict.fromkeys(models, 0) | totals.leases_lost).items():
            lost.add_metric([model], count)
        return [ended, lost]

    def _room(self) -> list[Metric]:
        room = self.state.store.room()
        if room is None:
            return []
        memory = GaugeMetricFamily(
            "adaspa_redis_memory_bytes",
            "Memory of Redis in bytes, used and limit; a limit of 0 means none.",
            labels=["kind"],
        )
        connections = GaugeMetricFamily(
            "adaspa_redis_connections", "Number of connections to Redis, used and limit.", labels=["kind"]
        )
        for metric, used, limit in (
            (memory, room.memory_bytes, room.memory_limit),
            (connections, room.connections, room.connection_limit),
        ):
            metric.add_metric(["used"], used)
            metric.add_metric(["limit"], limit)
        return [memory, connections]

    def _webhooks(self, counts: deliveries.DeliveryCounts) -> list[Metric]:
        attempts = CounterMetricFamily(
            "adaspa_webhook_attempts", "Number of attempts to deliver a webhook event.", labels=["outcome"]
        )
        for outcome, count in (dict.fromkeys(deliveries.Outcome, 0) | counts.attempts).items():
            attempts.add_metric([outcome], count)
        ended = CounterMetricFamily(
            "adaspa_webhooks_ended", "Number of webhook events delivered, given up, dropped or damaged.", labels=["end"]
        )
        for end, count in (dict.fromkeys(deliveries.ENDS, 0) | counts.ended).items():
            ended.add_metric([end], count)
        overdue = "Seconds by which the next attempt to deliver an event is overdue."
        return [
            attempts,
            ended,
            GaugeMetricFamily(
                "adaspa_webhooks_waiting", "Number of webhook events waiting for delivery.", value=counts.waiting
            ),
            GaugeMetricFamily("adaspa_webhooks_dead", "Number of webhook events given up and kept.", value=counts.dead),
            GaugeMetricFamily("adaspa_webhooks_overdue_seconds", overdue, value=counts.overdue_seconds),
        ]


class RequestMetrics:
    """ASGI middleware that counts and times requests until their answer begins: event streams have no end."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ["method", "route", "status"]
        self.seconds = Histogram(
            "adaspa_http_request_seconds",
            "Seconds from a request until its response begins.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.requests = Counter("adaspa_http_requests", "Number of HTTP requests answered.", labels, registry=registry)
        self._series = cache(self._find_series)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")  # a template: a label per id would never end
                requests, seconds = self._series(scope["method"], route, message["status"])
                requests.inc()
                seconds.observe(time.perf_counter() - start)
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)

    def _find_series(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self.requests.labels(method, route, status), self.seconds.labels(method, route)
