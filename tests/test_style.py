"""The English of README and docs: no sentence over 25 words, and none of the phrases that only translations have.

Code, tables and headings are left out. So are what programs write (their words stand in the sources) and the changelog,
whose entries stay as they were written.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from pages import PAGES, name

WORDS = 25
WRITTEN = [page for page in PAGES if page.stem != "changelog"]
GENERATED = "<!-- From here on made from the commands' own help"
MARKDOWN = MarkdownIt("commonmark").enable("table")
APART = {"heading", "table"}
SENTENCE_END = re.compile(r"(?<=[.!?:])[)\"”]*\s+(?=[^a-z])")
"""A colon ends a sentence if a capital, a digit or code follows."""
TRANSLATED = re.compile(
    r"""\bso\ many\b                                  # some number of
    |\bas\ (?:it|they)\ stands?\b|\bas\ it\ comes\b
    |\bthose\ (?:that|which|who|of)\b               # jobs that, the jobs of
    |\b(?:but|except)\ for\ (?:the\ )?(?:one|what|those)\b
    |\balso\ (?:for|from|in|through|after|while|when|if|not|that)\b   # even while
    |\bbetween\ commas\b|\banew\b|\breckoned\b|\bheld\ against\b|\bsays?\ of\b|\bnobody\ here\b
    |(?:^|[;:]\ )where\b(?!\ (?:is|are|do|does|can|to)\b)             # if, when
    |,\ where\ (?:it|there|they|this|that)\ (?:is|are)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def paragraphs(text: str) -> Iterator[str]:
    """Those of a page and of its lists, with code as one word."""
    apart = 0
    for token in MARKDOWN.parse(text.partition(GENERATED)[0]):
        if token.type.partition("_")[0] in APART:
            apart += token.nesting
        if token.type == "inline" and not apart:
            words = ("CODE" if part.type == "code_inline" else part.content or " " for part in token.children or ())
            yield "".join(words)


def sentences(text: str) -> list[str]:
    return [sentence for paragraph in paragraphs(text) for sentence in SENTENCE_END.split(paragraph)]


@cache
def of_page(page: Path) -> list[str]:
    return sentences(page.read_text())


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_no_sentence_is_too_long(page: Path) -> None:
    assert [sentence for sentence in of_page(page) if len(sentence.split()) > WORDS] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_no_phrase_is_a_translation(page: Path) -> None:
    assert [sentence for sentence in of_page(page) if TRANSLATED.search(sentence)] == []


def test_a_bad_page_is_found() -> None:
    long = " ".join(["word"] * WORDS)
    good = f"# {long} {long}\n\nIt runs `{long}`.\n\n| a |\n|---|\n| {long} {long} |\n\n```sh\n{long} {long}\n```\n"
    bad = f"- One {long}.\n- so many videos\n- Where it is set, it holds.\n"
    found = sentences(good + bad)
    assert [sentence for sentence in found if len(sentence.split()) > WORDS] == [f"One {long}."]
    assert [sentence for sentence in found if TRANSLATED.search(sentence)] == found[-2:]
    native = ("It takes so much time that jobs wait.", "As many as you have.", "Choose where to store videos.")
    assert not any(map(TRANSLATED.search, native))
