"""Power and clocks: a library put before a process's own, through which its clock is set and its syncs are known."""

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Shim:
    """The library, built once in a folder. It needs a C compiler, ``cc``.

    Args:
        folder: for the library, the clocks and the notes of syncs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.library = folder, folder / "shim.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", self.library, SOURCE, "-ldl"]
        subprocess.run(command, check=True, capture_output=True)

    def environment(self, name: str) -> dict[str, str]:
        """Variables with which a process starts that has a clock and syncs of this name."""
        if not self._clock(name).exists():
            self.set_clock(name, 0)
        own = {"CHAOS_CLOCK": self._clock(name), "CHAOS_SYNCED": self.folder, "LD_PRELOAD": self.library}
        return {variable: str(value) for variable, value in own.items()}

    def before(self, name: str, then: Callable[[], None]) -> Callable[[], None]:
        """What a process does first that is started without an environment of its own."""
        own = self.environment(name)

        def prepare() -> None:
            then()
            os.environ.update(own)

        return prepare

    def set_clock(self, name: str, seconds: int) -> None:
        """Set a running process's clock ahead of the machine's, or back."""
        clock = self._clock(name)
        with clock.open("r+b" if clock.exists() else "wb") as file:  # in place: the process has it in its memory
            file.write(struct.pack("<q", seconds))

    def cut(self, path: Path) -> int:
        """Leave of a file, whose writer is dead, what had been synced; how many bytes went."""
        kept = self.synced(path)
        gone = path.stat().st_size - kept
        os.truncate(path, kept)
        return gone

    def synced(self, path: Path) -> int:
        """How many bytes of a file have been synced."""
        note = self.folder / f"{path.name}.synced"
        return int(note.read_text()) if note.exists() else 0

    def _clock(self, name: str) -> Path:
        return self.folder / f"{name}.clock"
