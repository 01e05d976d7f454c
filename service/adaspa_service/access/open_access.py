"""Whom the service lets in: everybody, who has this machine's token, or who has an API key.

Without keys the service is for the user who started it. That a request comes from this machine does not say so: a
proxy here passes on what comes from anywhere, and says nothing of it. So, like a notebook, it asks for a token.
"""

import ipaddress
import logging
from enum import StrEnum
from pathlib import Path

from adaspa_jobs.settings import Settings, SettingsError

from adaspa_service.access.keys import KeyStore

log = logging.getLogger(__name__)

MARKER = "keys_required"
MARKER_TEXT = """API keys were made for the service of this folder. As long as this file is here, nobody gets in without
one, also when Redis has lost them all. Remove it to start without keys again.
"""


class Access(StrEnum):
    """Who is let in."""

    everybody = "everybody"
    """The operator has said so."""
    token = "token"
    """Who has the token that this machine's user can read."""
    keys = "keys"
    """Who has an API key."""
    lost = "lost"
    """Nobody: keys were made, and Redis has forgotten them."""


class KeysRequired:
    """That keys were ever made for a deployment, noted where an emptied Redis does not take it away.

    Args:
        data_dir: holds the file that says so.
    """

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / MARKER
        self._noted = False

    def note(self) -> None:
        """Keep it, for the life of this process and in the file. A file that cannot be written is told to the log."""
        if self._noted:
            return
        self._noted = True
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(MARKER_TEXT)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): after a restart nothing but Redis says that API keys were made; "
                "ADASPA_OPEN_ACCESS=false says so too",
                self.file,
                error.strerror,
            )

    def __bool__(self) -> bool:
        try:
            return self._noted or self.file.exists()
        except OSError as error:
            raise SettingsError(f"ADASPA_DATA_DIR: {self.file} cannot be looked at ({error.strerror})") from error


class Entrance:
    """Whom a service lets in. It is looked at for each request: the first key closes an open service at once.

    Args:
        settings: of the gateway.
        keys: its key store.
    """

    def __init__(self, settings: Settings, keys: KeyStore) -> None:
        self.settings, self.keys = settings, keys
        self.required = KeysRequired(settings.data_dir)

    def now(self) -> Access:
        """Who is let in now. Raises StoreUnavailable."""
        settings = self.settings
        if settings.open_access:
            return Access.everybody
        if settings.bootstrap_key is not None:
            return Access.keys
        if self.keys.exist():
            self.required.note()
            return Access.keys
        if self.required:
            return Access.lost
        return Access.token if asks_for_token(settings) else Access.keys

    def check(self) -> str:
        """Who may use the service, in a line, for its start.

        Raises:
            SettingsError: everybody could and nobody said that they may, or nobody can.
            StoreUnavailable: Redis does not answer.
        """
        settings, access = self.settings, self.now()
        if access is Access.everybody:
            return f"open to everyone who reaches {settings.host}: ADASPA_OPEN_ACCESS is true"
        if access is Access.token:
            return "for this machine's user, whose programs find its token; `adaspa keys create` asks for keys instead"
        if access is Access.lost:
            raise SettingsError(self.lost())
        if settings.bootstrap_key is None and not self.keys.exist() and not is_loopback(settings.host):
            raise SettingsError(
                f"host {settings.host} can be reached from outside and there is no API key: make one with `adaspa keys "
                "create`, set ADASPA_BOOTSTRAP_KEY, or let everyone in with ADASPA_OPEN_ACCESS=true"
            )
        return "every request needs an API key"

    def lost(self) -> str:
        """What is wrong where nobody is let in, and the ways out."""
        return (
            f"API keys were made for this service ({self.required.file} says so), and Redis knows of "
            "none: it was emptied, or is another one. Restore it, make a new key with `adaspa keys create`, or remove "
            "that file to start without keys"
        )


def asks_for_token(settings: Settings) -> bool:
    """Whether the service, as long as there is no key, is for who has the machine's token."""
    return settings.open_access is None and settings.bootstrap_key is None and is_loopback(settings.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
