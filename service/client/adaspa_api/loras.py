"""LoRA adapters: what a request names, and the limit that holds for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from adaspa_api.limits import Entry, Refused, shown

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of an adapter."""


class LoraUse(BaseModel):
    """An adapter that a video is made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME, description="One of the model's.")
    scale: float | None = Field(default=None, allow_inf_nan=False, description="Its strength; default: its own.")
    sha256: str | None = Field(
        default=None, description="Of its file; a request that names it is refused once the file is another one."
    )


@dataclass(frozen=True)
class Loras:
    """Adapters of the model's, in a list, or as a text: ``NAME:SCALE`` between commas."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> list[LoraUse] | None:
        """Those that were asked for, with scale and hash, after the model's own ones that the request does not name."""
        asked = read(value) if isinstance(value, str) else value or []
        if asked and not entry.loras:
            raise Refused(f"is not offered with model {entry.id}; allowed: none")
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
        return f"up to {entry.max_loras} of {named}, as a list of name and scale or as NAME:SCALE between commas"

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        if not entry.loras:
            return None
        return {"items": {"oneOf": [_schema(lora) for lora in entry.loras]}, "maxItems": entry.max_loras}

    def _one(self, use: LoraUse, entry: Entry) -> LoraUse:
        lora = next((lora for lora in entry.loras if lora.name == use.name), None)
        if lora is None:
            raise Refused(f"{shown(use.name)} is not offered; allowed: {', '.join(lora.name for lora in entry.loras)}")
        scale, (low, high) = lora.scale if use.scale is None else use.scale, lora.scale_range
        if not low <= scale <= high:
            raise Refused(f"{use.name}: scale {shown(scale)} is out of range; allowed: {low:g} to {high:g}")
        if use.sha256 not in (None, lora.sha256):
            raise Refused(f"{use.name}: its file is another one now; allowed: without sha256, or {lora.sha256}")
        return LoraUse(name=lora.name, scale=scale, sha256=lora.sha256)

    def _together(self, uses: Sequence[LoraUse], entry: Entry) -> None:
        """Raises Refused: too many, one of them twice, or two that exclude each other."""
        if len(uses) > entry.max_loras:
            own = f", {len(entry.default_loras)} of them the model's own" if entry.default_loras else ""
            raise Refused(f"{len(uses)} of them{own}; allowed: {entry.max_loras}")
        if twice := [name for name, times in Counter(use.name for use in uses).items() if times > 1]:
            raise Refused(f"{twice[0]} is there twice; allowed: each once")
        groups: dict[str, str] = {}
        for lora in (lora for use in uses for lora in entry.loras if lora.name == use.name and lora.group):
            if lora.group in groups:
                raise Refused(f"{groups[lora.group]} and {lora.name} do not go together; allowed: one of the two")
            groups[lora.group] = lora.name


def read(text: str) -> list[LoraUse]:
    """The adapters that a text names: ``NAME`` or ``NAME:SCALE`` between commas. Raises Refused."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, scale = part.partition(":")
        try:
            found.append(LoraUse(name=name.strip(), scale=float(scale) if scale else None))
        except ValueError as error:
            raise Refused(f"{shown(part)} is no NAME or NAME:SCALE; allowed: such, between commas") from error
    return found


def _schema(lora: Any) -> dict[str, Any]:
    low, high = lora.scale_range
    scale = {"type": "number", "minimum": low, "maximum": high, "default": lora.scale}
    properties = {"name": {"const": lora.name}, "scale": scale, "sha256": {"const": lora.sha256}}
    return {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
