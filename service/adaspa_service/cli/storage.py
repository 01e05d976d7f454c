"""``adaspa storage``: find and remove stored files that belong to no job."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from adaspa_jobs.settings import get_settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable

from adaspa_service.cli.keys import duration
from adaspa_service.cli.serve import DataDir
from adaspa_service.cli.store import job_store
from adaspa_service.cli.terminal import Json, confirm, fail, print_json, print_table, say
from adaspa_service.cli.times import written_in_utc
from adaspa_service.gateway.orphans import Orphan, find_orphans, remove_orphan

COLUMNS = ("VIDEO", "FILES", "BYTES", "LAST WRITTEN")

storage = typer.Typer(help="Find and remove stored files that belong to no job.", no_args_is_help=True)


@storage.command()
def orphans(
    remove: Annotated[bool, typer.Option("--remove", help="Remove the files permanently.")] = False,
    older_than: Annotated[
        int, typer.Option(parser=duration, metavar="TIME", help="Only files with no writes for this long.")
    ] = "1d",  # type: ignore[assignment]
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List stored files of jobs that Redis does not know, for example after it was emptied or restored."""
    try:
        _orphans(ObjectStorage(storage_url(data_dir)), older_than, data_dir, remove=remove, yes=yes, as_json=as_json)
    except StorageUnavailable as error:
        fail(error)


def _orphans(
    files: ObjectStorage, older_than: int, data_dir: Path | None, *, remove: bool, yes: bool, as_json: bool
) -> None:
    with job_store(data_dir) as jobs:
        found, known = find_orphans(files, jobs, older_than)
    if as_json:
        print_json([described(orphan) for orphan in found])
    else:
        print_table(COLUMNS, [row(orphan) for orphan in found])
    if not remove or not found:
        return
    if not yes:
        asked = f"Permanently remove the files of {len(found)} jobs? Storage also has files of {known} known jobs."
        confirm(asked, "storage orphans")
    with job_store(data_dir) as jobs:
        for orphan in found:
            remove_orphan(files, jobs, orphan)
    if not as_json:
        say(f"removed: {len(found)} jobs, {sum(orphan.bytes for orphan in found):,} bytes")


def storage_url(data_dir: Path | None) -> str:
    """Return the storage URL of ADASPA_STORAGE_URL, or of the service on this data folder."""
    settings = get_settings()
    if "ADASPA_STORAGE_URL" in os.environ:
        return settings.storage_url
    return str((data_dir or settings.data_dir) / "objects")


def described(orphan: Orphan) -> dict[str, Any]:
    """Format a job as JSON."""
    written = int(orphan.written_at)
    return {
        "video_id": orphan.job_id,
        "prefix": orphan.prefix,
        "files": orphan.files,
        "bytes": orphan.bytes,
        "written_at": written,
    }


def row(orphan: Orphan) -> tuple[object, ...]:
    """Format a job for the table."""
    when = written_in_utc(orphan.written_at)
    return orphan.name, orphan.files, f"{orphan.bytes:,}", when
