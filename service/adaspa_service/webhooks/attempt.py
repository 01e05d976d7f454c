"""One attempt: a POST, bounded in time and in what is read of the answer."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import version

import httpcore
import httpx
from pydantic import HttpUrl

from adaspa_service.webhooks.addresses import Addresses, AddressRefused, CheckedConnections, LookupFailed
from adaspa_service.webhooks.deliveries import Outcome

TOTAL_SECONDS = 15.0
"""Time limit from the lookup of the host to the end of the response's headers. The body is not read."""


@cache
def user_agent() -> str:
    """Return the name of this service for the servers that it asks."""
    return f"adaspa-serve/{version('adaspa-serve')}"


@dataclass(frozen=True)
class Result:
    """Result of an attempt."""

    outcome: Outcome
    error: str = ""
    """Error of the attempt, for the operator."""
    retry_after: float | None = None
    """Seconds that the receiver asked to be left alone for."""


class Sender:
    """Sends events, each over its own connection.

    Ignores proxies of the environment, which would resolve the host themselves. Checks certificates against certifi's,
    or those of ``SSL_CERT_FILE``.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses, self._tls = addresses, httpx.create_ssl_context()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, owner: str) -> Result:
        """POST the body for an owner of jobs; whatever the receiver does, this ends in a result."""
        target, host = split(url)
        connections = CheckedConnections(self._addresses, owner)
        fields = {"Host": host, "Content-Type": "application/json", "User-Agent": user_agent(), **headers}
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS),
                httpcore.AsyncConnectionPool(self._tls, network_backend=connections) as pool,
                pool.stream("POST", target, headers=list(fields.items()), content=body) as response,
            ):
                return judge(response.status, response.headers)
        except AddressRefused as error:
            return Result(Outcome.forbidden, str(error))
        except LookupFailed as error:
            return Result(Outcome.unreachable, str(error))
        except (TimeoutError, httpcore.TimeoutException):
            return Result(Outcome.timed_out, f"no answer within {TOTAL_SECONDS:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:  # OSError: of TLS, once it stands
            return Result(Outcome.unreachable, f"{type(error).__name__}: {error}")


def split(url: str) -> tuple[httpcore.URL, str]:
    """An admitted URL as it is called, and its Host header.

    It is read by the parser that admitted it: another one may see another host in the same text.
    """
    parts = HttpUrl(url)
    scheme, host, port = parts.scheme, parts.host or "", parts.port
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    named = host if (scheme, port) in (("https", 443), ("http", 80)) else f"{host}:{port}"
    return httpcore.URL(scheme=scheme, host=host.strip("[]"), port=port, target=path), named


def judge(status: int, headers: list[tuple[bytes, bytes]]) -> Result:
    """Judge an answer."""
    if 200 <= status < 300:
        return Result(Outcome.delivered)
    if status == 410:
        return Result(Outcome.gone, "HTTP 410: the receiver wants no more events")
    named = {name.lower(): value for name, value in headers}
    wait = retry_after(named.get(b"retry-after", b"")) if status in (429, 503) else None
    return Result(Outcome.rejected, f"HTTP {status}", wait)


def retry_after(value: bytes) -> float | None:
    """Seconds from now that a Retry-After header names, as a number or a date; None if it is neither."""
    text = value.decode("ascii", errors="replace").strip()
    if text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
