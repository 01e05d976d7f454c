"""Points in the course of a job at which a process can be told to die, stand still or wait: faults at each phase.

A run posts an order, a file in a folder that all processes know. The first process that comes to the point with that
job, which its seed names, takes the file and obeys it there.
"""

import json
import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from waiting import until

FOLDER = "CHAOS_ORDERS"
"""The variable that names the folder."""
PRELOADED = "CHAOS_PRELOADED"
"""A variable of a worker that is to have PyTorch before it forks: a process in the place of a killed one has it too."""
OF_A_WORKER = (
    *("claimed", "encoding", "step-6", "checkpointed", "decoding", "uploading"),
    *("uploaded", "completing", "completed"),
)
"""In the order in which a job comes to them."""
SLOW_SECONDS = 30.0
"""What a decoding takes that is to be slow."""
Deed = Literal["kill child", "kill group", "stop", "hold", "slow", "raise", "await stop", "keep nothing", "keep a part"]
"""``raise`` is an error of the model, ``await stop`` a hold until the worker is told to end. The last two are what
storage does with a file that it has just said it took."""
HELD_SECONDS = 300.0
"""A hold that nobody ends is over by then."""


def reach(point: str, seed: int) -> Deed | None:
    """Obey an order for this point, if one waits; a deed that is left to the caller."""
    order = Path(os.environ[FOLDER]) / f"{point}@{seed}"
    taken = order.with_name(f"{order.name}.taken")
    if not order.exists():
        return None
    deed: Deed = order.read_text()  # type: ignore[assignment]
    order.with_name(f"{order.name}.by").write_text(json.dumps({"pid": os.getpid(), "group": os.getpgrp()}))
    order.rename(taken)
    if deed == "kill child":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "kill group":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    elif deed == "stop":
        os.killpg(os.getpgrp(), signal.SIGSTOP)
    elif deed == "hold":
        until(order.with_name(f"{order.name}.go").exists, "the run lets it go on", HELD_SECONDS)
    else:
        return deed
    return None


def around(owner: Any, name: str, before: str | None, after: str | None, seed_of: Callable[..., int | None]) -> None:
    """Make a method reach points when it begins and when it is done.

    Args:
        owner: of the method.
        name: the method's.
        before: point before it does anything; None: none.
        after: point when it is done.
        seed_of: of the method's answer (None before it has one) and arguments, the job's seed; None: of no job.
    """
    plain = getattr(owner, name)

    @wraps(plain)
    def method(*args: Any, **options: Any) -> Any:
        if before and (seed := seed_of(None, *args)) is not None:
            reach(before, seed)
        answer = plain(*args, **options)
        if after and (seed := seed_of(answer, *args)) is not None:
            reach(after, seed)
        return answer

    setattr(owner, name, method)


class Order:
    """An order that a run has posted.

    Args:
        folder: of orders.
        point: where it is to be obeyed.
        seed: by whoever comes there with the job of this seed.
        deed: what is to be done.
    """

    def __init__(self, folder: Path, point: str, seed: int, deed: Deed) -> None:
        self.point, self.deed = point, deed
        self._path = folder / f"{point}@{seed}"
        for end in ("taken", "go"):
            self._path.with_name(f"{self._path.name}.{end}").unlink(missing_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_text(deed)
        new.rename(self._path)

    def wait(self) -> None:
        """Until it is obeyed."""
        until(self._path.with_name(f"{self._path.name}.taken").exists, f"{self.deed} at {self.point}")

    def go_on(self) -> None:
        """End a hold or a standstill."""
        if self.deed == "stop":
            os.killpg(json.loads(self._path.with_name(f"{self._path.name}.by").read_text())["group"], signal.SIGCONT)
        self._path.with_name(f"{self._path.name}.go").touch()
