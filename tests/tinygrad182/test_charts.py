"""The look of every chart, and Vega's JavaScript, which is put together once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinygrad182 import _caches
from tinygrad182.display import charts


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Versions for which the library was put together."""
    made: list[str] = []
    current = SimpleNamespace(__version__="1.0")

    def javascript_bundle() -> str:
        made.append(current.__version__)
        return f"vegaEmbed = {current.__version__}; // é"

    current.javascript_bundle = javascript_bundle
    monkeypatch.setattr(charts, "converter", lambda: current)
    return made


def keep_in(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(_caches, "folders", lambda: list(folders))


def test_the_library_is_put_together_once_for_each_version(
    bundled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_in(monkeypatch, tmp_path / "new")
    for _ in range(2):
        assert charts.library() == "vegaEmbed = 1.0; // é"
    assert bundled == ["1.0"]
    charts.converter().__version__ = "2.0"
    assert charts.library() == "vegaEmbed = 2.0; // é"
    assert bundled == ["1.0", "2.0"]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "folder"])
def test_a_damaged_file_breaks_no_page(
    damage: str, bundled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_in(monkeypatch, tmp_path)
    good = charts.library()
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": data[:9], "changed": data, "empty": b""}[damage])
    assert charts.library() == good
    assert bundled == ["1.0", "1.0"]


def test_where_nothing_can_be_kept(
    bundled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    keep_in(monkeypatch, blocked / "folder")
    assert charts.library() == charts.library()
    assert len(bundled) == 2
    keep_in(monkeypatch, blocked / "folder", tmp_path / "cache")
    assert charts.library() == charts.library()
    assert len(bundled) == 3


def test_what_is_kept_is_what_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep_in(monkeypatch, tmp_path / "one", tmp_path / "two")
    _caches.write_cached("name", b"data")
    written = (tmp_path / "one" / "name").read_bytes()
    assert written == hashlib.sha256(b"data").digest() + b"data"
    assert not (tmp_path / "two").exists()
    assert _caches.read_cached("name") == b"data"
    assert _caches.read_cached("other") is None


def test_a_chart_gets_the_theme() -> None:
    alt = pytest.importorskip("altair")
    for dark, colours in ((False, charts.LIGHT), (True, charts.DARK)):
        config: dict[str, Any] = charts.configured(
            alt.Chart(charts.data([{}])).mark_point(), dark
        ).to_dict()["config"]
        config["view"] = {"stroke": config["view"]["stroke"]}  # Altair adds a size
        assert config == charts.theme(dark)
        assert config["background"] == colours.paper
        assert config["axis"]["labelColor"] == config["text"]["color"] == colours.ink
    sizes = [
        v
        for part in config.values()
        if isinstance(part, dict)
        for k, v in part.items()
        if "Size" in k
    ]
    assert len(sizes) == 7
    assert min(sizes) >= 11


def test_charts_made_without_altairs_search_and_copies_are_the_same() -> None:
    alt = pytest.importorskip("altair")
    marked = alt.Chart(charts.data([{"a": 1}])).mark_point()
    text = alt.Chart(charts.data([{"a": 2}])).mark_text()
    channels = {
        "x": alt.X("a:Q", axis=None),
        "y": alt.value(3),
        "x2": "a:Q",
        "detail": ["a:N", "b:N"],
        "color": alt.condition("datum.a", alt.value("red"), alt.value("blue")),
        "size": alt.condition("datum.a", alt.Size("a:Q"), alt.value(1)),
    }
    pick = alt.selection_point(name="pick", fields=["a"])
    ours, theirs = (
        [chart.properties(name="named").add_params(pick), text]
        for chart in (charts.encoded(marked, **channels), marked.encode(**channels))
    )
    expected = alt.layer(*theirs).properties(width=30, title="t")
    assert charts.layered(ours, width=30, title="t").to_dict() == expected.to_dict()
