"""Time that passes at once: a clock that goes on when somebody sleeps, and an event loop whose clock goes on to the
next moment that somebody waits for."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Clock(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Does not wait, but notes how long it would have.

    Attributes:
        now: seconds that have passed.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            assert timeout is not None, "nobody will ever come"
            self.now += timeout
        return found

    def monotonic(self) -> float:
        """Stand for ``time``."""
        return self.now


class Seconds:
    """A time that passes when it is told to, or when somebody sleeps.

    Attributes:
        now: seconds.
        sleeps: how often somebody slept.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0

    def monotonic(self) -> float:
        """Stand for ``time``, as ``sleep`` does."""
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1


def run(clock: Clock, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine by this clock."""
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = clock.monotonic  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
