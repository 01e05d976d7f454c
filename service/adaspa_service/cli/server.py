"""Commands that talk to a server: which one, and with which key."""

from typing import Annotated

import typer
from adaspa_client import Client

Server = Annotated[
    str, typer.Option(envvar="ADASPA_SERVER", metavar="URL", help="Address of the gateway.", show_envvar=True)
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="ADASPA_API_KEY", metavar="KEY", help="The key that the gateway asks for.", show_envvar=True),
]
SERVER = "http://127.0.0.1:8000"
"""Where ``adaspa serve`` listens."""


def connect(server: str, api_key: str | None) -> Client:
    """A client of that gateway; nothing is sent yet.

    Raises:
        typer.BadParameter: the address is none.
    """
    if not server.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{server!r} is no address; it begins with http:// or https://", param_hint="--server")
    return Client(server.rstrip("/"), api_key=api_key)
