"""Where a gateway without API keys leaves its token for the programs of its user."""

import os
import platform
from pathlib import Path


def token_file(port: int) -> Path:
    """Where the gateway at this port of this machine leaves its token: in the user's folder for programs' state.

    The machine is in the name, because several may share a user's folders.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    folder = state if state.is_absolute() else Path.home() / ".local" / "state"
    return folder / "adaspa" / f"token-{platform.node()}-{port}"
