"""What the benchmarks share, and what they take from the framework's insides."""

import json

import pytest

from experiments.benchmarks import memory, timing


@pytest.mark.parametrize("function", memory.CHECKED, ids=lambda f: f.__name__)
def test_the_checks_for_anomalies_are_found_where_they_are_taken_out(function):
    assert memory.without_checks(function).co_name == function.__name__


def test_a_report_is_printed_and_written(tmp_path, capsys):
    rows = [{"layer": "LSTM", "ms": 1.23456, "torch ms": None}]
    timing.report("speed", rows, tmp_path)
    title, headings, cells, *rest = capsys.readouterr().out.strip().splitlines()
    assert title == "speed"
    assert headings.split() == ["layer", "ms", "torch", "ms"]
    assert cells.split() == ["LSTM", "1.23", "·"]
    assert rest[0].startswith("date ")
    assert json.loads((tmp_path / "speed.json").read_text())["rows"] == rows
