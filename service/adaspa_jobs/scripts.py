"""Lua scripts of the store: loaded once, run by name, with connection errors in the store's own words."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from adaspa_jobs.primary import REFUSING

PREFIX = "adaspa:"
"""Prefix of every key; the scripts use the same."""
SHARED = "_shared.lua"
FORBIDDEN = "ACL failure in script"
"""Beginning of the answer if a script runs a command that its user may not: it is no NoPermissionError."""
COMMENT = re.compile(r"^ *--.*\n| +--.*", re.MULTILINE)
DEFINED = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
WORD = re.compile(r"\w+")


class StoreUnavailable(Exception):
    """Redis cannot be reached, or takes no writes."""


@contextmanager
def reaching() -> Iterator[None]:
    """Turn the errors of a Redis that cannot be used into StoreUnavailable; mistakes of ours stay what they are."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, NoPermissionError) as error:
        raise StoreUnavailable(f"Redis cannot be used: {error}") from error
    except ResponseError as error:
        if not str(error).startswith((*REFUSING, FORBIDDEN)):
            raise
        raise StoreUnavailable(f"Redis cannot be used: {error}") from error


class Scripts:
    """Scripts in a package's ``lua/``, each with what it uses of ``lua/_shared.lua`` put before it.

    A full Redis refuses what would make it fuller; for it to get emptier, those that end, remove or keep going what is
    there begin with ``#!lua flags=allow-oom``.

    Args:
        client: of the server they run on.
        limits: JSON that every script gets as its first argument.
        package: whose scripts they are.
    """

    def __init__(self, client: Redis, limits: str, package: str = __package__) -> None:
        self._limits = limits
        shared = (files(__package__) / "lua" / SHARED).read_text()
        sources = {
            item.name.removesuffix(".lua"): item.read_text()
            for item in (files(package) / "lua").iterdir()
            if item.name != SHARED
        }
        self._scripts = {name: client.register_script(_joined(shared, source)) for name, source in sources.items()}

    def run(self, name: str, /, *, content: bytes = b"", **arguments: Any) -> Any:
        """Run one script.

        Args:
            name: of its file.
            content: bytes for a script that takes some.
            arguments: what it reads as ``A.{name}``: all that JSON has; those that are None are left out.

        Raises:
            StoreUnavailable.
        """
        with reaching():
            return self._scripts[name](args=self._given(content, arguments))

    def command(self, name: str, /, **arguments: Any) -> tuple[str | int | bytes, ...]:
        """Return a script's run as a command for a pipeline; a server without the script answers by NOSCRIPT."""
        return "EVALSHA", self._scripts[name].sha, 0, *self._given(b"", arguments)

    def _given(self, content: bytes, arguments: dict[str, Any]) -> list[Any]:
        given = {key: value for key, value in arguments.items() if value is not None}
        return [self._limits, json.dumps(given), content]


def _joined(shared: str, source: str) -> str:
    """Return one script of both; a ``#!`` has to be its very beginning.

    A server makes all functions of a script anew at each call, so it gets only those that it may call: of the shared
    paragraphs, which blank lines part, those that define a name that it or a later one of them has.
    """
    flags, body = source.split("\n", 1) if source.startswith("#!") else ("", source)
    parts = [COMMENT.sub("", body)]
    for paragraph in reversed(COMMENT.sub("", shared).split("\n\n")):
        names = set(WORD.findall(" ".join(DEFINED.findall(paragraph))))
        if any(names & set(WORD.findall(part)) for part in parts):
            parts.insert(0, paragraph)
    return "\n".join([flags, *parts])
