"""The documentation's pages, and what they tell to type."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer
from adaspa_service.cli import app
from typer.core import TyperGroup

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "kernels" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """As tests show it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code, in order."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [(language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE)) for indent, language, code in found]


def commands(code: str) -> list[str]:
    """The commands of a shell block, each on a line of its own."""
    return [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def check_parses(command: str) -> None:
    """Raise an error unless ``adaspa`` takes these arguments; a command that is named without any only has to be."""
    words = shlex.split(command, comments=True)
    words = words[next(i for i, word in enumerate(words) if word.rpartition("/")[2] == "adaspa") + 1 :]
    found: Any = typer.main.get_command(app)
    context = found.make_context("adaspa", [], resilient_parsing=True)
    if words[0].startswith("-"):
        assert any(words[0] in option.opts for option in found.get_params(context)), command
        return
    while words and isinstance(found, TyperGroup):
        command_name, found, words = found.resolve_command(context, words)
        assert found is not None, f"there is no command for: {command}"
        context = found.make_context(command_name, [], parent=context, resilient_parsing=True)
    if words:
        found.make_context(found.name, words, parent=context)
