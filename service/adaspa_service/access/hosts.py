"""Under which names the gateway may be asked for.

A page of another site can have its own name lead to this machine (DNS rebinding); for the browser, what answers there
is then that site. The name in the request gives it away. An address cannot be made to lead elsewhere, so any will do.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from adaspa_jobs.settings import Settings

from adaspa_service.errors import ApiError

HOST = re.compile(rb"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def host_name(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the host that a request is for, in lower case and without its port. Raises ApiError 400 if it has none."""
    named = [value for name, value in headers if name == b"host"]
    found = HOST.fullmatch(named[0]) if len(named) == 1 else None
    if found is None:
        got = " and ".join(repr(value.decode("latin-1")[:60]) for value in named[:2]) or "none"
        raise ApiError(
            400, "invalid_host", f"Host: {got}; allowed: exactly one header with a name or an address", "Host"
        )
    return found["name"].decode().lower().rstrip(".")


def check_name(settings: Settings, name: str) -> None:
    """Raise ApiError 421 for a name that is not this service's."""
    if not (is_of_this_machine(name) or any(matches(name, allowed) for allowed in own_names(settings))):
        names = ", ".join(("localhost", "an IP address", *own_names(settings)))
        message = (
            f"Host: {name[:60]!r} is not a name of this service; allowed: {names}. ADASPA_ALLOWED_HOSTS adds others"
        )
        raise ApiError(421, "wrong_host", message, "Host")


def own_names(settings: Settings) -> tuple[str, ...]:
    """Return the names that the settings give the service."""
    return tuple(dict.fromkeys(name.lower() for name in (settings.host, *settings.allowed_hosts)))


@lru_cache
def is_of_this_machine(name: str) -> bool:
    """Tell whether no name server is asked for it: an address, or a name that every machine has for itself."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def matches(name: str, allowed: str) -> bool:
    """Tell whether a name is the allowed one, or below it (``*.example.com``); ``*`` is any."""
    return name == allowed or (allowed.startswith("*") and name.endswith(allowed[1:]))
