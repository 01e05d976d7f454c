"""``--output``: whether a file could be written there, and one that appears there only when it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from adaspa_client.download import destination

from adaspa_service.cli.terminal import Exit, fail


def check_output(path: Path) -> None:
    """End the command if the file could not be written, before any work is done for it."""
    if str(path) == "-":
        fail("--output: standard output is not supported; allowed: a file (./- for one of this name)", Exit.usage)
    if not path.parent.is_dir():
        fail(f"--output: the folder {path.parent} does not exist", Exit.usage)
    try:
        whole = destination(path)
    except ValueError:
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        fail(f"--output: {path} is {kind}; allowed: a file", Exit.usage)
    except OSError as error:  # such as a name that is too long
        fail(f"--output: {path}: {error.strerror}", Exit.usage)
    check_folder(whole.parent)


def check_folder(folder: Path) -> None:
    """End the command if no file can be written to the folder. To write one is the only sure test; it leaves none."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fail(f"--output: no file can be written to {folder.absolute()}: {error.strerror}", Exit.usage)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a part to write, alone in a hidden folder beside the file. Once it is whole, it takes the file's place."""
    whole = destination(path)
    with TemporaryDirectory(prefix=".part-", dir=whole.parent) as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(whole)
