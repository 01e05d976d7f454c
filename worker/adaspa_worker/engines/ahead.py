"""Work that goes on in a thread while what it has come to is used: the VAE decodes on while frames are encoded."""

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

AHEAD = 8
"""Most results that wait to be used: frames, two parts of Wan's VAE."""
LOOK_SECONDS = 0.1

T = TypeVar("T")


class _Left(Exception):
    """Nobody uses the results any more."""


@dataclass
class _End:
    error: BaseException | None


def ahead(run: Callable[[Callable[[T], None]], object]) -> Generator[T]:
    """Yield what ``run`` hands on, as it comes, while a thread goes on with it.

    What ``run`` raises comes through here. Where the iteration ends early, the next result that it hands on raises in
    the thread, whose end is waited for.

    Args:
        run: gets a function, and calls it with each result.
    """
    results: queue.Queue[T | _End] = queue.Queue(AHEAD)
    left = threading.Event()

    def hand_on(result: T | _End) -> None:
        while not left.is_set():
            try:
                return results.put(result, timeout=LOOK_SECONDS)
            except queue.Full:
                pass
        raise _Left

    def work() -> None:
        end = _End(None)
        try:
            run(hand_on)
        except BaseException as error:  # whatever it is, it is raised where the results are used
            end = _End(error)
        with suppress(_Left):
            hand_on(end)

    thread = threading.Thread(target=copy_context().run, args=(work,), name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(result := results.get(), _End):
            yield result
        if result.error is not None:
            raise result.error
    finally:
        left.set()
        thread.join()
