"""Access to the service: for everyone, with this machine's token, or with an API key.

Without keys, the service is for the user who started it. A local source address does not prove that: a local proxy
forwards requests from anywhere. So, like a notebook server, it asks for a token.
"""

import ipaddress
import logging
from enum import StrEnum
from pathlib import Path

from adaspa_jobs.settings import Settings, SettingsError

from adaspa_service.access.keys import KeyStore

log = logging.getLogger(__name__)

MARKER = "keys_required"
MARKER_TEXT = """API keys were created for the service of this folder. While this file exists, every request needs one,
even if Redis has lost them all. Remove it to start without keys again.
"""


class Access(StrEnum):
    """Access rules of the service."""

    everybody = "everybody"
    """Everyone: the operator allowed it."""
    token = "token"
    """Everyone with the token, which this machine's user can read."""
    keys = "keys"
    """Everyone with an API key."""
    lost = "lost"
    """Nobody: keys were created, but Redis has lost them."""


class KeysRequired:
    """A record that keys exist, kept outside Redis so that an emptied Redis does not open the service.

    Args:
        data_dir: folder of the marker file.
    """

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / MARKER
        self._noted = False

    def note(self) -> None:
        """Record that keys exist, in this process and in the file. Logs a warning if the file cannot be written."""
        if self._noted:
            return
        self._noted = True
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(MARKER_TEXT)
        except OSError as error:
            log.warning(
                "cannot write %s (%s): after a restart, only Redis knows that API keys exist; "
                "set ADASPA_OPEN_ACCESS=false to be safe",
                self.file,
                error.strerror,
            )

    def __bool__(self) -> bool:
        try:
            return self._noted or self.file.exists()
        except OSError as error:
            raise SettingsError(f"ADASPA_DATA_DIR: cannot read {self.file} ({error.strerror})") from error


class Entrance:
    """Decides who may use the service, for each request: the first key closes an open service at once.

    Args:
        settings: the gateway's settings.
        keys: the gateway's key store.
    """

    def __init__(self, settings: Settings, keys: KeyStore) -> None:
        self.settings, self.keys = settings, keys
        self.required = KeysRequired(settings.data_dir)

    def now(self) -> Access:
        """Return who may use the service now. Raises StoreUnavailable."""
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
        return Access.token if settings.open_access is None and is_loopback(settings.host) else Access.keys

    @property
    def command(self) -> str:
        """Command that creates a key for this service, wherever it is run."""
        told = "data_dir" in self.settings.model_fields_set
        return "adaspa keys create --name NAME" + (f" --data-dir {self.settings.data_dir.resolve()}" if told else "")

    def check(self) -> str:
        """Describe in one line who may use the service, when it starts.

        Raises:
            SettingsError: the service would be open without permission, or closed to everyone.
            StoreUnavailable: Redis does not answer.
        """
        settings, access = self.settings, self.now()
        if access is Access.everybody:
            return f"open to everyone who can reach {settings.host}, because ADASPA_OPEN_ACCESS is true"
        if access is Access.token:
            return f"only you, on this machine; to require API keys instead, run `{self.command}`"
        if access is Access.lost:
            raise SettingsError(self.lost())
        if settings.bootstrap_key is None and not self.keys.exist() and not is_loopback(settings.host):
            raise SettingsError(
                f"host {settings.host} is reachable from other machines, but there is no API key: create one with "
                f"`{self.command}`, set ADASPA_BOOTSTRAP_KEY, or let everyone in with ADASPA_OPEN_ACCESS=true"
            )
        return "every request needs an API key"

    def lost(self) -> str:
        """Describe why nobody may use the service, and how to change that."""
        return (
            f"API keys were created for this service ({self.required.file} exists), but Redis has none: it was "
            f"emptied, or is another server. Restore it, create a key with `{self.command}`, or remove that file "
            "to start without keys"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach that address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
