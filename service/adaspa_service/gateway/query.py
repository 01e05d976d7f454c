"""Queries: their names, and the filters ``metadata[KEY]=VALUE`` of a list of jobs."""

from collections import Counter
from collections.abc import Collection
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
    pairs = {name: match[1] for name in request.query_params if (match := PAIR.fullmatch(name))}
    check_names(request, [*PAGE, *pairs], f"{', '.join(PAGE)} and metadata[KEY]=VALUE")
    return {key: request.query_params[name] for name, key in pairs.items()}


def check_names(request: Request, names: Collection[str], allowed: str = "") -> None:
    """Refuse parameters of other names, which would be ignored, and those that are given twice.

    Args:
        request: to read the query of.
        names: parameters that it may have.
        allowed: the names as the error tells them; joined by commas if empty.

    Raises:
        ApiError: 400 with the parameter.
    """
    known = frozenset(names)
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known or times > 1:
            message = f"{name}: unknown, or given twice; allowed: {allowed or ', '.join(names)}"
            raise bad_field(name, message, "unknown_parameter")
