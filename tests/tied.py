"""Processes that end with the one that started them, however it ends."""

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # looked up before any fork


def tied() -> Callable[[], None]:
    """A ``preexec_fn`` with which the kernel kills the process once the thread that starts it has ended."""
    parent = os.getpid()

    def tie() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie
