"""Tables in Markdown."""

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
