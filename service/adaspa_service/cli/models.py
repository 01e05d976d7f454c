"""``adaspa models`` lists a server's models; ``adaspa fetch-model`` downloads a model before a worker starts."""

from typing import Annotated

import typer

from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, become, print_json, print_table

COLUMNS = ("MODEL", "SIZES", "FRAMES", "STEPS", "GUIDANCE", "WAITING", "RUNNING")


def models(server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False) -> None:
    """List the served models with their limits, defaults and queues."""
    with connect(server, api_key) as client:
        found = client.models()
    if as_json:
        return print_json([model.model_dump(mode="json") for model in found])
    rows = [
        (
            model.id,
            " ".join(model.sizes),
            " ".join(map(str, model.frames)),
            between(model.steps_range, model.default_steps),
            between(model.guidance_range, model.default_guidance),
            model.waiting,
            model.running,
        )
        for model in found
    ]
    return print_table(COLUMNS, rows)


def between(limits: tuple[float, float], default: float) -> str:
    """Format a range with its default."""
    return f"{limits[0]:g}-{limits[1]:g} ({default:g})"


def fetch_model(
    model: Annotated[str, typer.Argument(help="Id of a model in the catalog (ADASPA_CATALOG).")],
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Pin the model: write the downloaded commit into the catalog file.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the download size without downloading.")] = False,
) -> None:
    """Download a model from the Hugging Face Hub, or a mirror of it, and verify its files."""
    asked = [*(["--resolve"] if resolve else []), *(["--dry-run"] if dry_run else [])]
    become("adaspa_worker.fetch_model", "--model", model, *asked)
