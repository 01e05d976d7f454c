"""Tables in Markdown, and the sections of a page that are written from figures."""

import re
from collections.abc import Iterable


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of these rows."""
    return "\n".join([*head(columns), *map(line, rows)])


def head(columns: Iterable[str]) -> list[str]:
    """The first two lines of a table."""
    columns = list(columns)
    return [line(columns), "|" + "---|" * len(columns)]


def line(cells: Iterable[object]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def replaced(text: str, name: str, section: str) -> str:
    """The text with another section ``name``; ValueError if it has no such marks."""
    marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"the README must have the lines <!-- {name} --> and <!-- /{name} -->")
    return marks.sub(lambda match: f"{match[1]}\n{section}\n{match[2]}", text)
