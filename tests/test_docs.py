"""The documentation: it builds into a site that needs nothing from elsewhere, and what it tells to type is there."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import adaspa
import adaspa.comfyui
import av
import click
import pytest
import typer
from adaspa_service.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "kernels" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe|source)[^>]+(?:src|href)=["'](?:https?:)?//""")


def code_blocks(language: str) -> Iterator[tuple[str, str]]:
    """Page and text of each block of a language."""
    for page in PAGES:
        for code in re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
            yield str(page.relative_to(ROOT)), code


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of each call of ``adaspa`` in a shell block."""
    for page, code in code_blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            names = [i for i, word in enumerate(words) if word in ("adaspa", ".venv/bin/adaspa")]
            if names and all("=" in word for word in words[: names[0]]):
                yield page, words[names[0] + 1 :]


def test_the_site_is_complete_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    assert [page.name for page in pages if ELSEWHERE.search(page.read_text())] == []


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_a_command_that_is_told_is_there(page: str, words: list[str]) -> None:
    root = typer.main.get_command(app)
    arguments = [word for word in words if not re.fullmatch(r"[A-Z_]+\.\.\.", word)]
    with click.Context(root) as context:
        command: click.Command = root
        while isinstance(command, click.Group):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None, f"{page}: adaspa has no command {name}"
            command = found
        command.make_context(command.name, arguments, parent=context)


@pytest.mark.parametrize(("page", "code"), list(code_blocks("python")))
def test_a_snippet_names_what_is_there(page: str, code: str) -> None:
    for node in ast.walk(ast.parse(code, page)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "adaspa":
            assert hasattr(adaspa, node.attr), f"{page}: adaspa.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("adaspa"):
            module = __import__(node.module, fromlist=["_"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_plain_diffusers_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "docs/examples/wan.py", "a red star rotates", "--steps", "3", "--frames", "5"]
    done = subprocess.run(
        [*command, "--preset", "fast", "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dense:" in done.stdout and "'sparse_steps': " in done.stdout
    for name in ("dense.mp4", "sparse.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
