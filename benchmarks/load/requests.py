"""A generator of requests at a fixed rate over kept-alive connections, and clients that follow jobs."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

CONNECTIONS = 64
"""More requests than these cannot be under way; the rest wait, and their waiting counts."""


@dataclass
class Timings:
    """Seconds from the moment that each request was due until it was answered."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    elapsed: float = 0.0

    def figures(self) -> dict[str, object]:
        """Rate and percentiles, in milliseconds."""
        p50, p99 = (round(1000 * float(np.percentile(self.seconds, p)), 2) for p in (50, 99))
        rate = round(len(self.seconds) / self.elapsed, 1)
        return {"per_second": rate, "p50_ms": p50, "p99_ms": p99, "statuses": self.statuses}


@dataclass
class Connection:
    """One kept-alive connection."""

    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes) -> int:
        """Send a request, read its whole answer; the status."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        return int(head[9:12])

    def close(self) -> None:
        """Close it, if it was opened."""
        if self.streams:
            self.streams[1].close()


async def at_rate(ports: list[int], per_second: float, seconds: float, make: Callable[[int], bytes]) -> Timings:
    """Send requests, the n-th being ``make(n)``, at a fixed rate."""
    timings, due = Timings(), asyncio.Queue[tuple[int, float] | None]()
    connections = [Connection(ports[n % len(ports)]) for n in range(CONNECTIONS)]

    async def work(connection: Connection) -> None:
        while item := await due.get():
            number, when = item
            status = await connection.ask(make(number))
            timings.seconds.append(time.monotonic() - when)
            timings.statuses[status] = timings.statuses.get(status, 0) + 1

    workers = [asyncio.create_task(work(connection)) for connection in connections]
    began = time.monotonic()
    for number in range(round(per_second * seconds)):
        when = began + number / per_second
        await asyncio.sleep(max(0.0, when - time.monotonic()))
        due.put_nowait((number, when))
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    timings.elapsed = time.monotonic() - began
    for connection in connections:
        connection.close()
    return timings


class Followers:
    """Clients that follow one job each, for the length of an ``async with`` block."""

    def __init__(self, ports: list[int], video_ids: list[str]) -> None:
        self.ports, self.video_ids = ports, video_ids
        self.events = 0
        self.broken = 0

    async def __aenter__(self) -> "Followers":
        self._tasks = [asyncio.create_task(self._follow(n)) for n in range(len(self.video_ids))]
        while self.events < len(self.video_ids):
            await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.broken = sum(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, number: int) -> None:
        port = self.ports[number % len(self.ports)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(get(f"/v1/videos/{self.video_ids[number]}/events"))
            while line := await reader.readline():
                self.events += line.startswith(b"event:")
        finally:
            writer.close()


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: dict[str, object]) -> bytes:
    """A POST request."""
    content = json.dumps(body)
    kind = f"Content-Type: application/json\r\nContent-Length: {len(content)}"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n\r\n{content}".encode()
