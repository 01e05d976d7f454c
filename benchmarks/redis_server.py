"""A server to measure on: its counters, and the difference that some work makes to them."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from adaspa_service.local import valkey

WAIT_SECONDS = 180.0


class Server:
    """A running server and its counters."""

    def __init__(self, folder: Path) -> None:
        self.socket = valkey.socket_path(folder)
        self.process = subprocess.Popen(valkey.command(folder, self.socket), stdout=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        await_true(lambda: self.socket.exists() and self.client.ping(), "the server answers")

    def counters(self) -> dict[str, float]:
        """Of the time since its start."""
        info: Any = self.client.info()
        return {
            "cpu_seconds": info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            "commands": info["total_commands_processed"],
            "bytes_in": info["total_net_input_bytes"],
            "bytes_out": info["total_net_output_bytes"],
            "log_bytes": info["aof_current_size"],
            "memory_bytes": info["used_memory"],
        }

    def connections(self) -> int:
        """Without our own."""
        return len(self.client.client_list()) - 1

    def stop(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.wait()


def await_true(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if condition():
                return
        except (redis.ConnectionError, redis.TimeoutError):  # not there yet, or slow
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WAIT_SECONDS:.0f} s: {what}")
        time.sleep(0.05)


class Costs:
    """Costs by name, each that of one occurrence, without what a server does that has nothing to do."""

    def __init__(self, server: Server, idle_seconds: float) -> None:
        self.server = server
        self.found: dict[str, dict[str, float]] = {}
        first, second = server.counters(), server.counters()
        self._look = {key: second[key] - first[key] for key in ("commands", "bytes_in", "bytes_out")}
        """What it costs to look at the counters, which no work is to count."""
        self._idle = dict.fromkeys(first, 0.0)
        with self.of("idle", idle_seconds):
            time.sleep(idle_seconds)
        self._idle = self.found.pop("idle")

    @contextmanager
    def of(self, name: str, occurrences: float) -> Iterator[None]:
        """Note what the enclosed work costs, divided by its occurrences."""
        before, start = self.server.counters(), time.monotonic()
        yield
        after, seconds = self.server.counters(), time.monotonic() - start
        spent = {key: after[key] - before[key] - self._look.get(key, 0) - seconds * self._idle[key] for key in after}
        self.found[name] = {key: float(f"{value / occurrences:.4g}") for key, value in spent.items()}
