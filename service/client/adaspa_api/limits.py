"""Limits of job fields. Each kind checks a value and describes what is allowed, in words and as JSON Schema.

The limits themselves are in the catalog: a kind names the field of the model's entry, and receives the entry.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from adaspa_api.words import Role, Task

Entry = Any
"""A model's catalog entry, ``adaspa_jobs.catalog.ModelSpec``, which is itself built from these limits."""
KEY = re.compile(r"[A-Za-z_]\w{0,59}", re.ASCII)
"""Key that needs no quotes in the place of an entry."""


class Refused(ValueError):
    """A value is not allowed. The message says why, and what is allowed.

    Args:
        why: the message.
        inside: place of the entry at fault in the field's value, as ``inside`` writes it; empty for the whole value.
    """

    def __init__(self, why: str, inside: str = "") -> None:
        super().__init__(why)
        self.inside = inside

    def of(self, field: str) -> str:
        """Return the message of a field, which names the entry at fault."""
        return f"{field}{self.inside}: {self}"


class Limit(Protocol):
    """A kind of limit."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        """Return the value, or the model's default if there is none.

        Args:
            settled: the fields before this one, by name.

        Raises:
            Refused: the value is not allowed.
        """

    def allowed(self, entry: Entry) -> str:
        """Describe the allowed values in words."""

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        """Return JSON Schema keywords for the allowed values, or None if the model does not take the field."""


@dataclass(frozen=True)
class Range:
    """A number between a minimum and a maximum.

    Args:
        limits: the entry's field that holds both, or a pair of numbers or entry fields. If the entry's field is None,
            the model does not take this field.
        default: a number, or the entry's field that holds it.
        each: the type of both limits, if the row creates the entry's field.
        usual: the default of the entry's field.
    """

    limits: str | tuple[int | str, int | str]
    default: str | int | None = None
    each: Any = None
    usual: tuple[float, float] | None = None

    def of(self, entry: Entry) -> tuple[Any, Any] | None:
        """Return the model's minimum and maximum."""
        if isinstance(self.limits, tuple):
            return _value(entry, self.limits[0]), _value(entry, self.limits[1])
        found: tuple[Any, Any] | None = getattr(entry, self.limits)
        return found

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        return _value(entry, self.default) if value is None else _within(value, self.of(entry), entry)

    def allowed(self, entry: Entry) -> str:
        return _words(self.of(entry))

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        limits = self.of(entry)
        return limits and _given({"minimum": limits[0], "maximum": limits[1], "default": _value(entry, self.default)})


@dataclass(frozen=True)
class StepsRange:
    """A number of the job's steps that leaves at least one.

    Args:
        limits: the entry's field that holds the minimum and maximum share of the steps.
    """

    limits: str

    def of(self, entry: Entry, steps: int) -> tuple[int, int]:
        """Return the minimum and maximum for a job with this number of steps."""
        low, high = (round(share * steps, 9) for share in getattr(entry, self.limits))  # 0.29 * 100 is less than 29
        most = min(math.floor(high), steps - 1)
        return min(math.ceil(low), most), most

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        return None if value is None else _within(value, self.of(entry, settled["steps"]), entry)

    def allowed(self, entry: Entry) -> str:
        return _words(self.of(entry, entry.default_steps))

    def schema(self, entry: Entry) -> dict[str, Any]:
        fewest, most = (self.of(entry, steps) for steps in entry.steps_range)
        return {"minimum": fewest[0], "maximum": most[1]}


@dataclass(frozen=True)
class Choice:
    """One value of a list.

    Args:
        choices: the entry's field that holds the list.
        default: the entry's field that holds the default.
        first: whether the first is the default.
        words: all values that any model may offer.
        taken: the entry's field that says whether the model takes it; None means every model does.
    """

    choices: str | None = None
    default: str | None = None
    first: bool = False
    words: type[StrEnum] | None = None
    taken: str | None = None

    def of(self, entry: Entry) -> Sequence[Any]:
        """Return the values that the model offers."""
        return list(self.words or ()) if self.choices is None else getattr(entry, self.choices)

    def otherwise(self, entry: Entry) -> Any:
        """Return the default."""
        return self.of(entry)[0] if self.first else _value(entry, self.default)

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        if value is None:
            return self.otherwise(entry)
        if value not in self.of(entry):
            raise Refused(f"{shown(value)} is not supported; allowed: {self.allowed(entry)}")
        return value

    def allowed(self, entry: Entry) -> str:
        return ", ".join(map(str, self.of(entry)))

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        if self.taken and not getattr(entry, self.taken):
            return None
        return _given({"enum": list(self.of(entry)), "default": self.otherwise(entry)})


@dataclass(frozen=True)
class Switch:
    """A boolean. The row's ``clash`` refuses it for models that do not support it.

    Args:
        taken: the entry's field that says whether the model supports it.
    """

    taken: str

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        return value

    def allowed(self, entry: Entry) -> str:
        return "true, false" if getattr(entry, self.taken) else "none"

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        return {} if getattr(entry, self.taken) else None


@dataclass(frozen=True)
class Text:
    """A text, which must not be blank if it has a minimum length.

    Args:
        least: minimum length in characters.
        taken: the entry's field that says whether the model takes it; None means every model does.
    """

    least: int
    taken: str | None = None

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        if value is None:
            return None
        limits = f"allowed: {self.least} to {entry.max_prompt_chars} characters"
        if len(value) > entry.max_prompt_chars:
            raise Refused(f"has {len(value)} characters; {limits}")
        if self.least and not value.strip():
            raise Refused(f"is empty; {limits}")
        return value

    def allowed(self, entry: Entry) -> str:
        return f"a text of {self.least} to {entry.max_prompt_chars} characters"

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        if self.taken and not getattr(entry, self.taken):
            return None
        return {"minLength": self.least, "maxLength": entry.max_prompt_chars}


@dataclass(frozen=True)
class Url:
    """A URL.

    Args:
        most: maximum length in characters.
    """

    most: int

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        return value

    def allowed(self, entry: Entry) -> str:
        return f"a URL of up to {self.most} characters"

    def schema(self, entry: Entry) -> dict[str, Any]:
        return {"format": "uri", "maxLength": self.most}


@dataclass(frozen=True)
class Media:
    """An image, a video or a sound, for models with a task that uses one.

    Args:
        role: where in the video it goes.
    """

    role: Role

    def of(self, entry: Entry) -> list[Task]:
        """Return the model's tasks that use the image."""
        return [task for task in entry.tasks if self.role in task.roles]

    def needed(self, entry: Entry) -> bool:
        """Return whether every task of the model requires the image."""
        return len(self.of(entry)) == len(entry.tasks)

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        if value is None and self.needed(entry):
            raise Refused(f"required by model {entry.id} ({', '.join(entry.tasks)}); allowed: {self.allowed(entry)}")
        if value is not None and not self.of(entry):
            raise Refused(
                f"model {entry.id} does not take this {self.role.kind}; it supports: {', '.join(entry.tasks)}"
            )
        return value

    def allowed(self, entry: Entry) -> str:
        taken = f"{self.role.kind.taken} as a file, a data URI or a URL"
        return taken if self.of(entry) else f"none with model {entry.id}, which supports {', '.join(entry.tasks)}"

    def schema(self, entry: Entry) -> dict[str, Any] | None:
        return {"contentMediaType": f"{self.role.kind}/*", "x-role": self.role} if self.of(entry) else None


@dataclass(frozen=True)
class Length:
    """A clip's length in seconds, which must match one of the model's frame counts.

    A clip of n frames lasts n / fps seconds, which is what a video object reports. Measured from its first to its last
    frame, it lasts (n - 1) / fps seconds: 33 frames at 8 fps can also be requested as 4 seconds.
    """

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> list[int] | None:
        """Return the frame counts that match."""
        if value is None:
            return None
        fps = settled["fps"]
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        fitting = [n for n in entry.frames if any(abs(k / fps - seconds) < 0.001 for k in (n, n - 1))]
        if not fitting:
            raise Refused(f"{shown(value)} is not supported; allowed at {fps} fps: {self._lengths(entry, fps)}")
        return fitting

    def allowed(self, entry: Entry) -> str:
        return self._lengths(entry, entry.fps)

    def schema(self, entry: Entry) -> dict[str, Any]:
        return {}

    def _lengths(self, entry: Entry, fps: int) -> str:
        return ", ".join(f"{seconds_text(n / fps)} ({n} frames)" for n in entry.frames)


@dataclass(frozen=True)
class Served:
    """A model of the catalog, used where only this one is known."""

    def settle(self, value: Any, entry: Entry, settled: Mapping[str, Any]) -> Any:
        return entry.id

    def allowed(self, entry: Entry) -> str:
        return str(entry.id)

    def schema(self, entry: Entry) -> dict[str, Any]:
        return {"const": entry.id}


def inside(keys: Sequence[str | int]) -> str:
    """Write the place of an entry in a value as JavaScript does, such as ``[1].scale``."""
    return "".join(f".{key}" if KEY.fullmatch(str(key)) else f"[{shown(key)}]" for key in keys)


def shown(value: object) -> str:
    """Return the client's value, shortened for an error message."""
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def seconds_text(seconds: float) -> str:
    """Format seconds as OpenAI's clients expect them: a string with up to three decimals."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _value(entry: Entry, named: Any) -> Any:
    return getattr(entry, named) if isinstance(named, str) else named


def _within(value: Any, limits: tuple[Any, Any] | None, entry: Entry) -> Any:
    if limits is None:
        raise Refused(f"is not supported by model {entry.id}; allowed: none")
    if not limits[0] <= value <= limits[1]:
        raise Refused(f"{shown(value)} is out of range; allowed: {_words(limits)}")
    return value


def _words(limits: tuple[Any, Any] | None) -> str:
    return "none" if limits is None else "{} to {}".format(*limits)


def _given(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}
