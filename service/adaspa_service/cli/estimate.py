"""``adaspa estimate``: how long a video would take, by what the server has measured."""

from typing import Unpack, cast

from adaspa_client import VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, print_json, print_table, say

COLUMNS = ("QUALITY", "SECONDS", "DENOISING", "MEASURED BY")
TELLING = ("model", "size", "num_frames", "fps", "steps", "guidance_scale", "quality", "priority")
"""Options of ``generate`` that make a difference here."""


@params.options(TELLING)
def estimate(
    *, server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False, **asked: Unpack[VideoFields]
) -> None:
    """Estimate how long a video takes, with each preset, from completed jobs. Nothing is queued."""
    with connect(server, api_key) as client:
        found = client.estimate(**params.given(cast(dict[str, object], asked)))
    if as_json:
        return print_json(found.model_dump(mode="json"))
    rows = []
    for name, each in found.qualities.items():
        near = each.measured
        by = f"{near.jobs} jobs of {near.size}, {near.num_frames} frames" if near else each.reason
        rows.append((name, told(each.estimated_seconds), told(each.denoising_seconds), by))
    say(f"{found.model}, {found.size}, {found.num_frames} frames, {found.steps} steps")
    print_table(COLUMNS, rows)
    if found.starts_in_seconds is not None:
        return say(f"A worker is expected to begin it in {found.starts_in_seconds:.0f} s.")
    return say(f"When a worker would begin it is not known; {found.workers} serve the {found.priority} queue.")


def told(seconds: float | None) -> str:
    """Seconds, or that they are not known."""
    return "-" if seconds is None else f"{seconds:.1f}"
