"""The synchronous client, made of the asynchronous one: ``python tests/sync_client.py`` writes it."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unasync import Rule, unasync_files

CLIENT = Path(__file__).parents[1] / "service" / "client" / "adaspa_client"
SOURCE, MADE = CLIENT / "asynchronous.py", CLIENT / "sync.py"
WORDS = {
    "AsyncClient": "Client",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "aiter_text": "iter_text",
    "aread": "read",
    "asyncio": "time",
}
"""What is called otherwise where nothing is awaited, beside what unasync knows itself."""
ABOUT = '"""Client for programs that do not await. Made of ``asynchronous.py``: ``make sync-client``."""\n'


def sync_client() -> str:
    """The module as it has to be, in the linter's order and format."""
    with TemporaryDirectory() as folder:
        source, made = Path(folder, "awaits", SOURCE.name), Path(folder, "waits", SOURCE.name)
        source.parent.mkdir()
        shutil.copy(SOURCE, source)
        unasync_files([str(source)], [Rule(str(source.parent), str(made.parent), additional_replacements=WORDS)])
        text = ABOUT + made.read_text().partition("\n")[2]
    for command in (["check", "--select", "I,UP028", "--fix", "--unsafe-fixes", "--quiet"], ["format"]):
        ruff = [Path(sys.executable).with_name("ruff"), *command, "--stdin-filename", MADE, "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    MADE.write_text(sync_client())
