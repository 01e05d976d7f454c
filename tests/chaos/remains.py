"""What is left of jobs once all are gone: nothing may name one, in Redis or in storage."""

import re
from collections.abc import Iterable

from chaos.audit import PREFIX, SERVERS_OWN
from chaos.client import Client
from chaos.clients import Clients
from chaos.fleet import Fleet

JOB = re.compile(rb"video_[0-9a-f]{32}")
LAST_EVENTS = b"adaspa:events:"
"""Whoever follows a job may still read how it ended, for a moment."""


def let_go(fleet: Fleet, job_ids: Iterable[str], clients: Clients) -> None:
    """Let most of the jobs expire, and have their owners delete the others."""
    client = fleet.client()
    owners: dict[str, Client] = {each.tenant: each for each in clients.clients}
    of = {ask.video_id: ask.tenant for ask in clients.asks}
    for number, job_id in enumerate(sorted(job_ids)):
        if number % 8 == 0 and job_id in of:
            owners[of[job_id]].delete(job_id)
        else:
            client.zadd("adaspa:expiry", {job_id: 0})


def remains(fleet: Fleet) -> list[str]:
    """Keys that name a job, and objects."""
    client, found = fleet.client(), list[str]()
    for key in client.scan_iter(count=1000):
        names = JOB.search(key) or JOB.search(client.dump(key) or b"")
        if names and not (key.startswith(LAST_EVENTS) and client.ttl(key) >= 0):
            found.append(key.decode())
    return found + [key.removeprefix(PREFIX) for key in fleet.storage.objects() if SERVERS_OWN not in key]
