"""Plays the scenes of some modules in a process of their own: what they import takes seconds, they replace parts that
other scenes use meanwhile, and the audit's commands are forked from its own process.

    PYTHONPATH=tests python -m chaos.apart by_failures by_model
"""

import subprocess
import sys
import traceback
from importlib import import_module

from chaos.scenes import Scene
from chaos.stage import Stage

LIMIT_SECONDS = 3600.0
"""Seconds that the scenes may take, on a machine however busy."""


class Apart(Scene):
    """The scenes of some modules, one after another."""

    promise = "as the modules' scenes say"

    def __init__(self, *modules: str) -> None:
        self.modules = modules

    @property
    def name(self) -> str:
        return f"by hand: {', '.join(self.modules)}"

    def play(self, stage: Stage) -> None:
        command = [sys.executable, "-m", "chaos.apart", *self.modules]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"hangs: not at its end after {LIMIT_SECONDS:.0f} s") from error
        assert done.returncode == 0, done.stdout or done.stderr[-500:]


def main() -> None:
    """Play the modules' scenes; status 1 at the first that is broken, of which it tells."""
    for scene in (scene for name in sys.argv[1:] for scene in import_module(f"chaos.{name}").SCENES):
        try:
            scene.play(None)
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else ""
            print(f"{scene.name}: {said or traceback.format_exc()}")
            sys.exit(1)


if __name__ == "__main__":
    main()
