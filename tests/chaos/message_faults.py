"""Celery's messages, which are bells only: too many, or none."""

import time
from contextlib import suppress

import redis
from adaspa_api.words import Priority
from adaspa_jobs.queue import queue_name, ring

from chaos.fleet import MODEL
from chaos.strikes import Fault, Strike, Striker


class MessagesDoubled(Fault):
    """Bells too many: two for each job that runs."""

    name, weight = "messages doubled", 4

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        ring(site.celery, MODEL, Priority.interactive, 2 * len(strike.jobs))


class MessagesLost(Fault):
    """Every bell that waits is lost, for a while."""

    name, weight = "messages lost", 4

    def strike(self, site: Striker, strike: Strike) -> None:
        until = time.monotonic() + site.random.uniform(0.1, 2)
        while time.monotonic() < until:
            with suppress(redis.RedisError):
                site.redis.delete(*(queue_name(MODEL, priority) for priority in Priority))
            time.sleep(0.01)


OF_MESSAGES: list[Fault] = [MessagesDoubled(), MessagesLost()]
