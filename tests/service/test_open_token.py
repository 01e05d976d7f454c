"""Files in which a gateway without API keys leaves its token: for its user alone, and for as long as it runs."""

import os
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from unittest.mock import Mock

import pytest
from adaspa_api.token_file import token_file
from adaspa_jobs.settings import Settings, SettingsError
from adaspa_service.access import open_token
from pydantic import SecretStr

OURS, OTHERS = SecretStr("ours" * 8), SecretStr("others" * 8)
URL = "http://127.0.0.1:7000"
WAYS_OUT = r"cannot write the token file .*XDG_STATE_HOME.*ADASPA_OPEN_ACCESS=true"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the files are; a program's files are readable by all here, unless it says otherwise."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0o000)
    yield tmp_path / "state" / "adaspa"
    os.umask(before)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_is_left_is_its_users_alone_also_where_another_was(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for file in (token_file(7000), open_token.redirect_file(7000)):
        file.write_text("of a gateway that was killed, and much longer than what follows" * 9)
        file.chmod(0o644)
    open_token.leave(OURS, 7000)
    page = open_token.leave_redirect(URL, OURS.get_secret_value())
    assert token_file(7000).read_text() == OURS.get_secret_value() + "\n"
    assert page == open_token.redirect_file(7000) != token_file(7000)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert left(folder) == sorted((token_file(7000).name, page.name)), "no half-written file stays"


def test_a_folder_that_is_made_for_it_is_its_users_alone(folder: Path) -> None:
    open_token.leave(OURS, 7000)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_gateway_takes_its_own_token_away_with_the_page_and_no_others(folder: Path) -> None:
    for port in (7000, 7001):
        open_token.leave(OTHERS, port)
        open_token.leave_redirect(URL.replace("7000", str(port)), OTHERS.get_secret_value())
    everything = left(folder)
    assert len(everything) == 4
    open_token.take_away(OURS, 7000)
    assert left(folder) == everything, "another gateway has taken its place at this port"
    open_token.take_away(OTHERS, 7000)
    assert left(folder) == sorted((token_file(7001).name, open_token.redirect_file(7001).name))
    open_token.redirect_file(7001).unlink()
    open_token.take_away(OTHERS, 7001)
    assert left(folder) == []
    open_token.take_away(OTHERS, 7001)  # there is none, which is as well


@pytest.mark.parametrize("token", ["t" * 32, "a\"b&c<d>'e"])
def test_a_browser_is_led_to_the_page_with_the_token_behind_the_hash(token: str) -> None:
    text = open_token.leave_redirect(URL, token).read_text()
    wanted = f"{URL}/#token={token}"
    (refresh,) = re.findall(r'content="0; url=(.*?)"', text)
    (link,) = re.findall(r'href="(.*?)"', text)
    assert unescape(refresh) == unescape(link) == wanted and token not in text.replace(refresh, "").replace(link, "")
    assert open_token.page(Settings(port=7000), SecretStr(token)) == wanted


def test_a_folder_that_cannot_be_written_is_named_with_the_ways_out(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    with pytest.raises(SettingsError, match=WAYS_OUT):
        open_token.leave(OURS, 7000)
    open_token.take_away(OURS, 7000)


def test_a_user_without_a_home_is_told_the_ways_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("Could not determine home directory.")))
    with pytest.raises(SettingsError, match=WAYS_OUT):
        open_token.leave(OURS, 7000)
