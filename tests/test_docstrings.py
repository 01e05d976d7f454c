"""Docstrings of the packages begin with a verb or a noun, and use no phrase that is hard to read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "kernels/adaspa",
    "service/adaspa_jobs",
    "service/adaspa_service",
    "service/client",
    "worker/adaspa_worker",
)
FRAGMENT = re.compile(
    r"(As|At|By|For|From|How|If|In|It|Its|Of|On|So|That|The|These|This|Those|To|Until|What|When|Where|Whether|Which"
    r"|Who|Why|With|Without)\b"
)
"""First words of half a sentence, whose other half is the name above it; and an article, before what could begin it."""
DESCRIPTIONS = {"service/client/adaspa_api/fields.py", "service/client/adaspa_api/words.py"}
"""Files whose attributes' docstrings are what help, tables and the API's schema say; there they are whole sentences."""
RIDDLE = re.compile(r"\b(as it stands|as they stand|so many)\b")


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings of a file, with their lines; of attributes too, if they are not descriptions for users."""
    described = str(path.relative_to(ROOT)) in DESCRIPTIONS
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for place, part in enumerate(node.body):
                if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and not (place and described):
                    yield part.lineno, str(part.value.value)


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_a_verb_or_a_noun(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in docstrings(path)
        if FRAGMENT.match(text) or RIDDLE.search(text)
    ]
    assert found == []
