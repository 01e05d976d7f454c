"""What the rows of ``adaspa_api.fields`` make of a job's parameters, of a catalog entry, and of what a model takes."""

from functools import cache
from typing import Annotated, Any, TypeVar

from adaspa_api.fields import Kept, Row, VideoCreate, rows
from adaspa_api.limits import Picture, Range, StepsRange
from pydantic import BaseModel, Field, create_model

Made = TypeVar("Made", bound=BaseModel)


def of_rows(record: type[Made]) -> type[Made]:
    """The class with the bounds that hold for every model, and with the version that brought each field."""
    fields: dict[str, Any] = {}
    for name, row in rows(Kept).items():
        field = record.model_fields[name]
        own = [*bounds(row), Field(json_schema_extra={"since": row.since})]
        fields[name] = (Annotated[field.annotation, *own], ... if field.is_required() else field.default)
    return remade(record, fields)


def bounds(row: Row) -> list[Any]:
    """What holds for a field of every model."""
    if isinstance(row.limits, StepsRange):
        return [Field(ge=0)]
    if not isinstance(row.limits, Range):
        return []
    if isinstance(row.limits.limits, tuple):
        return [Field(ge=row.limits.limits[0], le=row.limits.limits[1])]
    return list(getattr(row.limits.each, "__metadata__", ()))


def with_limits(entry: type[Made]) -> type[Made]:
    """The class of catalog entries with the limits that no entry has to name, one for each row that says so."""
    fields: dict[str, Any] = {}
    for name, limits in made().items():
        kind = tuple[limits.each, limits.each]  # type: ignore[name-defined]
        help = f"Least and greatest ``{name}`` that a client may choose."
        if limits.usual is None:
            kind, help = kind | None, f"{help} ``null``: none may be chosen."
        fields[str(limits.limits)] = (kind, Field(default=limits.usual, description=help))
    return remade(entry, fields)


def remade(model: type[Made], fields: dict[str, Any]) -> type[Made]:
    """The class with other fields, under its own name."""
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)


def made() -> dict[str, Range]:
    """The rows that bring limits of the catalog with them, by the field's name."""
    found = {name: row.limits for name, row in rows(Kept).items()}
    return {name: limits for name, limits in found.items() if isinstance(limits, Range) and limits.each is not None}


def json_schema(entry: BaseModel) -> dict[str, Any]:
    """What a request may ask of a model, as JSON Schema.

    Args:
        entry: of the catalog.
    """
    properties: dict[str, Any] = {}
    required = [name for name, field in VideoCreate.model_fields.items() if field.is_required()]
    for name, row in rows(VideoCreate).items():
        if isinstance(row.limits, Picture) and row.limits.needed(entry):
            required.append(name)
        limits = row.limits.schema(entry)
        if limits is not None:
            help = " ".join((VideoCreate.model_fields[name].description or "").split())
            properties[name] = {"title": row.label, "description": help, "type": kinds()[name], **limits}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@cache
def kinds() -> dict[str, str | list[str]]:
    """The JSON type of each field of a request; of one that takes several, the list of them."""
    found = {}
    for name, schema in VideoCreate.model_json_schema()["properties"].items():
        types = [part["type"] for part in schema.get("anyOf", [schema]) if part["type"] != "null"]
        found[name] = types[0] if len(types) == 1 else types
    return found
