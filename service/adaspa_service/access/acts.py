"""Acts of operators' commands on their way to the gateways' audit log: nobody collects what a command prints."""

import getpass
import json
import os
import platform
from datetime import UTC, datetime
from typing import Any

from adaspa_jobs.scripts import PREFIX, reaching
from redis import Redis

ACTS = PREFIX + "acts"
"""A list, the latest first, from which each act is taken once."""
BATCH = 100


class OperatorActs:
    """Acts that no gateway has written down yet. All methods raise StoreUnavailable.

    Args:
        client: of one Redis or Valkey server.
    """

    def __init__(self, client: Redis) -> None:
        self.client = client

    def add(self, event: str, **about: str) -> None:
        """Leave what was done, by whom on which machine, and when."""
        act = {"event": event, **about, "actor": who(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        with reaching():
            self.client.lpush(ACTS, json.dumps(act))

    def take(self) -> list[dict[str, str]]:
        """Take the oldest, which nobody else gets then. One that cannot be read is an act of its own."""
        with reaching():
            found: Any = self.client.rpop(ACTS, BATCH)
        return [_read(act) for act in found or []]


def _read(text: bytes) -> dict[str, str]:
    try:
        act = json.loads(text)
        return {name: str(value) for name, value in act.items()}
    except (ValueError, AttributeError):
        return {"event": "unreadable", "text": repr(text)}


def who() -> str:
    """Name the user of this process, and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
