"""What a client notes at a job for itself: pairs of texts, and for whom the job is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaspa_api.limits import Entry, Refused, shown

MOST_PAIRS = 16
KEY_CHARS, VALUE_CHARS = 64, 512
USER_CHARS = 256
PAIR = re.compile(r"metadata\[(.+)\]", re.S)
"""One pair as the name of a form's field, or of a query's, as OpenAI's clients write an object."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts: an object, the same as JSON, or ``KEY=VALUE`` between commas."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> dict[str, str]:
        """The pairs by key."""
        pairs = read(value) if isinstance(value, str) else dict(value or {})
        if len(pairs) > MOST_PAIRS:
            raise Refused(f"{len(pairs)} pairs; allowed: {self.allowed(entry)}")
        for key, text in pairs.items():
            if not 1 <= len(key) <= KEY_CHARS or len(text) > VALUE_CHARS:
                raise Refused(f"{shown(key)}: is too long, or empty; allowed: {self.allowed(entry)}")
        return pairs

    def allowed(self, entry: Entry) -> str:
        return f"up to {MOST_PAIRS} pairs, keys of 1 to {KEY_CHARS} and values of up to {VALUE_CHARS} characters"

    def schema(self, entry: Entry) -> dict[str, Any]:
        key, text = {"minLength": 1, "maxLength": KEY_CHARS}, {"type": "string", "maxLength": VALUE_CHARS}
        return {"maxProperties": MOST_PAIRS, "propertyNames": key, "additionalProperties": text}


def read(text: str) -> dict[str, str]:
    """The pairs of a text. Raises Refused."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Refused("is no JSON object; allowed: an object of texts") from error
        if wrong := next((key for key, value in found.items() if not isinstance(value, str)), None):
            raise Refused(f"{shown(wrong)}: is no text; allowed: an object of texts")
        return dict(found)
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise Refused(f"{shown(part)} is no KEY=VALUE; allowed: such, between commas, or a JSON object")
        pairs[key.strip()] = value.strip()
    return pairs


@dataclass(frozen=True)
class Name:
    """A name of the client's own for somebody."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        if value is not None and not 1 <= len(value) <= USER_CHARS:
            raise Refused(f"{len(value)} characters; allowed: {self.allowed(entry)}")
        return value

    def allowed(self, entry: Entry) -> str:
        return f"a text of 1 to {USER_CHARS} characters"

    def schema(self, entry: Entry) -> dict[str, Any]:
        return {"minLength": 1, "maxLength": USER_CHARS}
