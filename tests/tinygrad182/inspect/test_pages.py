"""Results with a page write it as a whole file, and open it in a browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

import tinygrad182 as tg
from tinygrad182.inspect.charts.pictures import Paged

pytest.importorskip("altair", reason="pip install 'tinygrad182[viz]'")


def loss() -> tg.Tensor:
    return tg.nn.RNN(1, 2, rng=0)(tg.ones((3, 1, 1)))[0].sum()


def watched() -> Paged:
    model = tg.nn.RNN(1, 2, rng=0)
    with tg.inspect.watch(model, every=1) as watch:
        model(tg.ones((3, 1, 1)))[0].sum().backward()
    return watch


PAGES: dict[str, Callable[[], Paged]] = {
    "microscope": lambda: tg.inspect.look(loss()),
    "tracediff": lambda: tg.inspect.diff(loss(), loss()),
    "watch": watched,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_written_and_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    page = PAGES[name]()
    path = page.open()
    assert [Path(unquote(urlparse(url).path)) for url in shown] == [path]
    assert path.name == f"{name}.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    path.unlink()


def test_a_page_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(tg.FileError, match="save_html"):
        tg.inspect.diff(loss(), loss()).save_html(tmp_path / "file" / "page.html")
