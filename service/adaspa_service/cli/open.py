"""``adaspa open``: open the service's page in the browser, signed in."""

import webbrowser

import httpx
from adaspa_client.local_token import read_token

from adaspa_service.access.open_token import leave_redirect, with_token
from adaspa_service.cli.server import SERVER, Server, checked
from adaspa_service.cli.terminal import Exit, fail, say

SECONDS = 5.0
"""Time limit of the check that a service runs."""


def open(server: Server = SERVER) -> None:
    """Open the page of a service in the browser. A service with API keys asks for one there."""
    url = checked(server)
    if not is_service(url):
        fail(
            f"no service is running at {url}; start one with `adaspa serve`, or name another by --server",
            Exit.unreachable,
        )
    found, address = read_token(httpx.URL(url)), url
    try:
        if found is not None:
            address = leave_redirect(url, found).as_uri()
    except OSError as error:
        fail(f"cannot write the file that the browser opens: {error}")
    if webbrowser.open(address):
        return say(f"Opened {url} in the browser")
    return say(f"No browser was found. Open this address yourself: {with_token(url, found) if found else url}")


def is_service(url: str) -> bool:
    """Return whether a gateway answers at this address."""
    try:
        return bool(httpx.get(f"{url}/healthz", timeout=SECONDS).json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False
