"""``conditions``: a list of images by their role, another way to give the fields that are images."""

from collections.abc import Iterator, Mapping
from typing import Any

from adaspa_api.limits import shown
from adaspa_api.words import Role

from adaspa_service.errors import bad_field

NAME = "conditions"
KIND = "image"


def schema(images: Mapping[str, Role]) -> dict[str, Any]:
    """What it is, as JSON Schema."""
    properties = {
        "role": {"enum": list(images.values())},
        "kind": {"const": KIND},
        "url": {"type": "string", "description": "A URL or a data URI."},
    }
    item = {"type": "object", "properties": properties, "required": ["role", "url"], "additionalProperties": False}
    return {
        "type": "array",
        "items": item,
        "description": "Images with their roles, as an alternative to the image fields.",
    }


def by_field(given: object, images: Mapping[str, Role]) -> Iterator[tuple[str, object]]:
    """The fields that are given so, with what is given.

    Args:
        given: the list, as it came.
        images: the roles of the fields that are images.

    Raises:
        ApiError: 400 with what is allowed.
    """
    allowed = f"allowed: a list of objects with role ({', '.join(images.values())}), kind ({KIND}) and url"
    fields = {role: name for name, role in images.items()}
    if not isinstance(given, list):
        raise bad_field(NAME, f"{NAME}: is not a list; {allowed}", "invalid_type")
    for place, one in enumerate(given):
        name = f"{NAME}[{place}]"
        if not isinstance(one, dict) or not {"role", "url"} <= set(one) <= {"role", "kind", "url"}:
            raise bad_field(NAME, f"{name}: has missing or unknown keys; {allowed}")
        for key, value, words in (("role", one["role"], fields), ("kind", one.get("kind", KIND), (KIND,))):
            if not isinstance(value, str) or value not in words:
                raise bad_field(NAME, f"{name}.{key}: {shown(value)} is not supported; allowed: {', '.join(words)}")
        yield fields[one["role"]], one["url"]
