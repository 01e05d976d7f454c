"""Following a job's events over HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from running_gateway import Service


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events in a stream of lines, as the protocol is to be read; a comment is an event without a type."""
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            yield {"comment": line}
        elif line:
            event[name] = json.loads(value) if name == "data" else value
        elif event:
            yield event
            event = {}


@contextmanager
def following(service: Service, video_id: str, last: str | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a job as they come."""
    headers = {"Last-Event-ID": last} if last else {}
    with service.http.stream("GET", f"/v1/videos/{video_id}/events", headers=headers) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        yield parse(response.iter_lines())
