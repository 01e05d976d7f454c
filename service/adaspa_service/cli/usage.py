"""``adaspa usage``: what one's jobs came to."""

from typing import Annotated

import typer
from adaspa_jobs.usage import MOST_DAYS

from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, print_json, print_table, say

COLUMNS = ("DAY", "MODEL", "COMPLETED", "FAILED", "CANCELLED", "GPU SECONDS")
Days = Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="The latest days, today included.")]


def usage(*, days: Days = 30, server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Show what the key's jobs came to, by day and model. `adaspa keys usage` shows it of all keys."""
    with connect(server, api_key) as client:
        found = client.usage(days)
    if as_json:
        return print_json(found.model_dump(mode="json"))
    rows = [
        (row.date, row.model, row.completed, row.failed, row.cancelled, f"{row.gpu_seconds:.1f}") for row in found.data
    ]
    print_table(COLUMNS, rows)
    return say(f"{found.jobs} jobs and {found.gpu_seconds:.1f} GPU-seconds in {found.days} days")
