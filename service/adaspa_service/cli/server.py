"""Options of commands that talk to a server: its address and the API key."""

from typing import Annotated
from urllib.parse import urlsplit

import httpx
import typer
from adaspa_client import Client

Server = Annotated[
    str, typer.Option(envvar="ADASPA_SERVER", metavar="URL", help="Address of the gateway.", show_envvar=True)
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="ADASPA_API_KEY", metavar="KEY", help="API key to send.", show_envvar=True),
]
SERVER = "http://127.0.0.1:8000"
"""Default address of ``adaspa serve``."""


def connect(server: str, api_key: str | None) -> Client:
    """Return a client of the gateway at that address. Sends nothing yet. Raises typer.BadParameter."""
    url = checked(server)
    try:
        return Client(url, api_key=api_key)
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("api_key: "), param_hint="--api-key") from error


def checked(server: str) -> str:
    """Return the gateway's address without a trailing slash.

    Raises:
        typer.BadParameter: the address is invalid.
    """
    try:
        url, port = httpx.URL(server), urlsplit(server).port  # of which httpx takes any number
        named = url.scheme in ("http", "https") and port != 0 and url.host.encode("idna")
    except (httpx.InvalidURL, ValueError):
        named = None
    if not named:
        raise typer.BadParameter(f"{server!r} is not a URL; allowed: http://... or https://...", param_hint="--server")
    return server.rstrip("/")


def is_gateway(url: str, seconds: float = 5.0) -> bool:
    """Return whether a gateway answers at this address within some seconds."""
    try:
        return bool(httpx.get(f"{url}/healthz", timeout=seconds).json() == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False
