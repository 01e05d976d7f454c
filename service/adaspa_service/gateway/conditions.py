"""``conditions``: a list of images, videos and sounds by their role, another way to give the fields that are such."""

from collections.abc import Iterator, Mapping
from typing import Any

from adaspa_api.limits import shown
from adaspa_api.words import Kind, Role

from adaspa_service.errors import bad_field

NAME = "conditions"
PLACES = ("url", "file")
"""Keys of which one says where it is: a URL, or a data URI; clients use either."""


def place(role: Role) -> Role:
    """Name the role as it is called here, beside its kind: a start video comes first, a sound is a reference."""
    return {Role.start: Role.first, Role.audio: Role.reference}.get(role, role)


def schema(given: Mapping[str, Role]) -> dict[str, Any]:
    """Describe it as JSON Schema."""
    properties = {
        "role": {"enum": list(dict.fromkeys(map(place, given.values())))},
        "kind": {"enum": list(dict.fromkeys(role.kind for role in given.values())), "default": Kind.image},
        **{name: {"type": "string", "description": "A URL or a data URI."} for name in PLACES},
    }
    item: dict[str, Any] = {"type": "object", "properties": properties, "required": ["role"]}
    item |= {"oneOf": [{"required": [name]} for name in PLACES], "additionalProperties": False}
    return {
        "type": "array",
        "items": item,
        "description": "Images, videos and sounds with their roles, as an alternative to their fields.",
    }


def by_field(given: object, roles: Mapping[str, Role]) -> Iterator[tuple[str, str]]:
    """Sort what is given by the fields that mean the same.

    Args:
        given: the list, as it came.
        roles: of the fields that are images, videos or sounds.

    Raises:
        ApiError: 400 with what is allowed.
    """
    fields: dict[str, dict[str, str]] = {}
    for name, role in roles.items():
        fields.setdefault(place(role), {})[role.kind] = name
    kinds = dict.fromkeys(kind for found in fields.values() for kind in found)
    allowed = f"allowed: a list of objects with role ({', '.join(fields)}), kind ({', '.join(kinds)}) and url or file"
    if not isinstance(given, list):
        raise bad_field(NAME, f"{NAME}: is not a list; {allowed}", "invalid_type")
    for number, one in enumerate(given):
        name = f"{NAME}[{number}]"
        places = [each for each in PLACES if isinstance(one, dict) and each in one]
        if len(places) != 1 or not {"role", *places} <= set(one) <= {"role", "kind", *places}:
            raise bad_field(NAME, f"{name}: has missing or unknown keys; {allowed}")
        found = fields[_word(f"{name}.role", one["role"], fields)]
        field, url = found[_word(f"{name}.kind", one.get("kind", Kind.image), found)], one[places[0]]
        if not isinstance(url, str):
            message = f"{name}.{places[0]}: is not a string; allowed: a URL or a data URI"
            raise bad_field(NAME, message, "invalid_type")
        yield field, url


def _word(name: str, value: object, words: Mapping[str, object]) -> str:
    if isinstance(value, str) and value in words:
        return value
    raise bad_field(NAME, f"{name}: {shown(value)} is not supported; allowed: {', '.join(words)}")
