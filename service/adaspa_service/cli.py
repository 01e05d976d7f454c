"""The ``adaspa`` command."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NoReturn

import httpx
import typer
from rich.console import Console

from adaspa_service.client import ApiError, Client
from adaspa_service.contract.settings import SettingsError, get_settings
from adaspa_service.demo import DemoError, run_demo
from adaspa_service.local import LocalError, Supervisor
from adaspa_service.local.supervisor import free_port

app = typer.Typer(help="Self-hosted text-to-video with AdaSpa sparse attention.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

DEMO_PROMPT = "a large yellow star moves right on a navy background"
DEMO_OUTPUT = Path("demo.mp4")

Host = Annotated[str | None, typer.Option(help="Address to listen on (default: ADASPA_HOST or 127.0.0.1).")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of queue, videos and logs.")]
Model = Annotated[str | None, typer.Option(help="Model of the catalog to serve (default: its first).")]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    model: Model = None,
    worker: Annotated[bool, typer.Option(help="Run a worker too.")] = True,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    settings = get_settings()
    folder = data_dir or settings.data_dir
    supervisor = Supervisor(folder, host or settings.host, port or settings.port, model=model, worker=worker, say=say)
    try:
        with supervisor:
            say(f"AdaSpa serves on {supervisor.url} (data and logs in {folder}); Ctrl-C stops it")
            supervisor.serve()
    except KeyboardInterrupt:
        say("stopped")


@app.command()
def demo(
    prompt: Annotated[str, typer.Option(help="What the video shows.")] = DEMO_PROMPT,
    output: Annotated[
        Path, typer.Option(help="The video to write; a .png of its frames goes beside it.")
    ] = DEMO_OUTPUT,
    port: Port = None,
    data_dir: DataDir = None,
    model: Model = None,
) -> None:
    """Generate one video through the whole service, and stop it again."""
    if not output.parent.is_dir():
        fail(f"--output: no folder {output.parent}")
    with TemporaryDirectory(prefix="adaspa-demo-") as temporary:
        host = "127.0.0.1"
        folder = data_dir or Path(temporary)
        supervisor = Supervisor(folder, host, port or free_port(host), model=model, worker=True, say=say)
        with supervisor, Client(supervisor.url) as client:
            say(f"AdaSpa serves on {supervisor.url}")
            run_demo(client, prompt, output, console, supervisor.watch)


@app.command()
def gateway() -> None:
    """Run only the gateway, configured by ADASPA_* variables."""
    raise SystemExit(subprocess.call([sys.executable, "-m", "adaspa_service.gateway"]))


@app.command()
def worker(model: Model = None) -> None:
    """Run only a worker, configured by ADASPA_* variables."""
    raise SystemExit(subprocess.call([sys.executable, "-m", "adaspa_worker", *(["--model", model] if model else [])]))


def say(line: str) -> None:
    """One line for the user."""
    console.print(line, markup=False)


def fail(message: object) -> NoReturn:
    """End with one line and exit status 1."""
    print(f"adaspa: {message}", file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    """Entry point of the console script: expected errors are one line, never a traceback."""
    try:
        app()
    except (LocalError, DemoError, SettingsError, ApiError, httpx.TransportError, TimeoutError) as error:
        fail(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
