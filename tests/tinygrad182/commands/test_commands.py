"""The command line: help, names that are not there, errors as one line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tinygrad182._files import in_json
from tinygrad182.commands import COMMANDS, main, say


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


def test_a_misspelt_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dif"]) == 2
    told = capsys.readouterr()
    assert "there is no command 'dif'; did you mean diff?" in told.err
    assert not told.out


def test_what_is_printed_does_not_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("h\x1b[31m ∂L/∂h", "a\r\nb\u202e\x9b")
    assert capsys.readouterr().out == "h\\x1b[31m ∂L/∂h\na\\r\\nb\\u202e\\x9b\n"
    assert main(["\x1b[31m"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_standard_output_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        assert main(["--help"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "cannot be written: " in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_options_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary = COMMANDS[name]
    command = importlib.import_module(f"tinygrad182.commands.{name.replace('-', '_')}")
    assert callable(command.run)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert " ".join(capsys.readouterr().out.split()).count(summary.split(",")[0]) == 1


def test_json_has_words_for_what_is_not_finite() -> None:
    given = {
        "a": [1.5, float("nan")],
        "b": (float("-inf"), {"c": float("inf")}),
        "d": "nan",
        "e": 2,
    }
    told = {"a": [1.5, "nan"], "b": ["-inf", {"c": "inf"}], "d": "nan", "e": 2}
    assert in_json(given) == told
