"""The real service as a user starts it: the ``adaspa`` command, its processes, and what they leave."""

import os
import signal
import subprocess
from pathlib import Path

import forked
import httpx
from adaspa_client import Client, Video
from adaspa_client.local_token import read_token
from adaspa_command import ADASPA
from adaspa_service.cli import main
from adaspa_service.local.supervisor import free_port
from waiting import PATIENCE, until

LEASE_SECONDS = "10"
"""A lease's length where whole workers are killed: a test can wait for its end, and a worker that lives gets a moment
of the processor within it, however busy the machine."""


def environment(catalog: Path | None, **settings: str) -> dict[str, str]:
    """The environment of a service that serves this catalog, or the built-in one; nothing of the developer's own
    settings comes through."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADASPA_")}
    extra = {f"ADASPA_{name.upper()}": value for name, value in settings.items()}
    served = {"ADASPA_CATALOG": str(catalog)} if catalog else {}
    return clean | served | extra


def children(data_dir: Path) -> dict[int, str]:
    """Command lines, by process id, of everything that a server on this data folder started."""
    marker = f"ADASPA_DATA_DIR={data_dir.resolve()}".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # Valkey writes its title over its environment; it works in the data folder.
            inside = (entry / "cwd").readlink().is_relative_to(data_dir.resolve())
            if inside or marker in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return {pid: command for pid, command in found.items() if command}  # a zombie has no command line


def parent(pid: int) -> int:
    """The process that started a running one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def adaspa(*arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return forked.run(main, ["adaspa", *map(str, arguments)], env)


def assert_one_clear_line(result: subprocess.CompletedProcess[str], *parts: str, status: int = 1) -> None:
    """It failed, and said why in one line, without a traceback."""
    assert result.returncode == status
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


class Service:
    """``adaspa serve`` in a process of its own."""

    def __init__(self, data_dir: Path, env: dict[str, str], port: int | None = None) -> None:
        self.data_dir, self.env, self.port = data_dir, env, port or free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)

    @property
    def token(self) -> str:
        """What it asks for, as its user's programs find it."""
        return read_token(httpx.URL(self.url)) or ""

    @property
    def headers(self) -> dict[str, str]:
        """Of a request that is let in."""
        return {"Authorization": f"Bearer {self.token}"}

    def start(self) -> "Service":
        """Start it and wait until it serves."""
        self.output = self.data_dir.with_name(f"{self.data_dir.name}.out")
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [ADASPA, "serve", "--port", str(self.port), "--data-dir", self.data_dir],
                env=self.env,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until(
            lambda: "is running at" in self.output.read_text() or self.process.poll() is not None,
            "the service is up",
        )
        assert self.process.poll() is None, self.output.read_text()
        return self

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal the supervisor, and wait for its end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)

    def part(self, module: str) -> tuple[int, list[int]]:
        """Process of one part, such as ``adaspa_worker``, and those that it started."""
        parents = {pid: parent(pid) for pid, command in children(self.data_dir).items() if module in command}
        [first] = [pid for pid, above in parents.items() if above not in parents]
        return first, [pid for pid in parents if pid != first]

    def kill_part(self, module: str) -> None:
        """SIGKILL the process of one part; the one that started the others where it has several."""
        os.kill(self.part(module)[0], signal.SIGKILL)

    def log(self, name: str) -> str:
        """A part's log."""
        return (self.data_dir / "logs" / f"{name}.log").read_text()

    def run(self, prompt: str = "a red circle moving left", **params: object) -> Video:
        """Submit a prompt and wait for the job's end."""
        return self.client.wait(self.client.create(prompt, **params).id, poll=0.05, timeout=PATIENCE)

    def until_step(self, video_id: str, step: int) -> None:
        """Wait until a running job has finished this many denoising steps."""
        until(lambda: self.client.get(video_id).step >= step, f"step {step} of {video_id}")
