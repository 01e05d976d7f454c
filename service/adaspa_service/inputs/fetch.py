"""A file of a request from a URL: bounded in time, in bytes and in redirects, and never from an address inside.

As webhooks do it: every host is looked up here, judged, and called at the address that was judged, also behind a
redirect.
"""

import asyncio
import re
import ssl
from typing import IO
from urllib.parse import urljoin

import httpcore
from adaspa_api.words import Kind
from pydantic import HttpUrl, TypeAdapter, ValidationError

from adaspa_service.inputs.source import InputRefused, scratch, too_large
from adaspa_service.webhooks.addresses import Addresses, AddressRefused, CheckedConnections, LookupFailed
from adaspa_service.webhooks.attempt import split, user_agent

TOTAL_SECONDS = 20.0
"""Time limit from the lookup of the first host to the last byte."""
REDIRECTS = 3
MOVED = (301, 302, 303, 307, 308)
ANY = "application/octet-stream|binary/octet-stream"
TYPES = {kind: re.compile(rf"({kind}/.*|{ANY})?", re.IGNORECASE) for kind in Kind}
TYPES[Kind.audio] = re.compile(rf"((audio|video)/.*|application/ogg|{ANY})?", re.IGNORECASE)  # M4A is MP4, after all
"""Content types of what may be such a file; whether it is one, its bytes say."""
RULES = "allowed: an http or https URL at a public address, without user or password"
_url = TypeAdapter(HttpUrl)


async def fetch(
    url: str, kind: Kind, tls: ssl.SSLContext, addresses: Addresses, *, owner: str, limit: int
) -> IO[bytes]:
    """Fetch the bytes at a URL.

    Args:
        url: of the client.
        kind: what it says is there.
        tls: whose authorities are trusted.
        addresses: who says which hosts may be called. A name that is not found and one at a private address get the
            same words: what names the operator's network knows is not the client's business.
        owner: whose request it is.
        limit: bytes.

    Raises:
        InputRefused: there is none to be had.
    """
    connections = CheckedConnections(addresses, owner)
    try:
        async with (
            asyncio.timeout(TOTAL_SECONDS),
            httpcore.AsyncConnectionPool(tls, network_backend=connections) as pool,
        ):
            for _ in range(REDIRECTS + 1):
                answer = await _get(pool, checked(url), kind, limit)
                if not isinstance(answer, str):
                    return answer
                url = joined(url, answer)
            raise InputRefused(f"the URL redirects too often; allowed: up to {REDIRECTS} redirects")
    except AddressRefused as error:
        raise InputRefused(f"the URL's host does not exist or has a private address; {RULES}") from error
    except LookupFailed as error:
        raise InputRefused("looking up the URL's host failed; try again") from error
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise InputRefused(f"the download took too long; allowed: up to {TOTAL_SECONDS:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise InputRefused("the URL does not answer, or its download was cut off") from error


def joined(url: str, location: str) -> str:
    """Return the address that a redirect leads to. Raises InputRefused."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise InputRefused(f"the URL redirects to something that is not a URL; {RULES}") from error


def checked(text: str) -> str:
    """A URL that may be called if its host may. Raises InputRefused."""
    try:
        url = _url.validate_python(text)
    except ValidationError as error:
        raise InputRefused(f"is not a URL; {RULES}") from error
    if url.username is not None or url.password is not None or not url.host or not url.port:
        raise InputRefused(f"the URL has a user, a password or no host; {RULES}")
    return str(url)


async def _get(pool: httpcore.AsyncConnectionPool, url: str, kind: Kind, limit: int) -> IO[bytes] | str:
    """Fetch the bytes, or the address that they have moved to."""
    target, host = split(url)
    fields = {"Host": host, "Accept": f"{kind}/*", "Accept-Encoding": "identity", "User-Agent": user_agent()}
    async with pool.stream("GET", target, headers=list(fields.items())) as response:
        named = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        if response.status in MOVED and "location" in named:
            return named["location"]
        if response.status != 200:
            raise InputRefused(f"the URL answers HTTP {response.status}; allowed: 200")
        said = named.get("content-type", "").split(";")[0].strip()
        if not TYPES[kind].fullmatch(said):
            raise InputRefused(f"the URL's content is {said[:60]!r}; allowed: {kind.taken}")
        if int(named.get("content-length", 0)) > limit:  # h11 takes no other than a number
            raise too_large(limit)
        found = scratch()
        async for chunk in response.aiter_stream():
            found.write(chunk)
            if found.tell() > limit:
                raise too_large(limit)
        return found
