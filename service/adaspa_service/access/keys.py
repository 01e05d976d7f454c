"""API keys in Redis: a random secret that is shown once, its digest, and what the key may do.

SHA-256 is enough for the digest: a secret is 256 random bits, which no slow hash has to protect against guessing, and
a gateway looks at one for every request.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from adaspa_jobs.append_only import AppendOnlyFile
from adaspa_jobs.connections import connections
from adaspa_jobs.scripts import PREFIX, Scripts, reaching
from pydantic import BaseModel, ValidationError
from redis import Redis

log = logging.getLogger(__name__)
LIST = PREFIX + "keys"
"""A sorted set: key ids by the time of their creation."""
EVER_MADE = PREFIX + "keys_required"
"""Set with the first key and never removed: losing its last key does not open a service."""
SIGNING_SECRET = PREFIX + "signing_secret"
TOKEN = re.compile(r"adaspa_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
SECRET_BYTES = 32
NOTED_SECONDS = 60
"""Seconds after which the time of a key's latest use is noted again."""


class Scope(StrEnum):
    """Permission of a key."""

    read = "read"
    """List, look up and follow its jobs, download their files, see the models."""
    write = "write"
    """Create, cancel and delete jobs."""
    admin = "admin"
    """Routes of the operator, such as ``/metrics`` at the gateway's own port."""


class ApiKey(BaseModel):
    """A key without its secret. Times are Unix seconds by the store's clock."""

    id: str
    """Id of the key and owner of its jobs; rotating the secret does not change it."""
    name: str
    scopes: frozenset[Scope]
    max_in_flight: int | None = None
    """Queued and running jobs at one time."""
    requests_per_minute: int | None = None
    created_at: int
    expires_at: int | None = None
    last_used_at: int | None = None


@dataclass(frozen=True)
class Rate:
    """State of a key's rate limit."""

    limit: int
    """Requests a minute."""
    remaining: int
    """Requests that it may send now."""
    reset_seconds: float
    """Seconds until it may send a minute's requests at once."""
    wait_seconds: float | None = None
    """Seconds until it may send the next request; None if this one was allowed."""


class KeyStore:
    """Store of keys. All methods raise StoreUnavailable when Redis cannot be reached.

    Nothing is cached, so that a change holds in every gateway from the next request on.

    Args:
        client: of one Redis or Valkey server.
    """

    def __init__(self, client: Redis) -> None:
        self.client, self.file = client, AppendOnlyFile(client)
        self._scripts = Scripts(client, "{}", __package__)

    @classmethod
    @contextmanager
    def at(cls, redis_url: str) -> Iterator[Self]:
        """Open the keys of a server, with a connection of their own for the length of a ``with`` block."""
        with connections(redis_url).client() as client:
            yield cls(client)

    def create(
        self,
        name: str,
        scopes: frozenset[Scope],
        *,
        max_in_flight: int | None = None,
        requests_per_minute: int | None = None,
        lifetime_seconds: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; it, and its token, which cannot be had again."""
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES)
        now = self._now()
        key = ApiKey(
            id=key_id,
            name=name,
            scopes=scopes,
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            created_at=now,
            expires_at=None if lifetime_seconds is None else now + lifetime_seconds,
        )
        fields: dict[Any, Any] = key.model_dump(exclude={"id", "scopes"}, exclude_none=True)
        fields |= {"scopes": " ".join(sorted(scopes)), "digest": digest(secret)}
        with reaching(), self.client.pipeline(transaction=True) as pipe:
            pipe.hset(_record(key_id), mapping=fields)
            pipe.zadd(LIST, {key_id: now})
            pipe.set(EVER_MADE, 1)
            pipe.execute()
        return key, f"adaspa_{key_id}_{secret}"

    def rotate(self, key_id: str, grace_seconds: int) -> str | None:
        """Give a key a new secret; those before hold on for a while, and no longer than this one's grace.

        Where the answer was lost (StoreUnavailable), it may be asked again: every secret that somebody has still holds.

        Returns:
            The new token, None if there is no such key.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        done = self._scripts.run("rotate_key", id=key_id, digest=digest(secret), grace=grace_seconds)
        self.file.synced()
        return f"adaspa_{key_id}_{secret}" if done else None

    def revoke(self, key_id: str) -> bool:
        """End a key at once; False if there is none. Its jobs stay until they expire, seen by nobody."""
        with reaching(), self.client.pipeline(transaction=True) as pipe:
            pipe.delete(_record(key_id))
            pipe.zrem(LIST, key_id)
            known = bool(pipe.execute()[0])
        self.file.synced()
        return known

    def all(self) -> list[ApiKey]:
        """Every key, the oldest first, those that have expired included. A damaged one is named in the log."""
        with reaching():
            ids = [item.decode() for item in self.client.zrange(LIST, 0, -1)]  # type: ignore[union-attr]
            with self.client.pipeline(transaction=False) as pipe:
                for key_id in ids:
                    pipe.hgetall(_record(key_id))
                records = pipe.execute()
        found = (_key(key_id, fields) for key_id, fields in zip(ids, records, strict=True) if fields)
        return [key for key in found if key is not None]

    def authenticate(self, token: str) -> ApiKey | None:
        """Find the key of a token; None if there is none, its secret is another, or it has expired."""
        record = record_of(token)
        if record is None:
            return None
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(record)
            pipe.time()
            return proven(token, *pipe.execute())

    def is_valid(self, key_id: str) -> bool:
        """Tell whether there is such a key, and it has not expired."""
        with reaching(), self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(_record(key_id))
            pipe.time()
            fields, (now, _) = pipe.execute()
        key = _key(key_id, fields) if fields else None
        return key is not None and _holds(key, now)

    def use(self, key: ApiKey) -> Rate | None:
        """Count a request; where the key stands then, None if it has no limit.

        The limit is a token bucket: a minute's requests may come at once, and each comes back in its share of a minute.
        """
        if not has_to_be_noted(key):
            return None
        limit = key.requests_per_minute
        wait, left, reset = self._scripts.run("use_key", id=key.id, limit=limit, noted_seconds=NOTED_SECONDS)
        return None if limit is None else Rate(limit, left, reset / 1000, wait / 1000 if wait else None)

    def exist(self) -> bool:
        """Tell whether a key was ever made."""
        with reaching():
            return bool(self.client.exists(EVER_MADE))

    def signing_secret(self) -> bytes:
        """Return the secret that signs links: drawn once, the same for all gateways."""
        with reaching(), self.client.pipeline(transaction=True) as pipe:
            pipe.set(SIGNING_SECRET, secrets.token_hex(SECRET_BYTES), nx=True)
            pipe.get(SIGNING_SECRET)
            secret: bytes = pipe.execute()[1]
        return secret

    def _now(self) -> int:
        with reaching():
            now: Any = self.client.time()
        return int(now[0])


def record_of(token: str) -> str | None:
    """Return the Redis key of the hash that says whether a token is right; None if it is no token at all."""
    match = TOKEN.fullmatch(token)
    return _record(match["id"]) if match else None


def proven(token: str, fields: Mapping[bytes, bytes], time_now: tuple[int, int]) -> ApiKey | None:
    """Check a token's secret and its end, and return its key if both are right.

    Args:
        token: well formed.
        fields: its record, empty if there is none.
        time_now: as Redis tells it, in seconds and microseconds.
    """
    match = TOKEN.fullmatch(token)
    assert match
    now, microseconds = time_now
    given = digest(match["secret"]).encode()
    holding = [fields.get(b"digest", b"")]
    for old, _, ends in (entry.partition(b":") for entry in fields.get(b"previous", b"").split()):
        if ends.isdigit() and now * 1000 + microseconds // 1000 < int(ends):
            holding.append(old)
    if not any(hmac.compare_digest(given, each) for each in holding):
        return None
    key = _key(match["id"], fields)
    return key if key is not None and _holds(key, now) else None


def has_to_be_noted(key: ApiKey) -> bool:
    """Tell whether a request with it is to be counted, or the time of its use to be noted again."""
    return key.requests_per_minute is not None or abs(time.time() - (key.last_used_at or 0)) >= NOTED_SECONDS


def digest(secret: str) -> str:
    """A secret as it is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _record(key_id: str) -> str:
    return f"{PREFIX}key:{key_id}"


def _holds(key: ApiKey, now: int) -> bool:
    return key.expires_at is None or now < key.expires_at


def _key(key_id: str, fields: Mapping[bytes, bytes]) -> ApiKey | None:
    """Read a key; None if its record is damaged, which opens nothing."""
    try:
        known = {name: fields[name.encode()].decode() for name in ApiKey.model_fields if name.encode() in fields}
        ours = set(Scope)  # a later version has others
        scopes = [scope for scope in known.get("scopes", "").split() if scope in ours]
        return ApiKey.model_validate({**known, "id": key_id, "scopes": scopes})
    except (ValidationError, UnicodeDecodeError) as error:
        log.error("API key %s: its record is damaged (%s): revoke it", key_id, str(error).splitlines()[0])
        return None
