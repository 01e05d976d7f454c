"""``adaspa open``: open the service's page in the browser, signed in."""

import webbrowser

import httpx
from adaspa_client.local_token import read_token

from adaspa_service.access.open_token import leave_redirect, with_token
from adaspa_service.cli.server import SERVER, Server, checked, is_gateway
from adaspa_service.cli.terminal import Exit, fail, say


def open(server: Server = SERVER) -> None:
    """Open the page of a service in the browser. A service with API keys asks for one there."""
    url = checked(server)
    if not is_gateway(url):
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
