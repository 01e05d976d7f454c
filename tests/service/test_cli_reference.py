"""docs/cli.md says what the commands themselves say."""

import signal

import pytest
from adaspa_service.cli import COMMANDS, GROUPS, app
from adaspa_service.cli.terminal import Exit
from cli_reference import DOCUMENT, MARK, reference, written_by_hand
from typer.testing import CliRunner


def test_the_reference_is_what_the_commands_say() -> None:
    assert DOCUMENT.read_text().partition(MARK)[2].strip() == reference().strip(), "run: make cli-docs"


def test_every_exit_status_and_every_command_is_explained() -> None:
    text = written_by_hand()
    assert [
        line.split("|")[1].strip() for line in text.splitlines() if line.startswith(("| 1", "| 2", "| 3", "| 4", "| 0"))
    ] == [str(status) for status in sorted([*map(int, Exit), 128 + signal.SIGHUP, 128 + signal.SIGTERM])]
    named = [command.__name__ for commands in COMMANDS.values() for command in commands]
    for name in [*named, *GROUPS]:
        assert f"`{name.replace('_', '-')}`" in text


@pytest.mark.parametrize("command", ["", "jobs", "keys", "keys create"])
def test_a_flag_is_shown_without_a_type(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert "--help" in shown and "bool" not in shown
