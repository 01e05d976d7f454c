"""Power, clocks and disks: a library put before a process's own, through which its clock is set, its disk is full or
slow, and its syncs are known."""

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
USUAL = bytes(24)
"""What a process is told whose clock is right and whose disk is neither slow nor full."""


class Shim:
    """The library, built once in a folder. It needs a C compiler, ``cc``.

    Args:
        folder: for the library, what it is told, and the notes of syncs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.library = folder, folder / "shim.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", self.library, SOURCE, "-ldl"]
        subprocess.run(command, check=True, capture_output=True)

    def environment(self, name: str) -> dict[str, str]:
        """Variables with which a process starts that has a clock and syncs of this name."""
        if not self._machine(name).exists():
            self._machine(name).write_bytes(USUAL)
        own = {"CHAOS_MACHINE": self._machine(name), "CHAOS_SYNCED": self.folder, "LD_PRELOAD": self.library}
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
        self._tell(name, 0, seconds)

    def slow_syncs(self, name: str, seconds: float) -> None:
        """Let each sync of a running process take so much longer; 0: none."""
        self._tell(name, 1, round(seconds * 1000))

    def fill_disk(self, name: str, full: bool = True) -> None:
        """Let every write of a running process to a file fail for want of room, or no longer."""
        self._tell(name, 2, int(full))

    def _tell(self, name: str, place: int, value: int) -> None:
        with self._machine(name).open("r+b") as file:  # in place: the process has it in its memory
            file.seek(place * 8)
            file.write(struct.pack("<q", value))

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

    def _machine(self, name: str) -> Path:
        return self.folder / f"{name}.machine"
