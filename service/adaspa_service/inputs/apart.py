"""A process of its own for reading a video or a sound: its module, what it is asked, and its answers.

Of all that a request may bring, these have the most work and the most code behind them, and what goes wrong there is to
end nothing else. The process has little time and memory (``adaspa_service.inputs.reader``).
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any

from adaspa_api.words import Kind

from adaspa_service.inputs.source import InputRefused

log = logging.getLogger(__name__)

PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
"""Environment of the process, without secrets."""


class Reader:
    """A running process."""

    def __init__(self, process: subprocess.Popen[str], said: IO[str], kind: Kind) -> None:
        self._process, self._said, self._kind = process, said, kind

    def tell(self, told: object) -> None:
        """Write what the process waits for, once."""
        assert self._process.stdin
        with suppress(BrokenPipeError), self._process.stdin as waiting:  # it has ended: its answer says why
            waiting.write(json.dumps(told))

    def answer(self) -> dict[str, Any]:
        """Read what the process answers next. Raises InputRefused."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:  # it has ended: it had its share of time and memory, or broke down
            self._said.seek(0)
            why = "".join(self._said.readlines()[-1:]).strip() or "the process was ended"
            log.warning("%s could not be read: %s", self._kind.one, why)
            raise InputRefused(f"is damaged, or takes too much time or memory to read; allowed: {self._kind.taken}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise InputRefused(answer["refused"], too_large=answer["too_large"])
        return answer


@contextmanager
def apart(module: str, kind: Kind, *asked: object) -> Iterator[Reader]:
    """Run a module in a process of its own, and end that behind the block.

    Args:
        module: its name; it calls ``adaspa_service.inputs.reader.read``.
        kind: what it reads.
        asked: its arguments, as JSON has them.
    """
    env = {name: value for name in PASSED_ON if (value := os.environ.get(name)) is not None}
    with (
        TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=env,
        ) as process,
    ):
        try:
            yield Reader(process, said, kind)
        finally:
            process.kill()
