"""A TCP proxy that cuts connections or forgets them, for clients that have to bear it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class FlakyProxy:
    """Forwards connections to a gateway.

    Args:
        target: host and port.
        cuts: for each connection in turn, the bytes of its answer after which it is cut; further ones are let be.
    """

    def __init__(self, target: tuple[str, int], cuts: list[int]) -> None:
        self.target, self.cuts = target, cuts
        self.requests: list[bytes] = []
        self.accepted = self._forgotten = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def forget(self) -> None:
        """Let nothing through on the connections that there are, and close none: as a NAT forgets them."""
        self._forgotten = self.accepted

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                left = self.cuts.pop(0) if self.cuts else None
                self.accepted += 1
                try:
                    server = socket.create_connection(self.target)
                except OSError:  # nobody is there
                    client.close()
                    continue
                both = client, server, self.accepted
                threading.Thread(target=self._relay, args=both, daemon=True).start()
                threading.Thread(target=self._answer, args=(*both, left), daemon=True).start()

    def _relay(self, client: socket.socket, server: socket.socket, number: int) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if number > self._forgotten:
                    self.requests.append(data)
                    server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket, number: int, left: int | None) -> None:
        with suppress(OSError):
            while left != 0 and (data := server.recv(1024 if left is None else min(1024, left))):
                if number > self._forgotten:
                    client.sendall(data)
                left = None if left is None else left - len(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def flaky(url: str, *cuts: int) -> Iterator[FlakyProxy]:
    """A proxy before the gateway at ``url``."""
    host, port = url.removeprefix("http://").split(":")
    proxy = FlakyProxy((host, int(port)), list(cuts))
    try:
        yield proxy
    finally:
        proxy.close()
