"""Query of a list of jobs: its page, and filters ``metadata[KEY]=VALUE``."""

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


PAGE = ("after", "limit", "order")
"""Parameters that FastAPI reads."""


def metadata_of(request: Request) -> dict[str, str]:
    """Read the pairs that a list's jobs have to have.

    Raises:
        ApiError: 400 for a parameter that is unknown, which would return jobs that were not asked for, or given twice.
    """
    found: dict[str, str] = {}
    given = [name for name, _ in request.query_params.multi_items()]
    for name, value in request.query_params.multi_items():
        match = PAIR.fullmatch(name)
        if (match is None and name not in PAGE) or given.count(name) > 1:
            allowed = f"{', '.join(PAGE)} and metadata[KEY]=VALUE, each of them once"
            raise bad_field(name, f"{name}: is not a parameter of a list; allowed: {allowed}", "unknown_parameter")
        if match:
            found[match[1]] = value
    return found
