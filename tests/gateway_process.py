"""The gateway as a process."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import httpx
from adaspa_jobs.listening import local_url
from adaspa_service.gateway.__main__ import main
from adaspa_service.local.supervisor import free_port
from waiting import until


def environment(tmp_path: Path, settings: dict[str, str]) -> dict[str, str]:
    """The gateway's environment; nothing of the developer's own settings comes through."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    ours = {"storage_url": str(tmp_path / "objects"), "data_dir": str(tmp_path / "data"), **settings}
    return clean | {f"ADASPA_{name.upper()}": value for name, value in ours.items()}


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody listens on, and nobody is given by chance once it is free."""
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1"))) as server:
        yield server.getsockname()[1]


@contextmanager
def running(tmp_path: Path, redis_url: str, **settings: str) -> Iterator[tuple[forked.Started, str]]:
    """A gateway's process and its address, once it is ready. Its log is ``gateway.log``."""
    port = free_port("127.0.0.1")
    env = environment(tmp_path, {"redis_url": redis_url, "host": "127.0.0.1", "port": str(port), **settings})
    process = forked.Started(main, ["gateway"], env, tmp_path / "gateway.out", tmp_path / "gateway.log")
    url = local_url(env["ADASPA_HOST"], port)

    def ready() -> bool:
        assert process.poll() is None, "the gateway ended at its start"
        try:
            return httpx.get(f"{url}/readyz").is_success
        except httpx.TransportError:
            return False

    try:
        until(ready, "the gateway is ready")
        yield process, url
    finally:
        process.kill()
        process.wait()
