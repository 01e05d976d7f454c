"""Round trips to Redis that many requests share.

What is asked while one is under way goes with the next, in one piece and on the same connection. So the more is asked
at a time, the less a question costs, and none takes a thread.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from adaspa_jobs.scripts import reaching
from redis.asyncio import Redis
from redis.exceptions import RedisError

Command = Sequence[str | int | bytes]


class Rounds:
    """Asks for many at a time. Only for commands that change nothing.

    Args:
        client: of Redis.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._under_way: asyncio.Task[None] | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands and return their answers. Raises StoreUnavailable, and redis-py's for our mistakes."""
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, answers))
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._go())
        with reaching():
            found = await answers
            for each in found:
                if isinstance(each, RedisError):
                    raise each
        return found

    async def _go(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                await self._round(asked)
        finally:
            self._under_way = None

    async def _round(self, asked: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for commands, _ in asked:
            for command in commands:
                pipe.execute_command(*command)
        try:
            found = iter(await pipe.execute(raise_on_error=False))
        except BaseException as error:
            for _, answers in asked:
                if answers.done():  # whoever asked has gone
                    continue
                if isinstance(error, Exception):
                    answers.set_exception(error)
                else:
                    answers.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for commands, answers in asked:
                own = [next(found) for _ in commands]
                if not answers.done():
                    answers.set_result(own)
