"""What the fields of settings and catalog say of themselves, where else it stands: ``python tests/field_tables.py``
brings docs/settings.md, docs/models.md, docs/api.md, the chart's schema and the client's keyword arguments up to it."""

import json
import re
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from adaspa_api.fields import VideoCreate, rows
from adaspa_api.limits import Choice
from adaspa_api.words import Role
from adaspa_jobs.catalog import Lora, Memory, ModelSpec, Parallelism
from adaspa_jobs.settings import PREFIX, Settings
from adaspa_jobs.step_cache import StepCache
from pydantic import BaseModel


class Written(NamedTuple):
    """How a chart's value of another type than text may be given."""

    kind: str
    rule: dict[str, str]
    """Of a text."""


WRITTEN = {
    "integer": Written("integer", {"pattern": "^[0-9]+$"}),
    "number": Written("number", {"pattern": r"^[0-9]*\.?[0-9]+$"}),
    "boolean": Written(
        "boolean", {"pattern": "^([Tt](rue|RUE)?|[Ff](alse|ALSE)?|[Yy](es|ES)?|[Nn][Oo]?|[Oo]([Nn]|[Ff][Ff])|1|0)$"}
    ),
    "array": Written("number", {}),
}
"""By the type of the setting. A list is a text with commas, or its only number; a text is only a text."""
DOCS = Path(__file__).parents[1] / "docs"
CHART_SCHEMA = DOCS.parent / "helm" / "adaspa-serve" / "values.schema.json"
VIDEO_FIELDS = DOCS.parent / "service" / "client" / "adaspa_api" / "video_fields.py"
TABLES: dict[str, list[type[BaseModel]]] = {
    "settings.md": [Settings],
    "models.md": [ModelSpec, Memory, StepCache, Parallelism],
    "loras.md": [Lora],
    "api.md": [VideoCreate],
}
"""By page, whose fields it has a table of, each behind a mark."""


def as_variable(value: Any) -> str:
    """A value as an environment variable has it."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    parts = value if isinstance(value, tuple) else [value]
    return f"`{','.join(str(part).removesuffix('.0') for part in parts)}`"


def as_json(value: Any) -> str:
    """A value as the catalog file has it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    return f"`{json.dumps(value, default=lambda other: other.value if isinstance(other, Enum) else str(other))}`"


def table(model: type[BaseModel]) -> str:
    """Name, default and meaning of each field."""
    if model is VideoCreate:
        lines = ["| field | meaning |", "|---|---|"]
    else:
        lines = [f"| {'setting' if model is Settings else 'field'} | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        meaning = re.sub(r"\s+", " ", field.description).replace("``", "`")
        if model is VideoCreate:
            lines.append(f"| `{name}` | {meaning} |")
        elif model is Settings:
            lines.append(f"| `{PREFIX}{name.upper()}` | {as_variable(field.default)} | {meaning} |")
        else:
            lines.append(f"| `{name}` | {'required' if field.is_required() else as_json(field.default)} | {meaning} |")
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with its tables as they should be."""
    text = (DOCS / page).read_text()
    for model in TABLES[page]:
        mark = f"<!-- From the descriptions of {model.__name__}: make field-tables -->\n\n"
        assert text.count(mark) == 1, f"docs/{page} has no mark {mark}"
        before, after = text.split(mark)
        text = before + mark + table(model) + "\n\n" + re.sub(r"\A(\|.*\n)*\n*", "", after)
    return text


def as_draft_7(part: Any, definitions: dict[str, Any]) -> Any:
    """A part of pydantic's JSON schema as Helm reads it: no references, no tuples, no titles and defaults."""
    if isinstance(part, list):
        return [as_draft_7(inner, definitions) for inner in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        found = definitions[part["$ref"].rpartition("/")[2]]
        return as_draft_7(found | {name: text for name, text in part.items() if name == "description"}, definitions)
    kept = {name: inner for name, inner in part.items() if name not in ("title", "default")}
    if "prefixItems" in kept:
        kept["items"] = kept.pop("prefixItems")
    if "properties" in kept:
        fields = {name: as_draft_7(inner, definitions) for name, inner in kept.pop("properties").items()}
        return {**as_draft_7(kept, definitions), "properties": fields}
    if "description" in kept:
        kept["description"] = re.sub(r"\s+", " ", kept["description"]).replace("``", "`")
    return {name: as_draft_7(inner, definitions) for name, inner in kept.items()}


def as_value(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting's JSON schema as the chart's values may give it: by its own type, or as the variable has it, a text."""
    (kind,) = [part for part in setting.get("anyOf", [setting]) if part.get("type") != "null"]
    said = {"description": as_draft_7({"description": setting["description"]}, {})["description"]}
    written = WRITTEN.get(kind["type"])
    if written is None:
        return said | {name: kind[name] for name in ("type", "enum", "maxLength") if name in kind}
    limits = {name: limit for name, limit in kind.items() if "inimum" in name or "aximum" in name}
    return said | {"type": list(dict.fromkeys([written.kind, "string"])), **limits, **written.rule}


def chart_schema() -> str:
    """The chart's schema with the catalog's fields and the settings as they should be."""
    schema = json.loads(CHART_SCHEMA.read_text())
    settings = Settings.model_json_schema()["properties"]
    known = schema["properties"]["settings"]["properties"]
    schema["properties"]["settings"]["properties"] = {name: as_value(settings[name]) for name in known}
    model = ModelSpec.model_json_schema()
    schema["properties"]["catalog"]["items"] = as_draft_7(model, model["$defs"])
    del schema["properties"]["catalog"]["items"]["$defs"]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def as_written(kind: Any) -> str:
    """A type as it stands in a program."""
    if get_origin(kind) is Annotated:
        return as_written(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(as_written(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return f"Literal[{', '.join(json.dumps(word) for word in get_args(kind))}]"
    if get_origin(kind) is dict:
        return f"Mapping[{', '.join(map(as_written, get_args(kind)))}]"
    if get_origin(kind) is list:
        return f"list[{as_written(get_args(kind)[0])}]"
    return "Mapping[str, Any]" if issubclass(kind, BaseModel) else str(kind.__name__)


def video_fields() -> str:
    """The client's keyword arguments as a module: a type checker reads no class that is made at run time."""
    lines = [
        '"""Optional fields of a request, and the files of a job. ``make field-tables`` generates this file."""\n',
        "from collections.abc import Mapping",
        "from typing import Any, Literal, TypedDict\n",
        "Variant = Literal[",
        *(f'    "{name}",' for name in ("video", "thumbnail", "spritesheet", *(role.variant for role in Role))),
        "]",
        '"""Files of a job: what it made, and what it was made of."""\n\n',
        "class VideoFields(TypedDict, total=False):",
        '    """Optional fields of a request, besides the prompt. ``models`` lists what each model takes."""\n',
    ]
    for name, row in rows(VideoCreate).items():
        words = row.limits.words if isinstance(row.limits, Choice) else None
        kind = Literal[*words] if words else VideoCreate.model_fields[name].annotation
        if name not in ("prompt", "n"):
            lines.append(f"    {name}: {as_written(kind)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for page in TABLES:
        (DOCS / page).write_text(filled(page))
    CHART_SCHEMA.write_text(chart_schema())
    VIDEO_FIELDS.write_text(video_fields())
