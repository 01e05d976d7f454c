"""Plays the scenes of some modules in a process of their own: what they import takes seconds, they replace parts that
other scenes use meanwhile, and the audit's commands are forked from its own process.

    PYTHONPATH=tests python -m chaos.apart by_failures by_model
"""

import argparse
import subprocess
import sys
import traceback
from collections.abc import Collection, Iterator
from importlib import import_module

from chaos.scenes import Scene
from chaos.stage import Stage

LIMIT_SECONDS = 3600.0
"""Seconds that the scenes may take, on a machine however busy."""


class Apart(Scene):
    """The scenes of some modules, one after another.

    Args:
        modules: of this package.
        only: the name of one scene; empty means all.
    """

    promise = "as the modules' scenes say"

    def __init__(self, *modules: str, only: str = "") -> None:
        self.modules, self.only = modules, only

    @property
    def name(self) -> str:
        return self.only or f"by hand: {', '.join(self.modules)}"

    def each(self) -> Iterator["Apart"]:
        """Its scenes, each by itself."""
        return (Apart(name, only=scene.name) for name in self.modules for scene in scenes_of(name))

    def play(self, stage: Stage) -> None:
        command = [sys.executable, "-m", "chaos.apart", *self.modules, "--only", self.only]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"hangs: not at its end after {LIMIT_SECONDS:.0f} s") from error
        said = done.stdout.removeprefix(f"{self.only}: ")
        assert done.returncode == 0, said or done.stderr[-500:]


def scenes_of(module: str) -> Collection[Scene]:
    """The scenes of a module, which is imported for them."""
    scenes: Collection[Scene] = import_module(f"chaos.{module}").SCENES
    return scenes


def main() -> None:
    """Play the modules' scenes; status 1 at the first that is broken, of which it tells."""
    parser = argparse.ArgumentParser(prog="chaos.apart", description="Scenes of some modules.")
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--only", default="", help="the name of one scene")
    asked = parser.parse_args()
    for scene in (scene for name in asked.modules for scene in scenes_of(name)):
        if asked.only not in ("", scene.name):
            continue
        try:
            scene.play(None)  # type: ignore[arg-type]  they need none
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else ""
            print(f"{scene.name}: {said or traceback.format_exc()}")
            sys.exit(1)


if __name__ == "__main__":
    main()
