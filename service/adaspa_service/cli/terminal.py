"""What commands print: lines for people, tables in a terminal or plain in a pipe, JSON, and the exit statuses."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)
"""Standard output."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]


class Exit(IntEnum):
    """Exit statuses of every command."""

    done = 0
    failed = 1
    """Refused by the server, not to be done here, or something is broken."""
    usage = 2
    """The command line is not as it has to be; Click's own status."""
    unreachable = 3
    """The server does not answer."""
    not_completed = 4
    """The job ended failed or cancelled."""
    interrupted = 130
    """Ctrl-C."""


def say(line: str) -> None:
    """One line for the user, without any markup."""
    console.print(line, markup=False)


def fail(message: object, status: Exit = Exit.failed) -> NoReturn:
    """End with one line on standard error."""
    print(f"adaspa: {message}", file=sys.stderr)
    raise SystemExit(int(status))


def print_json(value: Any) -> None:
    """The value as JSON: indented, UTF-8, never wrapped."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    style: Callable[[Sequence[Any]], str] = lambda row: "",
) -> None:
    """A table in a terminal, each row in its style; in a pipe one line a row, its cells between tabs, no heading."""
    if not console.is_terminal:
        for row in rows:
            print("\t".join(" ".join(str(cell).split()) for cell in row))
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row), style=style(row))
    console.print(table, soft_wrap=False)
