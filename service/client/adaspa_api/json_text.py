"""JSON in the text of a field, as forms and command lines have it."""

import json
from typing import Any

from adaspa_api.limits import Refused, shown


def read_json(text: str, allowed: str) -> Any:
    """Parse JSON: no name twice, and no half of a surrogate pair, which is no text.

    Args:
        text: of the field.
        allowed: what the field takes, for the message.

    Raises:
        Refused: it is something else.
    """
    try:
        found = json.loads(text, object_pairs_hook=each_once)
        json.dumps(found, ensure_ascii=False).encode()
    except Refused:
        raise
    except (ValueError, RecursionError) as error:  # also a number too long for Python, or nesting too deep
        raise Refused(f"is not valid JSON; allowed: {allowed}") from error
    return found


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs by key. Raises Refused if a key comes twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refused(f"{shown(key)}: given more than once; allowed: each key once")
        found[key] = value
    return found
