"""Redis' append-only file: what a machine that loses power still has.

Redis answers before it has synced its file to the disk, which it does every second unless told otherwise. What must not
come back, or be done again, is waited for: a cancel, a deletion, a revoked key, a completed job.
"""

import time

from redis import Redis

from adaspa_jobs.scripts import PREFIX, reaching

SYNC_SECONDS = 2.0
"""A file that is not synced within this time is synced when its operator's settings say so, and not waited for."""
AGAIN_SECONDS = 60.0
"""How long it is then not waited for."""


class AppendOnlyFile:
    """The append-only file of one server.

    Args:
        client: of the server.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._ask_at = 0.0

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
        if written is True and isinstance(answer, list) and answer[0] == 0:
            self._ask_at = time.monotonic() + AGAIN_SECONDS
        return written is True and isinstance(answer, list) and answer[0] > 0
