"""Addresses that servers listen on, and at which local clients reach them."""

import errno
import os
import socket

EVERYWHERE = "::"
"""Every address of the machine, those of IPv4 among them."""


def bindable(host: str) -> str:
    """Return the address to bind: ``host``, or ``0.0.0.0`` for ``::`` on a machine without IPv6."""
    return "0.0.0.0" if host == EVERYWHERE and not socket.has_dualstack_ipv6() else host


def listener(host: str, port: int) -> socket.socket:
    """A listening TCP socket. A name that has addresses of both kinds stands for that of IPv4.

    Raises:
        OSError: the host has no address, or the port cannot be used there.
    """
    address = bindable(host), port
    families = {info[0] for info in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)}
    if socket.AF_INET in families:
        return socket.create_server(address, backlog=2048)
    both = host == EVERYWHERE
    return socket.create_server(address, family=socket.AF_INET6, backlog=2048, dualstack_ipv6=both)


def reason(error: OSError) -> str:
    """Say in the system's words why a host cannot be listened on."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)


def at_fault(error: OSError) -> str:
    """Say which of the two cannot be listened on: ``host`` or ``port``."""
    return "host" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "port"


def local_url(host: str, port: int) -> str:
    """Return the address for clients on this machine of a server that listens on ``host``."""
    if host in ("0.0.0.0", EVERYWHERE):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
