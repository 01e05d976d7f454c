"""A browser for the page's tests."""

from collections.abc import Iterator

import pytest
from browser import OpenTab, chromium, tabs
from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a file's tests: while it runs, its event loop does, and no other can in this process."""
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs, each of a user of its own."""
    with tabs(browser) as opener:
        yield opener


@pytest.fixture
def page(tab: OpenTab) -> Page:
    """A tab."""
    return tab()
