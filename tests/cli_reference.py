"""The command line's reference: ``python tests/cli_reference.py`` brings docs/cli.md up to the commands' own help."""

import html
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"
MARK = "<!-- From here on made from the commands' own help: make cli-docs -->\n"


def reference() -> str:
    """What the commands say of themselves, as Markdown."""
    typer = Path(sys.executable).with_name("typer")
    command = [typer, "adaspa_service.cli", "utils", "docs", "--name", "adaspa"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    commands = made[made.index("## `") :]  # what comes before is the list that `adaspa --help` shows
    return html.unescape(commands).rstrip() + "\n"


def written_by_hand() -> str:
    """The document up to the mark."""
    return DOCUMENT.read_text().partition(MARK)[0]


if __name__ == "__main__":
    DOCUMENT.write_text(written_by_hand() + MARK + "\n" + reference())
