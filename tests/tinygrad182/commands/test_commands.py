"""The command line: help, names that are not there, errors as one line."""

from __future__ import annotations

import importlib

import pytest

from tinygrad182.commands import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


def test_a_misspelt_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dif"]) == 2
    told = capsys.readouterr()
    assert "there is no command 'dif'; did you mean diff?" in told.err
    assert not told.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_options_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, summary = COMMANDS[name]
    command = importlib.import_module(f"tinygrad182.commands.{module}")
    assert callable(command.run)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert " ".join(capsys.readouterr().out.split()).count(summary.split(",")[0]) == 1
