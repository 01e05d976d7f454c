"""Celery queues, two for each model. Job state is ours, and so is the order of the jobs.

A message is a bell: it says that there is work in its queue. Which job that is, the store decides when a worker claims
one: so a job's place is known, owners share the workers fairly, and a bell too many does no harm. One that is lost
costs seconds: workers compare bells and waiting jobs at each heartbeat, and ring for themselves.
"""

from adaspa_api.words import Priority
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from adaspa_jobs.broker import transport_options
from adaspa_jobs.connections import connections
from adaspa_jobs.settings import Settings

TASK = "adaspa.generate"
VISIBILITY_SECONDS = 3600
"""After this long without an acknowledgement Redis gives a message to another worker; leases act much earlier."""


class QueueUnavailable(Exception):
    """Failure to reach the broker."""


def queue_key(model_id: str, priority: Priority) -> str:
    """Return the name of a queue within the store."""
    return f"{model_id}:bulk" if priority is Priority.bulk else model_id


def queue_name(model_id: str, priority: Priority) -> str:
    """Return the Celery queue of a model's jobs of one priority."""
    return f"generate.{queue_key(model_id, priority)}"


def make_celery(settings: Settings) -> Celery:
    """Return the Celery application, configured alike in gateway and workers."""
    app = Celery("adaspa", broker="redis://", set_as_current=False)  # where it is, the transport knows
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_create_missing_queues=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,  # one message of anyone who reaches Redis would end every worker
        broker_connection_retry_on_startup=True,
        broker_transport="adaspa_jobs.broker:Transport",
        broker_transport_options=transport_options(connections(settings.redis_url), VISIBILITY_SECONDS),
        result_backend_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
        visibility_timeout=VISIBILITY_SECONDS,
    )
    return app


def ring(app: Celery, model_id: str, priority: Priority, times: int = 1) -> None:
    """Tell the workers of a queue that it has jobs.

    Raises:
        QueueUnavailable: not all bells were rung.
    """
    try:
        for _ in range(times):
            app.send_task(TASK, queue=queue_name(model_id, priority), ignore_result=True)
    except (OperationalError, RedisError, OSError) as error:
        raise QueueUnavailable(f"cannot reach the queue: {error}") from error
