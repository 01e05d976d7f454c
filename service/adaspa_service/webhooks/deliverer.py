"""Delivers the events of ended jobs, from their own queue in Redis.

Every gateway runs one: a thread with an event loop of its own, so neither requests nor the janitor wait for a receiver.
"""

import asyncio
import logging
import random
import threading
import time

from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings

from adaspa_service.webhooks import signing
from adaspa_service.webhooks.addresses import Addresses
from adaspa_service.webhooks.attempt import Result, Sender
from adaspa_service.webhooks.deliveries import Delivery, DeliveryStore, Outcome
from adaspa_service.webhooks.event import VideoEvent

log = logging.getLogger(__name__)

CONCURRENCY = 64
"""Attempts that one gateway makes at a time."""
EVERY_SECONDS = 0.5
"""Between two looks at the queue while nothing happens."""
STOP_SECONDS = 2.0
"""Attempts that still run this long after the gateway was told to stop are broken off, and made again by another."""
JITTER = 0.2
"""Share by which a delay is longer or shorter, so that what failed together does not come back together."""
MAX_ERROR_CHARS = 300
LONGEST_WAIT_SECONDS = 86400.0
"""More than this is not granted to a Retry-After."""


class Deliverer:
    """Thread that delivers, for the length of a ``with`` block.

    Args:
        store: the deliveries.
        settings: for the secrets and the delays between attempts.
        addresses: which may be called.
    """

    def __init__(self, store: DeliveryStore, settings: Settings, addresses: Addresses) -> None:
        self._store, self._settings, self._addresses = store, settings, addresses
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="webhooks", daemon=True)
        self._away = False

    def __enter__(self) -> "Deliverer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    async def _serve(self) -> None:
        sender = Sender(self._addresses)
        running: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            taken = await self._take(CONCURRENCY - len(running))
            running |= {asyncio.create_task(self._deliver(sender, delivery)) for delivery in taken}
            if running:
                _, running = await asyncio.wait(running, timeout=EVERY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.to_thread(self._stopping.wait, EVERY_SECONDS)
        if running:
            _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._addresses.close()

    async def _take(self, room: int) -> list[Delivery]:
        """Deliveries to attempt now; none while Redis is away, which is logged once."""
        if not room:
            return []
        try:
            taken = await asyncio.to_thread(self._store.take, room)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("webhooks: %s", error)
            self._away = True
        except Exception:
            log.exception("webhooks: unexpected error")
        else:
            self._away = False
            return taken
        return []

    async def _deliver(self, sender: Sender, delivery: Delivery) -> None:
        """Make one attempt, and note what came of it."""
        body = delivery.body or ""
        try:
            body = body or VideoEvent.of(delivery.event_id, delivery.type, delivery.job()).model_dump_json()
            secrets = await asyncio.to_thread(signing.secrets_of, delivery.owner, self._settings, self._store)
            headers = signing.headers(delivery.event_id, int(time.time()), body.encode(), secrets)
            result = await sender.send(delivery.url, headers, body.encode(), delivery.owner)
        except asyncio.CancelledError:
            result = Result(Outcome.interrupted, "the gateway stopped")
        except StoreUnavailable as error:
            log.warning("%s: webhook delayed: %s", delivery.job_id, error)
            return
        except Exception as error:
            log.exception("%s: unexpected error in its webhook", delivery.job_id)
            result = Result(Outcome.broken, repr(error))
        try:
            await self._note(delivery, result, body)
        except StoreUnavailable as error:
            log.warning(
                "%s: webhook will be sent again, because its result could not be stored: %s", delivery.job_id, error
            )
        except Exception:
            log.exception("%s: unexpected error in its webhook", delivery.job_id)

    async def _note(self, delivery: Delivery, result: Result, body: str) -> None:
        again_in = self._again_in(delivery, result)
        what = (delivery.job_id, delivery.type, delivery.receiver, delivery.attempts)
        if result.outcome is Outcome.delivered:
            log.info("%s: %s delivered to %s at attempt %d", *what)
        else:
            then = "given up" if again_in is None else f"again in {again_in:.0f} s"
            level = logging.ERROR if again_in is None else logging.WARNING
            log.log(level, "%s: %s not delivered to %s at attempt %d: %s; %s", *what, result.error, then)
        await asyncio.to_thread(
            self._store.note,
            delivery,
            result.outcome,
            error=result.error[:MAX_ERROR_CHARS],
            body=body or None,
            again_in=again_in,
        )

    def _again_in(self, delivery: Delivery, result: Result) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        if result.outcome is Outcome.interrupted:
            return 0.0
        delays = self._settings.webhook_retry_seconds
        if result.outcome in (Outcome.delivered, Outcome.gone) or delivery.attempts > len(delays):
            return None
        delay = delays[delivery.attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        return max(delay, min(result.retry_after or 0.0, LONGEST_WAIT_SECONDS))
