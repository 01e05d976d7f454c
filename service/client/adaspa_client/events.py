"""A job's events as they come."""

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adaspa_api.videos import Video
from adaspa_api.words import TERMINAL, JobStatus


@dataclass(frozen=True)
class Event:
    """One event.

    Args:
        type: ``queued``, ``in_progress``, ``progress``, ``preview``, ``completed``, ``failed`` or ``cancelled``.
        data: fields of the video; of the last event, all of them.
        id: its place in the stream; None where nothing happened to the job itself, as when its place in the queue
            changes.
    """

    type: str
    data: dict[str, Any]
    id: str | None = None

    @property
    def last(self) -> bool:
        """True if no event follows."""
        return self.type in {status.value for status in TERMINAL}

    @property
    def preview(self) -> bytes | None:
        """Preview's WebP."""
        text = self.data.get("preview")
        return None if text is None else b64decode(text.partition(",")[2])

    @property
    def video(self) -> Video | None:
        """Job as a whole, with the last event."""
        return Video.model_validate(self.data) if self.last and "prompt" in self.data else None

    @property
    def status(self) -> JobStatus:
        """Return the job's state."""
        return JobStatus(self.data["status"])


def is_stream(content_type: str) -> bool:
    """True if a gateway's events are of this type."""
    return content_type == "text/event-stream"


class EventReader:
    """Reads the text of a stream. ``last_id`` is that of the last event with an id, to go on from."""

    def __init__(self, last_id: str | None) -> None:
        self.last_id = last_id
        self._rest = ""
        self._fields: dict[str, str] = {}

    def begin(self) -> None:
        """Another connection: half an event of the one before is dropped."""
        self._rest, self._fields = "", {}

    def headers(self) -> dict[str, str]:
        """Return the headers of the next connection."""
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def feed(self, text: str) -> Iterator[Event]:
        """Yield the events that end in this piece of text."""
        *lines, self._rest = (self._rest + text).split("\n")  # and not at what else ends a line elsewhere: U+2028, ...
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                self._fields[name] = value.removeprefix(" ")  # a comment has no name, and is passed over
                continue
            fields, self._fields = self._fields, {}
            if "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
