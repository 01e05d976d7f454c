"""The gateway as a process: what it needs is checked at the start, and one line says what is wrong."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from running_gateway import until


def environment(**settings: object) -> dict[str, str]:
    """The environment with these settings and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    return clean | {f"ADASPA_{name.upper()}": str(value) for name, value in settings.items()}


def free_port() -> int:
    """A port that is free right now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def gateway(**settings: object) -> subprocess.Popen[str]:
    """Start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "adaspa_service.gateway"],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_one_line(process: subprocess.Popen[str], *parts: object) -> str:
    """It ends with status 1 and one line that says this."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (1, "", 1), err
    for part in parts:
        assert str(part) in err
    return err


def test_it_serves_until_it_is_told_to_stop(redis_url: str, tmp_path: Path) -> None:
    port = free_port()
    process = gateway(redis_url=redis_url, storage_url=tmp_path / "objects", port=port)
    try:
        until(lambda: process.poll() is not None or answers(port), "it serves", 60)
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_an_unreachable_redis(tmp_path: Path) -> None:
    address = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    err = assert_one_line(gateway(redis_url=address, storage_url=tmp_path / "objects"), "127.0.0.1")
    assert "secret" not in err


def test_a_storage_that_cannot_be_written(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert_one_line(gateway(redis_url=redis_url, storage_url=tmp_path / "file" / "objects"), "file/objects")


def test_a_taken_port(redis_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert_one_line(gateway(redis_url=redis_url, storage_url=tmp_path / "objects", port=port), port)


def test_a_broken_catalog(redis_url: str, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.json"
    catalog.write_text('[{"id": "x"}]')
    assert_one_line(gateway(redis_url=redis_url, storage_url=tmp_path / "objects", catalog=catalog), catalog, "family")


@pytest.mark.parametrize(("name", "value"), [("port", "http"), ("redis_url", "memcached://x"), ("lease_seconds", "0")])
def test_a_bad_setting(name: str, value: str) -> None:
    assert_one_line(gateway(**{name: value}), f"ADASPA_{name.upper()}", value)
