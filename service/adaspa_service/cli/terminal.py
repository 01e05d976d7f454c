"""Output of commands (lines, tables, JSON) and their exit statuses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)
"""Standard output."""

GAP = 2
"""Spaces between two columns of a table."""
NARROWEST = 4
"""Characters that a column beside the first needs to be of any use."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Exit(IntEnum):
    """Exit statuses of all commands."""

    done = 0
    failed = 1
    """Refusal by the server, or a fault here."""
    usage = 2
    """Mistake in the command line; Click uses the same status."""
    unreachable = 3
    """Silence of the server."""
    not_completed = 4
    """Failure or cancel of the job."""
    interrupted = 130
    """Ctrl-C."""


def say(line: str) -> None:
    """Print one line for the user, without markup."""
    console.print(line, markup=False)


def warn(message: object) -> None:
    """Print one line on standard error."""
    print(f"adaspa: {message}", file=sys.stderr)


def fail(message: object, status: Exit = Exit.failed) -> NoReturn:
    """End the command with one line on standard error."""
    warn(message)
    raise SystemExit(int(status))


def confirm(question: str, command: str) -> None:
    """Ask before something goes for good. End the command if the answer is no, or if nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        fail(f"{command}: cannot ask for confirmation without a terminal; use --yes", Exit.usage)
    try:
        typer.confirm(question, abort=True)
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def last_words(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a failed process wrote to standard error, or its exit status if it wrote none."""
    said = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}, without an error message"]
    return said[-1]


def print_json(value: Any) -> None:
    """Print the value as JSON: indented, UTF-8, never wrapped."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    style: Callable[[Sequence[Any]], str] = lambda row: "",
    cut_last: bool = False,
) -> None:
    """Print a table in a terminal, or tab-separated rows without a heading in a pipe.

    A terminal that is too narrow for a table gets the rows as they are and wraps them.

    Args:
        style: returns the colour of a row.
        cut_last: whether to cut the last column at the terminal's width instead of wrapping it.
    """
    if not console.is_terminal:
        for row in rows:
            print("\t".join(map(one_line, row)))
        return
    cells = [[Text(one_line(cell)) for cell in row] for row in rows]
    # What names a row is to be copied: it stays whole.
    whole = max(map(cell_len, (columns[0], *(row[0].plain for row in cells))))
    if console.width < whole + (NARROWEST + GAP) * (len(columns) - 1) + GAP:
        for texts in cells:
            console.print(Text(" " * GAP).join(texts))
        return
    if cut_last:
        others = [max(map(cell_len, (name, *(row[n].plain for row in cells)))) for n, name in enumerate(columns[:-1])]
        for row in cells:
            row[-1].truncate(max(console.width - sum(others) - GAP * len(columns), 1), overflow="ellipsis")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    table.add_column(columns[0], no_wrap=True, min_width=whole)
    for name in columns[1:]:
        table.add_column(name, no_wrap=cut_last)
    for row, texts in zip(rows, cells, strict=True):
        table.add_row(*texts, style=style(row))
    console.print(table, soft_wrap=False)


def one_line(value: object) -> str:
    """Format a value on one line, without control characters."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())


def become(module: str, *arguments: str) -> NoReturn:
    """Run a module in the place of this process, so that whoever stops the command stops the module."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
