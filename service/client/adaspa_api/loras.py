"""LoRA adapters in a request, and their limits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adaspa_api.json_text import read_json
from adaspa_api.limits import Entry, Refused, inside, shown

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of an adapter's name."""
MOST_USES = 16
"""Adapters that any model may take in one request; more are not even read."""


class LoraUse(BaseModel):
    """A LoRA adapter applied to a video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME, description="Name of one of the model's adapters.")
    scale: float | None = Field(
        default=None, allow_inf_nan=False, description="Strength. Default: the adapter's own `scale`."
    )
    sha256: str | None = Field(
        default=None,
        description="SHA-256 of the adapter's file. If set, the request is rejected once the file changes.",
    )


Uses = Annotated[list[LoraUse], Field(max_length=MOST_USES, fail_fast=True)]
"""Adapters of a request; reading them ends at the first one that is wrong or too many."""
LIST: TypeAdapter[list[LoraUse]] = TypeAdapter(Uses)
AS_LIST = "a list of name and scale"


@dataclass(frozen=True)
class Loras:
    """LoRA adapters of the model: a list, its JSON text, or a comma-separated ``NAME:SCALE`` string."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> list[LoraUse] | None:
        """Return the model's default adapters that the request does not name, then the requested ones."""
        asked = read(value) if isinstance(value, str) else value or []
        if asked and not entry.loras:
            raise Refused(f"is not supported by model {entry.id}; allowed: none")
        named = {use.name for use in asked}
        uses = [
            self._one(use, entry) for use in (*(own for own in entry.default_loras if own.name not in named), *asked)
        ]
        self._together(uses, entry)
        return uses or None

    def allowed(self, entry: Entry) -> str:
        if not entry.loras:
            return "none"
        named = ", ".join(f"{lora.name} ({lora.scale_range[0]:g} to {lora.scale_range[1]:g})" for lora in entry.loras)
        return f"up to {entry.max_loras} of {named}, as {AS_LIST}, or as NAME:SCALE,..."

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        if not entry.loras:
            return None
        return {"items": {"oneOf": [_schema(lora) for lora in entry.loras]}, "maxItems": entry.max_loras}

    def _one(self, use: LoraUse, entry: Entry) -> LoraUse:
        lora = next((lora for lora in entry.loras if lora.name == use.name), None)
        if lora is None:
            raise Refused(f"{shown(use.name)} does not exist; allowed: {', '.join(lora.name for lora in entry.loras)}")
        scale, (low, high) = lora.scale if use.scale is None else use.scale, lora.scale_range
        if not low <= scale <= high:
            raise Refused(f"{use.name}: scale {shown(scale)} is out of range; allowed: {low:g} to {high:g}")
        if use.sha256 not in (None, lora.sha256):
            raise Refused(f"{use.name}: the adapter's file has changed; allowed: no sha256, or {lora.sha256}")
        return LoraUse(name=lora.name, scale=scale, sha256=lora.sha256)

    def _together(self, uses: Sequence[LoraUse], entry: Entry) -> None:
        """Check the combination. Raises Refused for too many, duplicate or mutually exclusive adapters."""
        if len(uses) > entry.max_loras:
            own = f" ({len(entry.default_loras)} are the model's defaults)" if entry.default_loras else ""
            raise Refused(f"{len(uses)} adapters{own}; allowed: up to {entry.max_loras}")
        if twice := [name for name, times in Counter(use.name for use in uses).items() if times > 1]:
            raise Refused(f"{twice[0]} is named twice; allowed: each adapter once")
        groups: dict[str, str] = {}
        for lora in (lora for use in uses for lora in entry.loras if lora.name == use.name and lora.group):
            if lora.group in groups:
                raise Refused(f"{groups[lora.group]} and {lora.name} cannot be combined; allowed: one of the two")
            groups[lora.group] = lora.name


def read(text: str) -> list[LoraUse]:
    """Parse JSON text, or a comma-separated string of ``NAME`` or ``NAME:SCALE``. Raises Refused."""
    if text.lstrip().startswith("["):
        try:
            return LIST.validate_python(read_json(text, AS_LIST), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            why = f"{first['msg'][:1].lower()}{first['msg'][1:]}; allowed: {AS_LIST}"
            raise Refused(why, inside(first["loc"])) from error
    found = []
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MOST_USES:
        raise Refused(f"{len(parts)} adapters; allowed: up to {MOST_USES}")
    for part in parts:
        name, _, scale = part.partition(":")
        try:
            found.append(LoraUse(name=name.strip(), scale=float(scale) if scale else None))
        except ValueError as error:
            raise Refused(f"{shown(part)} cannot be read; allowed: NAME or NAME:SCALE, separated by commas") from error
    return found


def _schema(lora: Any) -> dict[str, Any]:
    low, high = lora.scale_range
    scale = {"type": "number", "minimum": low, "maximum": high, "default": lora.scale}
    properties = {"name": {"const": lora.name}, "scale": scale, "sha256": {"const": lora.sha256}}
    return {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
