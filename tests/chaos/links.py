"""The network: between each part and each server a proxy of its own, which can be cut, one-way too, or slow."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

Answer = TypeVar("Answer")
Way = Literal["there", "back", "both"]
"""Which bytes a fault holds: requests, answers, or both."""
Upstream = str | int
"""A unix socket's path, or a port of this machine."""
LISTING = b"list-type=2"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Link:
    """One part's way to one server. What a cut holds arrives when it is over, as what a network retransmits does.

    Args:
        network: whose thread does the work.
        upstream: the server.
    """

    def __init__(self, network: "Network", upstream: Upstream) -> None:
        self.upstream = upstream
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.deny_listings = False
        """Answer a storage's client that it may not list, in the storage's place."""
        self._network = network
        self._open = {"there": asyncio.Event(), "back": asyncio.Event()}
        self._writers = set[asyncio.StreamWriter]()
        self.port = network.call(self._listen)
        self.let("both", True)

    @contextmanager
    def cut(self, way: Way) -> Iterator[None]:
        """Nothing gets through in this direction for the length of a block; nobody is told."""
        self.let(way, False)
        try:
            yield
        finally:
            self.let(way, True)

    def drop(self) -> None:
        """End every connection that there is."""
        self._network.call(self._drop)

    def let(self, way: Way, through: bool) -> None:
        """Let everything through in this direction, or nothing from now on."""

        async def change() -> None:
            for name in ("there", "back") if way == "both" else (way,):
                (self._open[name].set if through else self._open[name].clear)()

        self._network.call(change)

    async def _drop(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await (
                asyncio.open_unix_connection(self.upstream)
                if isinstance(self.upstream, str)
                else asyncio.open_connection("127.0.0.1", self.upstream)
            )
        except OSError:  # nobody is there
            writer.close()
            return
        both = {writer, far_writer}
        self._writers |= both
        ways = [
            asyncio.create_task(self._pass("there", reader, far_writer, writer)),
            asyncio.create_task(self._pass("back", far_reader, writer, None)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in ways:
            task.cancel()
        self._writers -= both
        for each in both:
            each.close()

    async def _pass(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asker: asyncio.StreamWriter | None
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open[way].wait()
                if asker and self.deny_listings and LISTING in data.partition(b"\r\n")[0]:
                    head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {len(DENIED)}"
                    asker.write(f"{head}\r\n\r\n".encode() + DENIED)
                    continue
                writer.write(data)
                await writer.drain()


class Network:
    """A thread in which all links' bytes go to and fro."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """What work that is awaited in the thread gives."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def close(self) -> None:
        """End the thread; processes that still have connections find them closed."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
