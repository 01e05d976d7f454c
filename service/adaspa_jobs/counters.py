"""Counters in hashes of Redis, which the transitions themselves count."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from shlex import quote

from redis import Redis
from redis.exceptions import ResponseError

from adaspa_jobs.scripts import PREFIX, reaching

WRONG_TYPE = "WRONGTYPE"
"""Beginning of the answer if a key has another type than ours."""
NUMBER = re.compile(rb"0|-?[1-9]\d{0,17}")
"""Numbers that Redis can add to; ``int`` reads others, too."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """Counters of one hash."""

    by_name: dict[tuple[str, ...], int]
    """Counts by the parts of their names."""
    damaged: int
    """Number of fields that are left out, because they are not ``parts`` words with a number; 1 if all are, because the
    key is no hash."""

    @classmethod
    def read(cls, client: Redis, parts: Mapping[str, int]) -> list["Counters"]:
        """Read hashes in one round trip. What is damaged is logged, and hides no other.

        Args:
            parts: by the hash's key without PREFIX, how many parts its names have, joined by ``|``.

        Raises:
            StoreUnavailable.
        """
        with reaching(), client.pipeline(transaction=False) as pipe:
            for key in parts:
                pipe.hgetall(PREFIX + key)
            found = pipe.execute(raise_on_error=False)
            return [cls._of(PREFIX + key, each, parts[key]) for key, each in zip(parts, found, strict=True)]

    @classmethod
    def _of(cls, key: str, fields: Mapping[bytes, bytes] | ResponseError, parts: int) -> "Counters":
        if isinstance(fields, ResponseError):
            if not str(fields).startswith(WRONG_TYPE):
                raise fields
            tell_all(key)
            return cls({}, 1)
        by_name = {}
        for field, value in fields.items():
            name = field.decode(errors="replace")
            words = tuple(name.split("|"))
            if len(words) == parts and NUMBER.fullmatch(value):
                by_name[words] = int(value)
            else:
                tell(key, name)
        return cls(by_name, len(fields) - len(by_name))


@cache
def tell(key: str, field: str) -> None:
    """Log a damaged field, once for each process: it is read at every scrape."""
    log.error(
        "Redis: field %r of %s is no counter and is left out; remove it: HDEL %s %s", field, key, key, quote(field)
    )


@cache
def tell_all(key: str) -> None:
    """Log a key that is no hash, the same way."""
    log.error("Redis: %s is no hash, and its counters are left out; remove it: DEL %s", key, key)
