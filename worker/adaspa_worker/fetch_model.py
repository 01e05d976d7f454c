"""Fetch a model before its worker starts, and pin it: ``python -m adaspa_worker.fetch_model --model wan``."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from adaspa_api.words import Task
from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.settings import SettingsError, get_settings

from adaspa_worker import hub
from adaspa_worker.source import ModelUnavailable, check_folder, is_hub_name, resolve


def main() -> None:
    """Fetch a model and check it; fail with one line."""
    parser = argparse.ArgumentParser(prog="fetch-model", description="Download a model and verify its files.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="model of the catalog")
    which.add_argument("--source", help="builtin:<name>, a folder, or a Hugging Face Hub name")
    parser.add_argument("--resolve", action="store_true", help="write the downloaded commit into the catalog file")
    parser.add_argument("--dry-run", action="store_true", help="show the download size without downloading")
    asked = parser.parse_args()
    if asked.resolve and not asked.model:
        parser.error("--resolve: requires --model, because it writes into the catalog")
    try:
        source, tasks = (asked.source, ()) if asked.source else of_catalog(asked.model)
        found = from_hub(source, tasks, dry_run=asked.dry_run) if is_hub_name(source) else None
        if found is None:
            print(f"{source}: {resolve(source, tasks)}")
        elif not asked.dry_run:
            check_folder(found.folder, tasks)
            print(f"{found.source}: {found.folder}")
        if asked.resolve:
            pin(get_settings().catalog, source, found)
    except (SettingsError, CatalogError, ModelUnavailable) as error:
        sys.exit(f"adaspa worker: {error}")


def of_catalog(model: str) -> tuple[str, Sequence[Task]]:
    """Return the source and the tasks of a model of the catalog; SystemExit if there is none."""
    catalog = Catalog.load(get_settings().catalog)
    spec = catalog.get(model)
    if spec is None:
        sys.exit(f"--model: {model!r} is not in the catalog; allowed: {', '.join(catalog.models)}")
    return spec.source, spec.tasks


def from_hub(source: str, tasks: Sequence[Task], *, dry_run: bool) -> hub.Snapshot:
    """Fetch a hub model, and say first how large it is. Raises ModelUnavailable."""
    try:
        return hub.fetch(source, tasks, lambda line: print(line, flush=True), dry_run=dry_run)
    except hub.NotAtHub as error:
        raise ModelUnavailable(f"{source}: {error}") from error


def pin(catalog: Path | None, source: str, found: hub.Snapshot | None) -> None:
    """Write the commit that was found into the catalog file, which keeps its layout.

    Raises:
        CatalogError: the file cannot be written, or spells the source in a way of its own.
        ModelUnavailable: there is no catalog file, or its model is not of the hub.
    """
    if catalog is None or found is None:
        raise ModelUnavailable(f"--resolve: {source} is not a Hub model of a catalog file (ADASPA_CATALOG)")
    if source == found.source:
        return
    by_hand = f'write it yourself: "source": "{found.source}"'
    spelled = re.compile(rf'("source"\s*:\s*){re.escape(json.dumps(source))}')
    part = catalog.with_name(f".{catalog.name}.{os.getpid()}.part")
    try:
        text, times = spelled.subn(lambda match: match[1] + json.dumps(found.source), catalog.read_text())
        if not times:
            raise CatalogError(f"catalog {catalog}: {by_hand}")
        part.write_text(text)
        part.chmod(catalog.stat().st_mode & 0o777)
        part.replace(catalog)
    except OSError as error:
        raise CatalogError(
            f'catalog {catalog}: {error.strerror}; write it yourself: "source": "{found.source}"'
        ) from None
    finally:
        part.unlink(missing_ok=True)
    print(f"{catalog}: {found.source}")


if __name__ == "__main__":
    main()
