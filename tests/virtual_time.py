"""Time that passes at once: an event loop whose clock goes on to the next moment that somebody waits for."""

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


def run(clock: Clock, coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine by this clock."""
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = clock.monotonic  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
