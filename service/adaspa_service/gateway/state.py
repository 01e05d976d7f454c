"""State of the application: what every request handler works with, made once."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Annotated, Generic, Self, TypeVar

from adaspa_jobs.catalog import Catalog
from adaspa_jobs.connections import connections
from adaspa_jobs.counts import Load
from adaspa_jobs.queue import make_celery
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage
from adaspa_jobs.store import JobStore
from adaspa_jobs.times import Timed
from anyio import CapacityLimiter
from celery import Celery
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import SecretStr
from redis.asyncio import Redis as AsyncRedis

from adaspa_service.access.acts import OperatorActs
from adaspa_service.access.caller import Callers
from adaspa_service.access.keys import KeyStore
from adaspa_service.access.links import Links
from adaspa_service.access.open_access import Entrance
from adaspa_service.gateway.feed import Feed
from adaspa_service.gateway.prompt_check import PromptCheck
from adaspa_service.gateway.rounds import Rounds
from adaspa_service.inputs.keep import Inputs
from adaspa_service.inputs.turns import Turns
from adaspa_service.webhooks.addresses import Addresses, Resolve, system_resolve
from adaspa_service.webhooks.deliveries import DeliveryStore

Known = TypeVar("Known")
FOLLOWER_CONNECTIONS = 2
"""One for the rounds, one for the feed."""
CONFIRMATIONS = 40
"""Cancels and deletions whose answers wait for Redis' disk at a time."""
REMOVALS = 8
"""Requests that remove files at a time; what more delete is left to the janitor."""
RECENT_SECONDS = 0.5
"""Seconds for which estimates may use what was last known of a model: many ask at once."""


class Recent(Generic[Known]):
    """Cache of what is known of each model, asked for once in a while however many want to know.

    Args:
        ask: the store's method, such as ``load``.
    """

    def __init__(self, ask: Callable[[str], Known]) -> None:
        self._ask = ask
        self._found: dict[str, tuple[float, Known]] = {}

    def get(self, model: str) -> Known:
        """Return the store's answer, at most RECENT_SECONDS old. Raises StoreUnavailable."""
        known = self._recent(model)
        if known is None:
            asked_at, known = time.monotonic(), self._ask(model)
            self._found[model] = asked_at, known
        return known

    async def soon(self, model: str) -> Known:
        """Return the same value in an event loop."""
        known = self._recent(model)
        return await run_in_threadpool(self.get, model) if known is None else known

    def _recent(self, model: str) -> Known | None:
        asked_at, known = self._found.get(model, (-math.inf, None))
        return known if time.monotonic() - asked_at <= RECENT_SECONDS else None


@dataclass(frozen=True)
class AppState:
    """Settings, and what they lead to. Nothing is connected until it is used."""

    settings: Settings
    catalog: Catalog
    store: JobStore
    loads: Recent[Load]
    times: Recent[dict[str, list[Timed]]]
    keys: KeyStore
    entrance: Entrance
    callers: Callers
    links: Links
    acts: OperatorActs
    open_token: SecretStr
    """Token that it asks for on its own machine as long as there are no keys."""
    rounds: Rounds
    """Shared round trips to Redis, for questions of many requests."""
    follower: AsyncRedis
    """Has the connections of rounds and feed."""
    feed: Feed
    """Event feeds of the jobs that clients follow."""
    storage: ObjectStorage
    confirmations: CapacityLimiter
    """Threads of requests whose answers wait for Redis' disk."""
    removals: CapacityLimiter
    """Threads of requests that remove files: however long storage takes, the others have theirs."""
    celery: Celery
    inputs: Inputs
    turns: Turns
    """Turns of requests with images."""
    deliveries: DeliveryStore
    addresses: Addresses
    """Lookup of webhook hosts."""
    prompt_check: PromptCheck
    started_at: int
    """Unix time of the gateway's start, by this machine's clock."""

    @classmethod
    def of(cls, settings: Settings, resolve: Resolve = system_resolve) -> Self:
        """Raises CatalogError, StorageUnavailable."""
        store = JobStore.from_settings(settings)
        keys, storage = KeyStore(store.client), ObjectStorage(settings.storage_url)
        follower = connections(settings.redis_url).async_client(FOLLOWER_CONNECTIONS)
        entrance, open_token = Entrance(settings, keys), settings.open_token or SecretStr(token_urlsafe())
        return cls(
            settings,
            Catalog.load(settings.catalog, settings.queue_cap),
            store,
            Recent(store.load),
            Recent(store.times),
            keys,
            entrance,
            Callers(settings, keys, entrance, open_token),
            Links(settings, keys),
            OperatorActs(store.client),
            open_token,
            Rounds(follower),
            follower,
            Feed(follower),
            storage,
            CapacityLimiter(CONFIRMATIONS),
            CapacityLimiter(REMOVALS),
            make_celery(settings),
            Inputs(settings, storage, resolve, store.await_inputs),
            Turns(),
            DeliveryStore(store.client),
            Addresses(settings.webhook_networks, resolve),
            PromptCheck(settings),
            int(time.time()),
        )

    async def close(self) -> None:
        """Close the connections to Redis, the broker's among them."""
        await self.follower.aclose()
        await self.prompt_check.close()
        self.store.client.close()
        self.celery.close()
        self.addresses.close()
        self.inputs.close()


async def _of_request(request: Request) -> AppState:  # not in a thread, because it does not wait for anything
    state: AppState = request.app.state.shared
    return state


StateDep = Annotated[AppState, Depends(_of_request)]
