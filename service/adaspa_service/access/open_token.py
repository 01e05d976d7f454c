"""The token of a gateway without API keys: left where the programs of its user find it."""

from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from adaspa_api.token_file import token_file
from adaspa_jobs.listening import local_url
from adaspa_jobs.settings import Settings, SettingsError
from pydantic import SecretStr


def leave(token: SecretStr, port: int) -> None:
    """Write the file, for its owner alone. Raises SettingsError."""
    try:
        file = token_file(port)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}-", delete=False) as part:  # of mode 0600
            part.write(token.get_secret_value() + "\n")
        Path(part.name).replace(file)
    except (OSError, RuntimeError) as error:
        raise SettingsError(
            f"the token for this machine's programs cannot be kept ({error}): set XDG_STATE_HOME to a folder of yours, "
            "make an API key with `adaspa keys create`, or let everybody in with ADASPA_OPEN_ACCESS=true"
        ) from error


def take_away(token: SecretStr, port: int) -> None:
    """Remove the file, unless another gateway's token is in it by now."""
    with suppress(OSError):
        if token_file(port).read_text().strip() == token.get_secret_value():
            token_file(port).unlink()


def page(settings: Settings, token: SecretStr) -> str:
    """The page's address with the token: behind the #, which a browser sends to nobody."""
    return f"{local_url(settings.host, settings.port)}/#token={token.get_secret_value()}"
