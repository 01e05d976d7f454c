"""``adaspa usage``: usage of an API key by day and model."""

from typing import Annotated

import typer
from adaspa_jobs.usage import MOST_DAYS

from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, print_json, print_table, say

COLUMNS = ("DAY", "MODEL", "COMPLETED", "FAILED", "CANCELLED", "GPU SECONDS")
Days = Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="Number of days to show, including today.")]


def usage(*, days: Days = 30, server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Show an API key's jobs and GPU-seconds by day and model. For all keys, use `adaspa keys usage`."""
    with connect(server, api_key) as client:
        found = client.usage(days)
    if as_json:
        return print_json(found.model_dump(mode="json"))
    rows = [
        (row.date, row.model, row.completed, row.failed, row.cancelled, f"{row.gpu_seconds:.1f}") for row in found.data
    ]
    print_table(COLUMNS, rows)
    return say(f"{found.jobs} jobs and {found.gpu_seconds:.1f} GPU-seconds in {found.days} days")
