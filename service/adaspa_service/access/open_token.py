"""Token of a gateway without API keys, in files that only its user can read."""

from contextlib import suppress
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile

from adaspa_api.token_file import port_of, token_file
from adaspa_jobs.listening import local_url
from adaspa_jobs.settings import Settings, SettingsError
from pydantic import SecretStr

REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>AdaSpa</title>
<meta http-equiv="refresh" content="0; url={address}">
<a href="{address}">Open AdaSpa</a>
"""


def leave(token: SecretStr, port: int) -> None:
    """Write the token file, readable by its owner only. Raises SettingsError."""
    try:
        _write(token_file(port), token.get_secret_value() + "\n")
    except (OSError, RuntimeError) as error:
        raise SettingsError(
            f"cannot write the token file for local programs ({error}): set XDG_STATE_HOME to a folder of yours, "
            "create an API key with `adaspa keys create`, or let everyone in with ADASPA_OPEN_ACCESS=true"
        ) from error


def take_away(token: SecretStr, port: int) -> None:
    """Remove the token's files, unless another gateway has replaced the token meanwhile."""
    with suppress(OSError):
        if token_file(port).read_text().strip() == token.get_secret_value():
            token_file(port).unlink()
            redirect_file(port).unlink(missing_ok=True)


def page(settings: Settings, token: SecretStr) -> str:
    """Return the page's address with the token, behind the # that a browser never sends."""
    return with_token(local_url(settings.host, settings.port), token.get_secret_value())


def with_token(url: str, token: str) -> str:
    """Return the address of the page at ``url`` with the token."""
    return f"{url}/#token={token}"


def leave_redirect(url: str, token: str) -> Path:
    """Write a file that leads a browser to the page with the token, readable by its owner only. Raises OSError.

    A program's arguments are visible to all users of a machine: a browser gets the name of this file, not the token.
    The file is as secret as the token file, and goes with it.
    """
    file = redirect_file(port_of(url))
    _write(file, REDIRECT.format(address=escape(with_token(url, token))))
    return file


def redirect_file(port: int) -> Path:
    """Return the file that leads a browser to the page of the gateway at this port."""
    return token_file(port).with_name(f"{token_file(port).name}.html")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}-", delete=False) as part:  # of mode 0600
        part.write(text)
    Path(part.name).replace(file)
