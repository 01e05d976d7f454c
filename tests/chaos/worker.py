"""A worker's Celery application with the stand-in for its model, and a broker that redelivers within seconds."""

from functools import lru_cache

from adaspa_worker import app as worker
from adaspa_worker.app import app

from chaos.stub_engine import StubEngine


@lru_cache(maxsize=1)
def engine(_: str) -> StubEngine:
    """The stand-in, for every model."""
    return StubEngine()


worker.engine = engine  # type: ignore[assignment]
fast_redelivery = {
    "visibility_timeout": 4,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,  # kombu's lock on the sweep: a worker that dies while it sweeps keeps it for so long
}
app.conf.update(broker_transport_options=app.conf.broker_transport_options | fast_redelivery, visibility_timeout=4)
