"""Classes and schemas derived from ``adaspa_api.fields``: job parameters, catalog limits, JSON Schema of requests."""

from functools import cache
from typing import Annotated, Any, TypeVar

from adaspa_api.fields import Kept, Row, VideoCreate, rows
from adaspa_api.limits import Media, Range, StepsRange
from pydantic import BaseModel, Field, create_model

Made = TypeVar("Made", bound=BaseModel)


def of_rows(record: type[Made]) -> type[Made]:
    """Return the class with the bounds common to all models, and the version that added each field."""
    fields: dict[str, Any] = {}
    for name, row in rows(Kept).items():
        field = record.model_fields[name]
        own = [*bounds(row), Field(json_schema_extra={"since": row.since})]
        fields[name] = (Annotated[field.annotation, *own], ... if field.is_required() else field.default)
    return remade(record, fields)


def bounds(row: Row) -> list[Any]:
    """Return a field's bounds that hold for all models and versions: an earlier one may have allowed more."""
    if isinstance(row.limits, StepsRange):
        return [Field(ge=0)]
    if not isinstance(row.limits, Range):
        return []
    if isinstance(row.limits.limits, tuple):
        return [Field(ge=row.limits.limits[0])]
    return list(getattr(row.limits.each, "__metadata__", ()))


def with_limits(entry: type[Made]) -> type[Made]:
    """Return the class of catalog entries with an optional limit for each row that declares one."""
    fields: dict[str, Any] = {}
    for name, limits in made().items():
        kind = tuple[limits.each, limits.each]  # type: ignore[name-defined]
        help = f"Minimum and maximum ``{name}`` that clients may choose."
        if limits.usual is None:
            kind, help = kind | None, f"{help} ``null``: clients cannot set it."
        fields[str(limits.limits)] = (kind, Field(default=limits.usual, description=help))
    return remade(entry, fields)


def remade(model: type[Made], fields: dict[str, Any]) -> type[Made]:
    """Return the class with other fields, under the same name."""
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)


def made() -> dict[str, Range]:
    """Return the limits of rows that add a limit to the catalog, by field name."""
    found = {name: row.limits for name, row in rows(Kept).items()}
    return {name: limits for name, limits in found.items() if isinstance(limits, Range) and limits.each is not None}


def json_schema(entry: BaseModel) -> dict[str, Any]:
    """Return a JSON Schema of the requests that a model accepts.

    Args:
        entry: the model's catalog entry.
    """
    properties: dict[str, Any] = {}
    required = [name for name, field in VideoCreate.model_fields.items() if field.is_required()]
    for name, row in rows(VideoCreate).items():
        if isinstance(row.limits, Media) and row.limits.needed(entry):
            required.append(name)
        limits = row.limits.schema(entry)
        if limits is not None:
            help = " ".join((VideoCreate.model_fields[name].description or "").split())
            properties[name] = {"title": row.label, "description": help, "type": kinds()[name], **limits}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@cache
def kinds() -> dict[str, str | list[str]]:
    """Return the JSON type of each request field, or a list if it takes several."""
    found = {}
    for name, schema in VideoCreate.model_json_schema()["properties"].items():
        types = [part["type"] for part in schema.get("anyOf", [schema]) if part["type"] != "null"]
        found[name] = types[0] if len(types) == 1 else types
    return found
