"""``adaspa models``: what a server serves."""

from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Json, print_json, print_table

COLUMNS = ("MODEL", "SIZES", "FRAMES", "STEPS", "GUIDANCE", "WAITING", "RUNNING")


def models(server: Server = SERVER, api_key: ApiKey = None, as_json: Json = False) -> None:
    """List the served models with what each takes, and how busy it is."""
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
    """A range with its default."""
    return f"{limits[0]:g}-{limits[1]:g} ({default:g})"
