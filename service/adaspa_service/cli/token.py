"""``adaspa token``: print the token of a gateway on this machine that has no API keys."""

import httpx
from adaspa_client.local_token import read_token

from adaspa_service.cli.server import SERVER, Server, checked
from adaspa_service.cli.terminal import fail, say


def token(server: Server = SERVER) -> None:
    """Print the token of your service on this machine, for curl and other programs. With API keys, there is none."""
    found = read_token(httpx.URL(checked(server)))
    if found is None:
        fail(f"there is no token for {server}: you run no service there, or it requires API keys")
    say(found)
