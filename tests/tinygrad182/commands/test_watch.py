"""``python -m tinygrad182 watch``: the table and the page of a file, and errors as one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import tinygrad182 as tg
from tinygrad182.commands import main

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that goes on: its file has no end yet."""
    path = tmp_path / "run.jsonl"
    model = tg.nn.RNN(1, 3, rng=0)
    with tg.inspect.watch(model, every=1) as watch:
        for _ in range(3):
            model(tg.ones((4, 1, 1)))[0][-1].sum().backward()
    watch.save(path)
    return path


def test_a_run_is_printed_and_its_page_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(run)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("The run ended: it was stopped. The last loss is")
    assert "rnn.l0 h first" in told
    assert f"page: {run.with_suffix('.html')}" in told
    assert "Gradient flow during training" in run.with_suffix(".html").read_text()
    out = run.with_name("other.html")
    assert main(["watch", str(run), "--out", str(out)]) == 0
    assert out.read_bytes() == run.with_suffix(".html").read_bytes()


def test_the_page_does_not_take_the_place_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.read_bytes()
    assert main(["watch", str(run), "--out", str(run)]) == 2
    assert "is the file of a watched run; choose another name" in capsys.readouterr().err
    assert run.read_bytes() == before


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path / "none.jsonl")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: load_watch: there is no file")
    assert told.err.count("\n") == 1
