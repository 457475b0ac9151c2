"""``python -m tinygrad182 playground``: the page, its progress, and what cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tinygrad182.inspect.sliders.recipe import rows_of
from tinygrad182.commands import main, playground
from tinygrad182.inspect import Playground

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("tyro")
pytest.importorskip("rich")

FEW: dict[str, Any] = {"cell": ["GRU"], "radius": [0.9], "bias": [0.0], "length": [10]}


def test_a_page_is_written_and_progress_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(playground, "playground", lambda size, seed: Playground(size, seed, FEW))
    out = tmp_path / "page.html"
    assert main(["playground", "--out", str(out), "--hidden-size", "3", "--seed", "7"]) == 0
    told = capsys.readouterr()
    assert told.out == f"page: {out}\n"
    assert "Measuring every stop" in told.err
    page = out.read_text(encoding="utf-8")
    assert rows_of(out).keys() == {f"GRU//0.9/0//10/{loss}" for loss in ("last", "all")}
    assert "3 hidden units" in page
    assert "seed 7" in page


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--hidden-size", "0", "hidden_size"), ("--seed", "-1", "seed -1")],
)
def test_what_cannot_be_made_is_one_line(
    option: str, value: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["playground", "--out", str(out), option, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not out.exists()
