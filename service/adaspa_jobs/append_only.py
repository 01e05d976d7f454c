"""Redis' append-only file: what a machine that loses power still has.

Redis answers before it has synced its file to the disk, which it does every second unless told otherwise. What must not
come back, or be done again, is waited for: a cancel, a deletion, a revoked key, a completed job.
"""

import time
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from adaspa_jobs.scripts import PREFIX, reaching

SYNC_SECONDS = 2.0
"""A sync that takes longer is not waited for."""
AGAIN_SECONDS = 60.0
"""Seconds for which a server is believed what it says of its syncs, and not waited for if it makes none."""
BEGUN_SECONDS = 1.25
"""A server that syncs every second has begun to sync what was written before that."""


class AppendOnlyFile:
    """Append-only file of one server.

    Args:
        client: of the server.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._ask_at = 0.0
        self._told, self._known_until = "", 0.0
        """Policy that the server told last, and the time until which that is believed."""

    def synced(self) -> bool:
        """Wait until all that Redis did so far is on its disk.

        False where it has no such file, is too old to say (before Redis 7.2 and Valkey 7.2), or never syncs it. Raises
        StoreUnavailable: it is not known what Redis still has.
        """
        if time.monotonic() < self._ask_at:
            return False
        with reaching(), self._client.pipeline(transaction=False) as pipe:
            pipe.set(PREFIX + "synced", 1)  # the wait is for what its own connection wrote, and for all before that
            pipe.execute_command("WAITAOF", 1, 0, round(SYNC_SECONDS * 1000))
            written, answer = pipe.execute(raise_on_error=False)
        written_at = time.monotonic()
        if written is not True or not isinstance(answer, list):
            return False
        policy = self._policy()
        if answer[0] == 0:
            if policy not in ("always", "everysec"):
                self._ask_at = time.monotonic() + AGAIN_SECONDS
            return False
        return policy == "always" or self._has_synced(written_at)

    def _policy(self) -> str:
        """Return when the server syncs: ``always`` is before each answer. Empty if its user may not ask."""
        if time.monotonic() >= self._known_until:
            with reaching():
                try:
                    found: Any = self._client.config_get("appendfsync")
                except (NoPermissionError, ResponseError):
                    found = {}
            self._told = found.get("appendfsync", "")
            self._known_until = time.monotonic() + AGAIN_SECONDS
        return self._told

    def _has_synced(self, written_at: float) -> bool:
        """Wait until a server that syncs every second has synced what was written by then.

        Its answer to WAITAOF is not enough: Redis 7.4 and Valkey 8 and 9 give it too early, when they wrote to their
        file less than a second after they last synced it.
        """
        time.sleep(max(0.0, written_at + BEGUN_SECONDS - time.monotonic()))
        while True:
            with reaching():
                try:
                    found: Any = self._client.info("persistence")
                except NoPermissionError:
                    return False
            if found["aof_pending_bio_fsync"] == found["aof_buffer_length"] == 0:
                return True
            if time.monotonic() > written_at + BEGUN_SECONDS + SYNC_SECONDS:
                return False
            time.sleep(0.02)
