"""``adaspa estimate``: how long a video would take, based on the server's completed jobs."""

from typing import Unpack, cast

from adaspa_client import VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, print_json, print_table, say

COLUMNS = ("QUALITY", "SECONDS", "DENOISING", "BASED ON")
TELLING = ("model", "size", "num_frames", "fps", "steps", "guidance_scale", "quality", "priority")
"""Options of ``generate`` that change the estimate."""


@params.options(TELLING)
def estimate(
    *, server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False, **asked: Unpack[VideoFields]
) -> None:
    """Estimate how long a video takes with each preset, based on completed jobs. Nothing is queued."""
    with connect(server, api_key) as client:
        found = client.estimate(**params.given(cast(dict[str, object], asked)))
    if as_json:
        return print_json(found.model_dump(mode="json"))
    rows = []
    for name, each in found.qualities.items():
        near = each.measured
        by = f"{counted(near.jobs, 'job')} of {near.size}, {near.num_frames} frames" if near else each.reason
        rows.append((name, told(each.estimated_seconds), told(each.denoising_seconds), by))
    say(f"{found.model}, {found.size}, {found.num_frames} frames, {found.steps} steps")
    print_table(COLUMNS, rows)
    starts_in = found.starts_in_seconds
    if starts_in is not None:
        return say(f"A worker would start it {f'in about {starts_in:.0f} s' if starts_in >= 1 else 'immediately'}.")
    return say(f"Start time unknown; workers that serve the {found.priority} queue: {found.workers}.")


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def told(seconds: float | None) -> str:
    """Format seconds, or a dash if unknown."""
    return "-" if seconds is None else f"{seconds:.1f}"
