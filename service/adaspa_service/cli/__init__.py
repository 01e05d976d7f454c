"""Command ``adaspa``, with one file per group of commands.

Add a single command to COMMANDS, and a group with subcommands (a ``typer.Typer``) to GROUPS.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import httpx
import typer
from adaspa_client import ApiError, Unauthorized
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import SettingsError

from adaspa_service.cli.bench import bench
from adaspa_service.cli.compare import compare
from adaspa_service.cli.demo import demo
from adaspa_service.cli.doctor import doctor
from adaspa_service.cli.estimate import estimate
from adaspa_service.cli.flags import Command, Group
from adaspa_service.cli.generate import generate
from adaspa_service.cli.jobs import cancel, delete, download, jobs, show
from adaspa_service.cli.keys import keys
from adaspa_service.cli.models import fetch_model, models
from adaspa_service.cli.open import open
from adaspa_service.cli.progress import NotCompleted
from adaspa_service.cli.serve import gateway, serve, worker
from adaspa_service.cli.storage import storage
from adaspa_service.cli.terminal import Exit, fail
from adaspa_service.cli.token import token
from adaspa_service.cli.usage import usage
from adaspa_service.cli.webhooks import webhooks
from adaspa_service.local import LocalError

COMMANDS: dict[str, list[Callable[..., Any]]] = {
    "Videos": [generate, estimate, compare, jobs, show, download, cancel, delete, models, usage],
    "The service on this machine": [serve, demo, open, token, doctor, bench, gateway, worker, fetch_model],
}
"""Commands by their heading in the help."""
GROUPS = {"keys": keys, "storage": storage, "webhooks": webhooks}
"""Groups of commands for operators, by name."""

app = typer.Typer(
    cls=Group,
    help="Self-hosted video generation with AdaSpa sparse attention.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def tell_version(asked: bool) -> None:
    """Print the version and exit, if asked."""
    if asked:
        typer.echo(f"adaspa-serve {version('adaspa-serve')}")
        raise typer.Exit


@app.callback()
def adaspa(
    _: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Accept the options before a command."""


for heading, commands in COMMANDS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=heading)(command)
for name, group in GROUPS.items():
    for registered in group.registered_commands:
        registered.cls = Command
    app.add_typer(group, cls=Group, name=name, rich_help_panel="Operators")


def check_text(arguments: list[str]) -> None:
    """End the command at an argument that is not UTF-8, which no request and no line of output could carry."""
    for given in arguments:
        try:
            given.encode()
        except UnicodeEncodeError:
            fail(f"{given!r} is not UTF-8; allowed: UTF-8", Exit.usage)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP clean up as Ctrl-C does: what the command was writing goes, what it started stops."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    ending = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in ending:  # the others are ignored, as by nohup
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ending:
            signal.signal(each, signal.SIG_DFL)


def main() -> None:
    """Run the console script. Expected errors print one line, never a traceback."""
    try:
        check_text(sys.argv[1:])
        try:
            with ended_by_signals():
                app()
        finally:
            if sys.stdout is not None:  # it is None if the command was started without one
                sys.stdout.flush()
    except NotCompleted as error:
        fail(error, Exit.not_completed)
    except httpx.TransportError as error:
        fail(f"cannot reach the server: {error}; is `adaspa serve` running, and is --server right?", Exit.unreachable)
    except Unauthorized as error:
        fail(f"{error}; set --api-key or ADASPA_API_KEY")
    except (LocalError, SettingsError, StoreUnavailable, ApiError, TimeoutError) as error:
        fail(error)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output cannot be written, either
        fail(error)
    except KeyboardInterrupt:
        raise SystemExit(int(Exit.interrupted)) from None
