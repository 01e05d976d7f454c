"""File in which a gateway without API keys leaves its token for programs of the same user."""

import os
import platform
from pathlib import Path
from urllib.parse import urlsplit


def token_file(port: int) -> Path:
    """Return the token file of the gateway at this port, in the user's state folder.

    Its name includes the machine's, because several machines may share a home folder.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    return folder / "adaspa" / f"token-{platform.node()}-{port}"


def port_of(address: str) -> int:
    """Return the port of an HTTP address, by default that of its scheme."""
    parts = urlsplit(address)
    return parts.port or (443 if parts.scheme == "https" else 80)
