"""Address of Redis, read once for every client: redis-py and Celery's transport spell the same URL differently."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

FORMS = (
    "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, unix://[[USER]:PASSWORD@]/PATH[?db=DB], or "
    "redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT].../NAME[/DB]"
)
SENTINEL = ("redis+sentinel", "rediss+sentinel")
TLS = ("rediss", "rediss+sentinel")
PORT, SENTINEL_PORT = 6379, 26379
LEAST_ANSWER_SECONDS = 2.0
"""A client that waits for a message or an event waits for a second, and then for the answer."""


@dataclass(frozen=True)
class RedisAddress:
    """Address and credentials of Redis. As text it has no password."""

    scheme: str
    places: tuple[tuple[str, int], ...]
    """Host and port of the server, or of each Sentinel; none of a unix socket."""
    path: str = ""
    """Path of a unix socket."""
    service: str = ""
    """Name under which Sentinels know the primary."""
    db: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Other parts of the URL, by redis-py's names: ``username``, ``password``, time-outs, TLS."""
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """``username`` and ``password`` at the Sentinels."""

    @property
    def transport(self) -> Literal["unix", "tcp", "tls"]:
        """Kind of its connections."""
        return "unix" if self.scheme == "unix" else "tls" if self.scheme in TLS else "tcp"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}?db={self.db}"
        places = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.places)
        return f"{self.scheme}://{places}/{f'{self.service}/' if self.service else ''}{self.db}"

    @classmethod
    def of(cls, url: str) -> "RedisAddress":
        """Read a URL.

        Raises:
            ValueError: what is wrong with it and what is allowed, without a word of what may be a secret.
        """
        parts, scheme = _split(url), url.partition("://")[0]
        given = _options(parts.query)
        unknown = sorted(set(given) - set(_allowed(scheme)))
        if unknown:
            shown = unknown[0] if re.fullmatch("[a-z_]{1,40}", unknown[0]) else "one"
            raise ValueError(f"{scheme}:// has no option {shown}; allowed: {', '.join(sorted(_allowed(scheme)))}")
        read = {name: _read(name, value) for name, value in given.items()}
        login = _login(parts)
        if twice := sorted(set(login) & set(read)):
            raise ValueError(f"{twice[0]} is given twice, before the host and as an option")
        read = login | read
        sentinel = {name.removeprefix("sentinel_"): read.pop(name) for name in sorted(set(read) & set(_OF_SENTINELS))}
        if scheme == "unix":
            db = read.pop("db", 0)
            return cls(scheme, (), path=unquote(parts.path), db=db, options=read, sentinel_login=sentinel)
        service, db = _path(scheme, parts.path, read.pop("db", None))
        return cls(scheme, _places(scheme, parts), "", service, db, read, sentinel)


def _split(url: str) -> SplitResult:
    scheme = url.partition("://")[0]
    if scheme in ("sentinel", "redis-sentinel"):
        raise ValueError(f"{scheme}:// is written redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB here")
    if scheme not in ("redis", "rediss", "unix", *SENTINEL) or "://" not in url:
        raise ValueError(f"not a Redis URL; allowed: {FORMS}")
    # What urllib says of a broken address may quote a part of the password.
    misread = ValueError("the port is not a number; in a password, write / ? # @ : as %2F %3F %23 %40 %3A")
    try:
        parts = urlsplit(url)
        if scheme not in SENTINEL:
            parts.port  # noqa: B018
    except ValueError:
        raise misread from None
    if parts.fragment or (scheme != "unix" and "@" in parts.path):
        raise misread
    if scheme == "unix" and not (parts.path and not parts.netloc.rpartition("@")[2]):
        raise ValueError("a unix socket's path must begin with /: unix:///PATH, unix://:PASSWORD@/PATH")
    return parts


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise ValueError("an option is given twice")
        found[name] = value
    return found


def _login(parts: SplitResult) -> dict[str, str]:
    """User and password; without a user it is Redis' own, ``default``."""
    before, at, _ = parts.netloc.rpartition("@")
    user, _, password = before.partition(":")
    if at and user and not password:
        raise ValueError("a user without a password; write a password alone as :PASSWORD@ before the host")
    return {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}


def _places(scheme: str, parts: SplitResult) -> tuple[tuple[str, int], ...]:
    if scheme not in SENTINEL:
        return ((parts.hostname or "localhost", parts.port or PORT),)
    listed = parts.netloc.rpartition("@")[2].split(",")
    try:
        split = [urlsplit(f"//{each}") for each in listed]
        places = tuple((each.hostname or "", each.port or SENTINEL_PORT) for each in split)
    except ValueError:
        places = ()
    if not places or not all(host for host, _ in places):
        raise ValueError("Sentinels cannot be read; write them as HOST:PORT,HOST:PORT")
    return places


def _path(scheme: str, path: str, db: int | None) -> tuple[str, int]:
    """Read the primary's name and the database."""
    service, number = "", path.strip("/")
    if scheme in SENTINEL:
        service, _, number = number.partition("/")
        if not service:
            raise ValueError(f"the primary's name is missing: {scheme}://HOST:PORT,HOST:PORT/NAME/DB")
    if number and not re.fullmatch("[0-9]{1,9}", number):
        raise ValueError("the database after the host is not a number; allowed: a number, such as /0")
    if number and db is not None and int(number) != db:
        raise ValueError("two databases are given, one after the host and one as the option db")
    return unquote(service), int(number) if number else db or 0


def _whole(text: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ValueError(f"a whole number from {least} to {most}")
    return int(text)


def _seconds(text: str, least: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= 3600:
        raise ValueError(f"seconds from {least} to 3600")
    return seconds


def _word(text: str, meanings: Mapping[str, Any]) -> Any:
    if text.lower() not in meanings:
        raise ValueError(f"one of {', '.join(meanings)}")
    return meanings[text.lower()]


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("an existing file")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("a value")
    return text


# The spellings of redis-py and of Celery. A client cannot ask for less than all of what "optional" would.
_CERTIFICATE = {"required": "required", "none": "none", "optional": "required"}
_CERTIFICATE |= {f"cert_{name}": meaning for name, meaning in _CERTIFICATE.items()}
_YES_OR_NO = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_ALWAYS: dict[str, Callable[[str], Any]] = {
    "db": partial(_whole, least=0, most=999_999_999),
    "username": _text,
    "password": _text,
    "client_name": _text,
    "protocol": partial(_whole, least=2, most=3),
    "health_check_interval": partial(_whole, least=1, most=3600),
    "socket_timeout": partial(_seconds, least=LEAST_ANSWER_SECONDS),
    "socket_connect_timeout": partial(_seconds, least=0.1),
}
_OF_TLS: dict[str, Callable[[str], Any]] = {
    "ssl_cert_reqs": partial(_word, meanings=_CERTIFICATE),
    "ssl_check_hostname": partial(_word, meanings=_YES_OR_NO),
    "ssl_ca_certs": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
}
_OF_SENTINELS: dict[str, Callable[[str], Any]] = {"sentinel_username": _text, "sentinel_password": _text}


def _allowed(scheme: str) -> dict[str, Callable[[str], Any]]:
    return _ALWAYS | (_OF_TLS if scheme in TLS else {}) | (_OF_SENTINELS if scheme in SENTINEL else {})


def _read(name: str, text: str) -> Any:
    try:
        return (_ALWAYS | _OF_TLS | _OF_SENTINELS)[name](text)
    except ValueError as error:
        raise ValueError(f"its option {name} cannot be read; allowed: {error}") from None
