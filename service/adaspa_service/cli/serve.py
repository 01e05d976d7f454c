"""``adaspa serve``, ``adaspa gateway`` and ``adaspa worker``: the whole service, or one part of it."""

from pathlib import Path
from typing import Annotated

import typer
from adaspa_api.words import Priority
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import get_settings

from adaspa_service.access.keys import KeyStore
from adaspa_service.access.open_access import Access, Entrance
from adaspa_service.cli.terminal import become, say
from adaspa_service.local import Supervisor

Host = Annotated[str | None, typer.Option(help="Address to listen on (default: ADASPA_HOST or 127.0.0.1).")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")]
DataDir = Annotated[Path | None, typer.Option(help="Data folder: queue, videos and logs.")]
Model = Annotated[str | None, typer.Option(help="Model of the catalog to serve (default: the first).")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Model to run a worker for; can be repeated (default: the first of ADASPA_CATALOG, or all built in).",
    ),
]


def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    model: Models = None,
    worker: Annotated[bool, typer.Option(help="Also run workers.")] = True,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    settings = get_settings()
    folder = data_dir or settings.data_dir
    settings = settings.model_copy(update={"host": host or settings.host, "data_dir": folder})
    # The built-in models are small; of others, one may take all of a GPU.
    unasked = [None] if settings.catalog else list(Catalog.load(None).models)
    workers = list(dict.fromkeys(model or unasked)) if worker else []
    supervisor = Supervisor(folder, settings.host, port or settings.port, workers=workers, say=say)
    try:
        with supervisor:
            say(f"AdaSpa is running at {supervisor.url} (data and logs in {folder}); press Ctrl-C to stop it")
            with KeyStore.at(supervisor.redis_url) as keys:
                entrance = Entrance(settings, keys)
                say(f"Access: {entrance.check()}")
                if entrance.now() is Access.token:
                    say(f"Page: {supervisor.page}")
            supervisor.serve()
    except KeyboardInterrupt:
        say("stopped")


def gateway() -> None:
    """Run only the gateway, configured by ADASPA_* environment variables."""
    become("adaspa_service.gateway")


def worker(
    model: Model = None,
    only: Annotated[Priority | None, typer.Option(help="Serve only this queue of the model (default: both).")] = None,
) -> None:
    """Run only a worker, configured by ADASPA_* environment variables."""
    chosen = [*(["--model", model] if model else []), *(["--only", only] if only else [])]
    become("adaspa_worker", *chosen)
