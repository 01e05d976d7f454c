"""What the clients of a run asked and saw: one entry a request, in the order in which they were sent."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from chaos.sightings import Sightings

Act = Literal["create", "get", "events", "list", "cancel", "delete", "content"]
Outcome = Literal["ok", "refused", "unknown"]
"""``refused``: a 4xx, so nothing was done. ``unknown``: no answer, or a 5xx; it may or may not have been done."""


@dataclass
class Entry:
    """One request. Times are seconds of one clock that no fault moves."""

    client: str
    tenant: str
    gateway: str
    act: Act
    target: str
    """The video's id; of a ``create`` its Idempotency-Key; of a ``list`` a name for all pages of one walk."""
    asked: str = ""
    """Of a ``create`` its body; of a ``list`` its query."""
    epoch: int = 0
    """How many times power was cut before it began: what Redis had not synced is then gone."""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    outcome: Outcome = "unknown"
    status: int | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    """What the checker needs of the answer."""

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.act, self.target, self.asked)))
        saw = json.dumps(self.seen) if self.seen else ""
        answer = f"{self.outcome}{f' ({self.status})' if self.status else ''}"
        return f"{self.began:.3f}-{self.ended:.3f} {self.client} at {self.gateway}: {what} -> {answer} {saw}".strip()


class History:
    """Entries of all clients."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.sightings = Sightings()
        """What the answers showed."""
        self.epoch = 0
        self._lock = threading.Lock()

    @contextmanager
    def request(
        self, *, client: str, tenant: str, gateway: str, act: Act, target: str, asked: str = ""
    ) -> Iterator[Entry]:
        """Note a request from before it is sent; its outcome is unknown unless the block says otherwise."""
        with self._lock:
            entry = Entry(client, tenant, gateway, act, target, asked=asked, epoch=self.epoch)
            self.entries.append(entry)
        try:
            yield entry
        finally:
            entry.ended = time.monotonic()
            if entry.epoch != self.epoch:
                entry.epoch = -len(self.entries)  # power was cut meanwhile: it is of neither time

    def write(self, path: Path) -> None:
        """As JSON lines."""
        path.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in self.entries))
