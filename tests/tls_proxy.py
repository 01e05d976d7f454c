"""A TLS server before one without, or an impostor in its place that notes what it is told."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme


class TlsProxy:
    """Ends TLS with a certificate of an authority.

    Args:
        authority: that signs its certificate.
        name: that the certificate is for.
        socket: of the server behind it.
    """

    def __init__(self, authority: trustme.CA, name: str, socket: Path) -> None:
        self.heard = bytearray()
        """All that clients said."""
        self.port = 0
        self._context, self._socket = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), socket
        authority.issue_cert(name).configure_cert(self._context)
        self._loop, self._ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _relay(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, commands = await asyncio.open_unix_connection(self._socket)
        await asyncio.gather(self._pass(client, commands, heard=True), self._pass(server, answers))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, heard: bool = False) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await source.read(65536):
                if heard:
                    self.heard += data
                sink.write(data)
        sink.close()


@contextmanager
def tls_proxy(authority: trustme.CA, name: str, socket: Path) -> Iterator[TlsProxy]:
    """One for the length of a ``with`` block."""
    proxy = TlsProxy(authority, name, socket)
    try:
        yield proxy
    finally:
        proxy.close()
