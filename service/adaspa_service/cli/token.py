"""``adaspa token``: what a gateway on this machine without API keys asks for."""

import httpx
from adaspa_client.local_token import read_token

from adaspa_service.cli.server import SERVER, Server
from adaspa_service.cli.terminal import fail, say


def token(server: Server = SERVER) -> None:
    """Print the token of a service on this machine that has no API keys, for curl and other programs."""
    found = read_token(httpx.URL(server))
    if found is None:
        fail(f"no service without API keys that you started is at {server}; one that has keys takes those alone")
    say(found)
