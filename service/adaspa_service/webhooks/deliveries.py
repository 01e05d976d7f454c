"""Webhook deliveries in Redis: an ended job's event on its way to the job's ``webhook_url``.

The record is made by the script that ends the job (``finish`` in ``lua/_shared.lua``), so no ended job is without its
event. A job ends once, so its event has one id, whatever happens to the attempts at delivering it. After a power cut
that undid its end it may end in another way, and that is another event.
"""

import logging
import secrets as random
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from adaspa_jobs.counters import WRONG_TYPE, Counters
from adaspa_jobs.job import Job
from adaspa_jobs.record import job_from_hash
from adaspa_jobs.scripts import PREFIX, Scripts, reaching
from adaspa_jobs.settings import SECRET_PREFIX
from pydantic_core import from_json
from redis import Redis
from redis.exceptions import ResponseError

log = logging.getLogger(__name__)

ATTEMPT_SECONDS = 30.0
"""An attempt whose outcome is not noted by then was lost with its process, and another is made."""
DEAD_SECONDS = 7 * 86400.0
"""Seconds for which a delivery that was given up is kept."""
OWNER_ATTEMPTS = 32
"""Attempts that are made for one owner at a time, by all gateways together."""
KEPT = 10_000
"""Deliveries that are kept, waiting and dead."""

State = Literal["waiting", "dead"]
STATES: tuple[State, ...] = ("waiting", "dead")
ENDS = ("delivered", "dead", "dropped", "damaged")
"""Ends of an event: delivered, given up, beyond the number kept, given up because its record was gone or damaged."""


class Outcome(StrEnum):
    """Outcome of one attempt."""

    delivered = "delivered"
    """Answer 2xx of the receiver."""
    rejected = "rejected"
    """Answer of the receiver with another status."""
    gone = "gone"
    """Answer 410 of the receiver: it wants no more."""
    unreachable = "unreachable"
    """No connection, or no HTTP on it."""
    timed_out = "timed_out"
    forbidden = "forbidden"
    """Host of the receiver without any address that may be called."""
    interrupted = "interrupted"
    """Stop of the gateway meanwhile."""
    broken = "broken"
    """A mistake of ours; the gateway's log has the traceback."""


@dataclass(frozen=True)
class Delivery:
    """An event that has not been delivered. Times are Unix seconds."""

    job_id: str
    type: str
    """``video.completed``, ``video.failed`` or ``video.cancelled``."""
    owner: str
    """Whose job it was."""
    url: str
    lane: str
    """One attempt is made at a time in a lane; a receiver has four."""
    attempts: int
    """Number of attempts, including the present one."""
    record: str | None
    """Record of the job as it ended, until ``body`` is made of it."""
    body: str | None
    error: str
    """Error of the last attempt; empty before it."""
    tried_at: int | None
    over_ms: int = 0
    """End of the present attempt's time in Unix milliseconds; only ``take`` gives it."""

    @property
    def event_id(self) -> str:
        """Id of the event, the same for every attempt; another end of the same job has another."""
        return f"evt_{self.job_id.removeprefix('video_')}_{self.type.removeprefix('video.')}"

    def job(self) -> Job:
        """Read the job as it ended. Only if there is no ``body``."""
        pairs = [part.encode() for part in from_json(self.record or "[]")]
        return job_from_hash(self.job_id, dict(zip(pairs[::2], pairs[1::2], strict=True)))

    @property
    def receiver(self) -> str:
        """Host and port; the rest of a URL may hold a token."""
        return self.lane.rpartition("#")[0]


class DeliveryDamaged(Exception):
    """A delivery whose record cannot be read.

    Args:
        job_id: its job.
        problem: what is wrong with the record.
    """

    def __init__(self, job_id: str, problem: str) -> None:
        super().__init__(f"{job_id}: the record of its event in Redis is damaged: {problem}")
        self.job_id, self.problem = job_id, problem


@dataclass(frozen=True)
class DeliveryCounts:
    """Deliveries now, and since the store was made."""

    waiting: int
    dead: int
    overdue_seconds: float
    """Seconds for which the next attempt has been due; 0 if none is."""
    attempts: dict[str, int]
    """Number of attempts by outcome."""
    ended: dict[str, int]
    """Number of events by end, one of ENDS."""
    damaged: int
    """Number of these counters that are left out because they cannot be read."""


class DeliveryStore:
    """Deliveries and signing secrets. All methods raise StoreUnavailable when Redis cannot be used.

    Args:
        client: of one Redis or Valkey server.
        attempt_seconds: an attempt is lost after this.
        dead_seconds: how long a dead delivery is kept.
        kept: deliveries that are kept.
        owner_attempts: attempts that are made for one owner at a time.
    """

    def __init__(
        self,
        client: Redis,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        dead_seconds: float = DEAD_SECONDS,
        kept: int = KEPT,
        owner_attempts: int = OWNER_ATTEMPTS,
    ) -> None:
        self.client, self._owner_attempts = client, owner_attempts
        self._attempt_ms, self._dead_ms, self._kept = round(attempt_seconds * 1000), round(dead_seconds * 1000), kept
        self._scripts = Scripts(client, "{}", __package__)

    # Delivering

    def take(self, limit: int) -> list[Delivery]:
        """Begin an attempt at deliveries that are due, one in a lane; nobody else gets them meanwhile."""
        over_ms, found, damaged, emptied = self._scripts.run(
            "take",
            limit=limit,
            attempt_ms=self._attempt_ms,
            owner_attempts=self._owner_attempts,
            dead_ms=self._dead_ms,
        )
        for job_id in damaged:
            log.error("%s: webhook given up, because its record in Redis is gone or damaged", job_id.decode())
        for lane in emptied:
            log.error(
                "webhooks to %s: a queue of them was damaged in Redis and is empty now; its events wait for "
                "`adaspa webhooks redeliver`",
                lane.decode().rpartition("#")[0],
            )
        return [
            _delivery(job_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)), int(over_ms))
            for job_id, fields in found
        ]

    def note(
        self,
        delivery: Delivery,
        outcome: Outcome,
        *,
        error: str = "",
        body: str | None = None,
        again_in: float | None = None,
    ) -> None:
        """Say what came of an attempt that ``take`` began; once its time is over, only a delivery counts.

        Without ``again_in`` (seconds) an undelivered event is given up.
        """
        self._scripts.run(
            "note",
            id=delivery.job_id,
            type=delivery.type,
            over_ms=delivery.over_ms,
            lane=delivery.lane,
            owner=delivery.owner,
            outcome=outcome,
            error=error,
            body=body,
            again_in_ms=None if again_in is None else round(again_in * 1000),
            dead_ms=self._dead_ms,
        )

    def trim(self) -> list[str]:
        """Forget what is kept no longer; the jobs whose event had not been given up before. Up to 100 a call."""
        found = self._scripts.run("trim", dead_ms=self._dead_ms, kept=self._kept)
        return [job_id.decode() for job_id in found]

    # Looking

    def ids(self, state: State, limit: int | None = None) -> list[tuple[str, float]]:
        """Ids of jobs with the time of their next attempt, or of when they were given up: the latest first."""
        key = PREFIX + ("webhooks" if state == "waiting" else "webhooks_dead")
        with reaching():
            found: Any = self.client.zrange(key, 0, -1 if limit is None else limit - 1, desc=True, withscores=True)
        return [(job_id.decode(), score / 1000) for job_id, score in found]

    def get(self, job_id: str) -> Delivery | None:
        """Read the delivery of a job's event; None if there is none, or it was delivered. Raises DeliveryDamaged."""
        try:
            with reaching():
                fields: Any = self.client.hgetall(PREFIX + "webhook:" + job_id)
        except ResponseError as error:
            if not str(error).startswith(WRONG_TYPE):
                raise
            raise DeliveryDamaged(job_id, "it is no hash") from error
        try:
            return _delivery(job_id, fields) if fields else None
        except KeyError as error:
            raise DeliveryDamaged(job_id, f"no {error.args[0]}") from error
        except ValueError as error:
            raise DeliveryDamaged(job_id, "attempts is no number") from error

    def counts(self) -> DeliveryCounts:
        """Count deliveries, and what has come of all."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.zcard(PREFIX + "webhooks")
            pipe.zcard(PREFIX + "webhooks_dead")
            pipe.zrange(PREFIX + "webhooks", 0, 0, withscores=True)
            pipe.time()
            waiting, dead, first, (seconds, microseconds) = pipe.execute()
        (counters,) = Counters.read(self.client, {"webhook_counts": 2})
        split = counters.by_name
        return DeliveryCounts(
            waiting,
            dead,
            max(0.0, seconds + microseconds / 1e6 - first[0][1] / 1000) if first else 0.0,
            {outcome: count for (kind, outcome), count in split.items() if kind == "attempts"},
            {end: count for (kind, end), count in split.items() if kind == "ended"},
            counters.damaged,
        )

    # Operating

    def redeliver(self, job_id: str) -> bool:
        """Begin a dead delivery anew, or make a waiting one's next attempt now; False if there is none."""
        return bool(self._scripts.run("redeliver", id=job_id))

    def secrets(self) -> list[str]:
        """Return the valid signing secrets, the current one first; one is made if there is none."""
        return self._secrets(None)

    def rotate_secret(self, keep_seconds: float) -> list[str]:
        """Make a new signing secret; the previous one stays valid for ``keep_seconds``."""
        return self._secrets(keep_seconds)

    def _secrets(self, keep_seconds: float | None) -> list[str]:
        fresh = SECRET_PREFIX + b64encode(random.token_bytes(32)).decode()
        keep_ms = None if keep_seconds is None else round(keep_seconds * 1000)
        return [secret.decode() for secret in self._scripts.run("secrets", fresh=fresh, keep_ms=keep_ms)]


def _delivery(job_id: str, fields: Mapping[bytes, bytes], over_ms: int = 0) -> Delivery:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    tried_at = text.get("tried_at", "")
    return Delivery(
        job_id=job_id,
        type=text["type"],
        owner=text["owner"],
        url=text["url"],
        lane=text["lane"],
        attempts=int(text["attempts"]),
        record=text.get("record"),
        body=text.get("body"),
        error=text.get("error", ""),
        tried_at=int(tried_at) if tried_at.isdecimal() else None,  # only shown: a damaged one holds up no event
        over_ms=over_ms,
    )
