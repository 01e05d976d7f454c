"""Plays the scenes of some modules in a process of their own: what they import takes seconds, and the audit's commands
are forked from its own process.

    PYTHONPATH=tests python -m chaos.apart by_model
"""

import subprocess
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module

from chaos.scenes import Scene
from chaos.stage import Stage

LIMIT_SECONDS = 3600.0
"""Seconds that a module's scenes may take, on a machine however busy."""


@dataclass
class Apart(Scene):
    """The scenes of a module."""

    module: str
    promise = "as the module's scenes say"

    @property
    def name(self) -> str:
        return f"by hand: {self.module}"

    def play(self, stage: Stage) -> None:
        command = [sys.executable, "-m", "chaos.apart", self.module]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"hangs: not at its end after {LIMIT_SECONDS:.0f} s") from error
        assert done.returncode == 0, done.stdout or done.stderr[-500:]


def main() -> None:
    """Play a module's scenes; status 1 at the first that is broken, of which it tells."""
    for scene in import_module(f"chaos.{sys.argv[1]}").SCENES:
        try:
            scene.play(None)
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else ""
            print(f"{scene.name}: {said or traceback.format_exc()}")
            sys.exit(1)


if __name__ == "__main__":
    main()
