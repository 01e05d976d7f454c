"""Addresses that servers listen on: who reaches them, how many may come at once, and what is said if they cannot."""

import errno
import os
import socket
import struct
from pathlib import Path

import httpx
import pytest
from adaspa_jobs.listening import at_fault, bindable, listener, local_url, reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_a_client_on_the_machine_reaches_a_server_by_its_local_url(host: str) -> None:
    with listener(host, 0) as server:
        url = httpx.URL(local_url(host, server.getsockname()[1]))
        with socket.create_connection((url.host, url.port or 80)):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_connections_that_come_at_once_wait_to_be_accepted(host: str) -> None:
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with listener(host, 0) as server:
        # Of a listening socket Linux' tcp_info has as tcpi_sacked, its sixth number, how many may wait.
        told = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert struct.unpack_from("=I", told, 8 + 4 * 5)[0] == min(2048, most)


def refused(host: str, port: int) -> OSError:
    with pytest.raises(OSError) as raised:
        listener(host, port)
    return raised.value


def test_what_cannot_be_listened_on_is_named_with_the_systems_reason() -> None:
    with listener("127.0.0.1", 0) as taken, listener("::1", 0) as other:
        found = {
            (at_fault(error), reason(error))
            for error in (
                refused("127.0.0.1", taken.getsockname()[1]),
                refused("::1", other.getsockname()[1]),
            )
        }
        assert found == {("port", os.strerror(errno.EADDRINUSE))}
    for host in ("192.0.2.1", "2001:db8::1"):  # addresses of no machine
        error = refused(host, 0)
        assert (at_fault(error), reason(error)) == ("host", os.strerror(errno.EADDRNOTAVAIL))
    error = refused("nowhere.invalid", 0)
    assert (at_fault(error), reason(error)) == ("host", error.strerror) and error.strerror
    denied = OSError(errno.EACCES, "?")
    assert (at_fault(denied), reason(denied)) == ("port", os.strerror(errno.EACCES))


def test_a_machine_without_ipv6_binds_its_own_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("::", "0.0.0.0", "127.0.0.1", "::1")
    assert [bindable(host) for host in hosts] == [*hosts]
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert [bindable(host) for host in hosts] == ["0.0.0.0", *hosts[1:]]
