"""Token of a gateway on this machine that has no API keys, read from a file that only its user can read."""

import ipaddress
from collections.abc import Generator
from typing import Self

import httpx
from adaspa_api.token_file import port_of, token_file


def read_token(url: httpx.URL) -> str | None:
    """Return the token of the gateway at that address, or None if it is elsewhere or left none for this user."""
    if not is_here(url.host):
        return None
    try:
        return token_file(port_of(str(url))).read_text().strip() or None
    except (OSError, RuntimeError):  # no such file, another user's, or a user without a home
        return None


def is_here(host: str) -> bool:
    """Return whether that name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class LocalToken(httpx.Auth):
    """Sends the token with each request. Reads it each time, because a restarted gateway may have another."""

    @classmethod
    def of(cls, base_url: str) -> Self | None:
        """Return the authentication for a gateway on this machine, or None for others and for URLs with a user name."""
        url = httpx.URL(base_url)
        return cls() if is_here(url.host) and not url.userinfo else None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if token := read_token(request.url):
            request.headers["Authorization"] = f"Bearer {token}"
        yield request
