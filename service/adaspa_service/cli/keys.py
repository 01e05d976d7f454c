"""``adaspa keys``: create, list, rotate and revoke API keys, directly in the service's Redis."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer
from adaspa_jobs.settings import get_settings
from adaspa_jobs.store import JobStore

from adaspa_service.access.keys import ApiKey, KeyStore, Scope
from adaspa_service.access.open_access import KeysRequired
from adaspa_service.cli.serve import DataDir
from adaspa_service.cli.store import job_store, tell_auditors
from adaspa_service.cli.terminal import Json, fail, print_json, print_table, say
from adaspa_service.cli.times import written
from adaspa_service.cli.usage import Days

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_NAME = 100
COLUMNS = ("ID", "NAME", "SCOPES", "IN FLIGHT", "PER MINUTE", "CREATED", "EXPIRES", "LAST USED")
USED = ("ID", "NAME", "COMPLETED", "FAILED", "CANCELLED", "GPU SECONDS")

LONGEST_LIFETIME = 36500 * 86400
"""Seconds for which a key may work."""
MOST = 1_000_000
"""Highest limit of a key; more is as good as none."""

keys = typer.Typer(help="Create, list, rotate and revoke API keys. Changes apply at once.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as in `adaspa keys list`.")]


def duration(text: str) -> int:
    """Parse a duration such as 90s, 15m, 12h or 30d into seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration; allowed: a number and s, m, h or d, such as 30d")
    return int(match[1]) * UNITS[match[2]]


def lifetime(text: str) -> int:
    """Parse the duration for which a key works."""
    seconds = duration(text)
    if not 1 <= seconds <= LONGEST_LIFETIME:
        raise typer.BadParameter(f"{text!r} is no time at all, or too long; allowed: 1s to 36500d")
    return seconds


def key_name(text: str) -> str:
    """Check a key's name: tables and logs have it in one line."""
    if not text.strip() or len(text) > LONGEST_NAME or not text.isprintable():
        allowed = f"1 to {LONGEST_NAME} printable characters, not only spaces"
        raise typer.BadParameter(f"{text[:60]!r} is no name; allowed: {allowed}")
    return text


@keys.command()
def create(
    *,
    name: Annotated[str, typer.Option(callback=key_name, help="Name of the key, such as the program that uses it.")],
    scope: Annotated[list[Scope], typer.Option(help="What the key may do; can be repeated.")] = [  # noqa: B006
        Scope.read,
        Scope.write,
    ],
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Maximum number of queued and running jobs (default: no limit).")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Maximum requests per minute (default: no limit).")
    ] = None,
    expires_in: Annotated[
        int | None, typer.Option(parser=lifetime, metavar="TIME", help="Lifetime, such as 30d (default: no expiry).")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. It is shown only once, because only its digest is stored."""
    with key_store(data_dir, first=True) as (store, _):
        key, token = store.create(
            name,
            frozenset(scope),
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            lifetime_seconds=expires_in,
        )
        tell_auditors(store.client, "key.created", key=key.id, key_name=name, scopes=" ".join(sorted(scope)))
    if "ADASPA_REDIS_URL" not in os.environ:  # else the gateway notes it, which may run elsewhere
        KeysRequired(data_dir or get_settings().data_dir).note()
    show(key.id, token, as_json)


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the keys, without their secrets."""
    with key_store(data_dir) as (store, _):
        found = store.all()
    if as_json:
        return print_json([key.model_dump(mode="json") | {"scopes": sorted(key.scopes)} for key in found])
    return print_table(COLUMNS, [row(key) for key in found])


@keys.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        int, typer.Option(parser=duration, metavar="TIME", help="How long the old secret keeps working.")
    ] = "1h",  # type: ignore[assignment]
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret. Its jobs, scopes and limits do not change."""
    with key_store(data_dir) as (store, _):
        token = store.rotate(key_id, grace)
        if token is not None:
            tell_auditors(store.client, "key.rotated", key=key_id)
    if token is None:
        fail(f"there is no key {key_id!r}; `adaspa keys list` shows all keys")
    show(key_id, token, as_json)


@keys.command()
def revoke(
    key_id: KeyId,
    cancel_jobs: Annotated[bool, typer.Option("--cancel-jobs", help="Also cancel the key's unfinished jobs.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key at once. Its jobs become inaccessible; they and their files are removed when they expire."""
    with key_store(data_dir) as (store, jobs):
        if not store.revoke(key_id):
            fail(f"there is no key {key_id!r}; `adaspa keys list` shows all keys")
        tell_auditors(store.client, "key.revoked", key=key_id)
        unfinished = jobs.unfinished(key_id) if cancel_jobs else []
        for job in unfinished:
            jobs.request_cancel(job.id)
            tell_auditors(store.client, "job.cancelled", job=job.id)
    say(f"revoked {key_id}" + (f", cancelled {len(unfinished)} jobs" if cancel_jobs else ""))


@keys.command()
def usage(days: Days = 30, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the usage of each key, including revoked keys."""
    with key_store(data_dir) as (store, jobs):
        names = {key.id: key.name for key in store.all()}
        found = jobs.usage(days)
    totals = [
        {
            "id": owner,
            "name": names.get(owner),
            **{what: sum(getattr(row, what) for row in rows) for what in ("completed", "failed", "cancelled")},
            "gpu_seconds": round(sum(row.gpu_seconds for row in rows), 3),
        }
        for owner, rows in found.items()
    ]
    totals.sort(key=lambda total: -total["gpu_seconds"])
    if as_json:
        return print_json(totals)
    return print_table(USED, [["" if cell is None else cell for cell in total.values()] for total in totals])


@contextmanager
def key_store(data_dir: Path | None, *, first: bool = False) -> Iterator[tuple[KeyStore, JobStore]]:
    """Open the service's keys and jobs, as ``job_store`` does."""
    with job_store(data_dir, first=first) as jobs:
        yield KeyStore(jobs.client), jobs


def show(key_id: str, token: str, as_json: bool) -> None:
    """Print a new key alone on standard output, so that a script can read it."""
    if as_json:
        return print_json({"id": key_id, "key": token})
    return say(token)


def row(key: ApiKey) -> tuple[object, ...]:
    """Format a key for the table."""
    times = (moment(seconds) for seconds in (key.created_at, key.expires_at, key.last_used_at))
    limits = ("any" if limit is None else limit for limit in (key.max_in_flight, key.requests_per_minute))
    return (key.id, key.name, " ".join(sorted(key.scopes)), *limits, *times)


def moment(seconds: int | None) -> str:
    """Format a time to the minute."""
    if seconds is None:
        return "never"
    return written(seconds, "%Y-%m-%d %H:%MZ", UTC)
