"""Counters in hashes of Redis, which the transitions themselves count."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """Counters of one hash."""

    by_name: dict[tuple[str, ...], int]
    """Counts by the parts of their names."""
    damaged: int
    """Number of fields that are left out, because they are not ``parts`` words with a number."""

    @classmethod
    def read(cls, key: str, fields: Mapping[bytes, bytes], parts: int) -> "Counters":
        """Read a hash whose names have this many parts, joined by ``|``. What is damaged is logged, and hides no other.

        Args:
            key: of the hash, for the log.
        """
        by_name = {}
        for field, value in fields.items():
            name = field.decode(errors="replace")
            try:
                count = int(value)
            except ValueError:
                tell(key, name)
                continue
            if len(words := tuple(name.split("|"))) == parts:
                by_name[words] = count
            else:
                tell(key, name)
        return cls(by_name, len(fields) - len(by_name))


@cache
def tell(key: str, field: str) -> None:
    """Log a damaged field, once for each process: it is read at every scrape."""
    log.error("Redis: field %r of %s is no counter and is left out; remove it: HDEL %s %s", field, key, key, field)
