"""Notes that a client stores with a job: key-value pairs, and the end user's name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaspa_api.json_text import each_once, read_json
from adaspa_api.limits import Entry, Refused, inside, shown

MOST_PAIRS = 16
KEY_CHARS, VALUE_CHARS = 64, 512
USER_CHARS = 256
OBJECT = "an object whose values are strings"
PAIR = re.compile(r"metadata\[(.+)\]", re.S)
"""Name of a form field or query parameter that holds one pair, as OpenAI's clients send objects."""


@dataclass(frozen=True)
class Pairs:
    """Key-value pairs of strings: an object, JSON text, or comma-separated ``KEY=VALUE``."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> dict[str, str]:
        """Return the pairs by key."""
        pairs = read(value) if isinstance(value, str) else dict(value or {})
        if len(pairs) > MOST_PAIRS:
            raise Refused(f"has {len(pairs)} pairs; allowed: {self.allowed(entry)}")
        for key, text in pairs.items():
            if not 1 <= len(key) <= KEY_CHARS or len(text) > VALUE_CHARS:
                raise Refused(f"{shown(key)}: the key or value is too long or empty; allowed: {self.allowed(entry)}")
        return pairs

    def allowed(self, entry: Entry) -> str:
        sizes = f"keys of 1 to {KEY_CHARS} and values of up to {VALUE_CHARS} characters"
        return f"up to {MOST_PAIRS} pairs of strings, {sizes}"

    def schema(self, entry: Entry) -> dict[str, Any]:
        key, text = {"minLength": 1, "maxLength": KEY_CHARS}, {"type": "string", "maxLength": VALUE_CHARS}
        return {"maxProperties": MOST_PAIRS, "propertyNames": key, "additionalProperties": text}


def read(text: str) -> dict[str, str]:
    """Parse pairs from a string. Raises Refused."""
    if text.lstrip().startswith("{"):
        found = read_json(text, OBJECT)
        if wrong := next((key for key, value in found.items() if not isinstance(value, str)), None):
            raise Refused(f"is not a string; allowed: {OBJECT}", inside([wrong]))
        return dict(found)
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise Refused(f"{shown(part)} cannot be read; allowed: KEY=VALUE,... or a JSON object")
        pairs.append((key.strip(), value.strip()))
    return each_once(pairs)


@dataclass(frozen=True)
class Name:
    """Name that a client gives an end user."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        if value is not None and not 1 <= len(value) <= USER_CHARS:
            raise Refused(f"has {len(value)} characters; allowed: {self.allowed(entry)}")
        return value

    def allowed(self, entry: Entry) -> str:
        return f"a text of 1 to {USER_CHARS} characters"

    def schema(self, entry: Entry) -> dict[str, Any]:
        return {"minLength": 1, "maxLength": USER_CHARS}
