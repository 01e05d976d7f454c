"""Whether a service is open to whoever reaches it, and what it says about that."""

import ipaddress

from adaspa_jobs.keys import KeyStore
from adaspa_jobs.settings import Settings, SettingsError


def is_open(settings: Settings, keys: KeyStore) -> bool:
    """Whether nobody is asked for a key: told so, or reached only from this machine and no key was ever made."""
    if settings.open_access is not None:
        return settings.open_access
    return settings.bootstrap_key is None and is_loopback(settings.host) and not keys.exist()


def check_bind(settings: Settings, keys: KeyStore) -> str:
    """Who may use the service, in a line.

    Raises:
        SettingsError: everybody could, and nobody said that they may.
    """
    if settings.open_access:
        return f"open to everyone who reaches {settings.host}: ADASPA_OPEN_ACCESS is true"
    if is_open(settings, keys):
        return f"open without a key, to this machine alone ({settings.host}); `adaspa keys create` closes it"
    if settings.bootstrap_key is None and not keys.exist() and not is_loopback(settings.host):
        raise SettingsError(
            f"host {settings.host} can be reached from outside and there is no API key: make one with `adaspa keys "
            "create`, set ADASPA_BOOTSTRAP_KEY, or let everyone in with ADASPA_OPEN_ACCESS=true"
        )
    return "every request needs an API key"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
