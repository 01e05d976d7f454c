"""``adaspa open``: the page in the browser, without its token on the process list."""

from pathlib import Path

import pytest
from adaspa_api.token_file import port_of
from adaspa_command import adaspa
from adaspa_service.access import open_token
from playwright.sync_api import Page, expect
from running_gateway import Service


@pytest.mark.asks
def test_the_open_command_shows_the_page_signed_in_and_tells_no_process_list_the_token(
    page: Page, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser is given a file that leads there, which its user alone can read and which goes with the token."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    port = port_of(service.url)
    open_token.leave(service.parts.open_token, port)
    browser, told = tmp_path / "browser", tmp_path / "told"
    browser.write_text(f'#!/bin/sh\necho "$@" > {told}\n')
    browser.chmod(0o700)
    ran = adaspa("open", server=service.url, BROWSER=str(browser))
    assert (ran.returncode, ran.stdout) == (0, f"Opened {service.url} in the browser\n"), ran.stderr
    address = told.read_text().strip()
    file = Path(address.removeprefix("file://"))
    assert service.token not in address and file.stat().st_mode & 0o777 == 0o600
    page.goto(address)
    page.wait_for_url(f"{service.url}/")
    expect(page.get_by_text("No videos yet")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    open_token.take_away(service.parts.open_token, port)
    assert not file.exists()
    adaspa("open", server=service.url, BROWSER=str(browser))
    assert told.read_text().strip() == service.url, "of a service that left no token, as one with API keys"
    ran = adaspa("open", server=service.url, BROWSER="/bin/false", PATH="")
    assert (ran.returncode, ran.stdout) == (0, f"No browser was found. Open this address yourself: {service.url}\n")
