"""Filters of a list of jobs: ``metadata[KEY]=VALUE``."""

from typing import Any

from adaspa_api.metadata import PAIR
from fastapi import Request

from adaspa_service.errors import bad_field

OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "description": "Return only jobs whose metadata has all of these pairs: `metadata[KEY]=VALUE`.",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}
"""Description for OpenAPI of what FastAPI cannot see."""


def metadata_of(request: Request) -> dict[str, str]:
    """Read the pairs that a list's jobs have to have. Raises ApiError: 400."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith("metadata"):
            continue
        match = PAIR.fullmatch(name)
        if match is None or match[1] in found:
            raise bad_field(name, f"{name}: is not a filter; allowed: metadata[KEY]=VALUE, each key once")
        found[match[1]] = value
    return found
