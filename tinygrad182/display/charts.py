"""The palette and look of every chart, and how charts are drawn."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from .. import _caches
from .._files import checked_path, write_file
from ..errors import MissingDependencyError
from .pages import legible

# --- the palette: every colour of every page, picture and report ------------------------------------

# Okabe and Ito's colours, which colour-blind readers can tell apart, on white and on dark.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
)  # fmt: skip
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
GREY, PALE_GREY, DARK_GREY = "#7a7f87", "#c9ccd1", "#5d636b"
"""Greys. ``GREY`` is readable on white and on dark: for context. ``PALE_GREY`` fills cells whose number is
exactly 0. White text is readable on ``DARK_GREY``."""

MAGNITUDE: Final = "viridis"
"""Vega's colour scheme for magnitudes in decades."""

SHARE = "purpleorange"
"""Vega's colour scheme for signed shares, which diverges around 0."""


class Colours(NamedTuple):
    """Colours of text, background and lines: on white, or on dark."""

    ink: str
    paper: str
    line: str


LIGHT = Colours("#1a1a1a", "white", "#dddfe3")
DARK = Colours("#e8e8e8", "#15181c", "#3a3f46")


def paler(colour: str, share: float) -> str:
    """Mix a colour with this share of white.

    >>> paler("#0072B2", 0.5)
    '#80b8d8'
    """
    return _mixed(colour, 255, share)


def darker(colour: str, share: float) -> str:
    """Mix a colour with this share of black."""
    return _mixed(colour, 0, share)


def _mixed(colour: str, level: int, share: float) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (level - part)):02x}" for part in parts)


FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
SMALLEST = 11
"""Pixels of the smallest text in a picture."""

# --- drawing --------------------------------------------------------------------------------------

Row = dict[str, Any]


def altair() -> Any:
    """Import Altair. That happens when something is drawn, and not before.

    Raises
    ------
    MissingDependencyError
        Altair is not installed.
    """
    return _optional("altair")


def converter() -> Any:
    """Import ``vl_convert``, which makes pictures of charts without a browser.

    Raises
    ------
    MissingDependencyError
        ``vl_convert`` is not installed.
    """
    return _optional("vl_convert")


def library() -> str:
    """JavaScript that defines ``vegaEmbed``. Bundling its 0.9 MB takes seconds, so the bundle is cached.

    Raises
    ------
    MissingDependencyError
        ``vl_convert`` is not installed.
    """
    bundled = converter()
    name = f"vega.{bundled.__version__}.js"
    script = _caches.read_cached(name)
    if script is None:
        script = bundled.javascript_bundle().encode()
        _caches.write_cached(name, script)
    return script.decode()


def _optional(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            "drawing needs altair and vl-convert: pip install 'tinygrad182[viz]'"
        ) from error


def data(rows: Iterable[Row]) -> Any:
    """Rows as a chart's data, without a data frame library and without Altair's limit of 5,000 rows.

    The rows are a tuple, because Altair copies a list whenever a chart is changed.
    """
    return altair().InlineData(values=tuple(legible(list(rows))))


def encoded(marked: Any, **channels: Any) -> Any:
    """Return ``marked.encode(**channels)``, faster.

    Altair searches all of its classes for each shorthand, value and condition, which takes 10 ms. Here the
    channel's name says which class to use.
    """
    return marked.encode(**{name: _channel(name, given) for name, given in channels.items()})


def _channel(name: str, given: Any) -> Any:
    if isinstance(given, list):
        return [_channel(name, each) for each in given]
    kind = name[0].upper() + name[1:]
    if isinstance(given, str):
        return getattr(altair(), kind)(given)
    if isinstance(given, dict):  # altair.value and altair.condition
        return getattr(altair(), f"{kind}Value")(**given)
    return given


def layered(layers: Iterable[Any], **properties: Any) -> Any:
    """Return ``alt.layer(*layers).properties(...)``, without its four copies of all layers.

    A layer that defines a selection must have a name.
    """
    alt = altair()
    chart, selections = alt.LayerChart(), []
    for layer in layers:
        if layer.params is not alt.Undefined:
            views = {"views": [layer.name]}
            selections += [
                alt.TopLevelSelectionParameter(**each.to_dict(), **views) for each in layer.params
            ]
            layer = layer.copy(deep=False)
            layer.params = alt.Undefined
        chart.layer.append(layer)
    chart.params = selections or alt.Undefined
    for name, value in properties.items():
        chart[name] = value
    return chart


def unchecked() -> AbstractContextManager[None]:
    """Make charts without checking every part against Vega-Lite's schema, which takes seconds.

    The tests check whole charts.
    """
    altair()
    from altair.utils import schemapi

    return schemapi.debug_mode(False)


def spec(chart: Any) -> dict[str, Any]:
    """Return the chart as a Vega-Lite specification, without checks and without Altair's own theme."""
    found: dict[str, Any] = chart.to_dict(validate=False)
    if found.get("config", {}).keys() == {"view"}:  # Altair's default theme
        del found["config"]
    return found


def theme(dark: bool = False) -> Row:
    """Return the project's look as Vega-Lite's ``config``, on white or on dark."""
    ink, paper, line = DARK if dark else LIGHT
    axis = {"labelColor": ink, "titleColor": ink, "titleFontWeight": "normal"}
    sizes = {"labelFontSize": SMALLEST, "titleFontSize": SMALLEST}
    lines = {"gridColor": line, "domainColor": line, "tickColor": line}
    return {
        "font": FONT,
        "background": paper,
        "view": {"stroke": None},
        "text": {"color": ink, "fontSize": SMALLEST},
        "axis": axis | lines | sizes | {"titleFontSize": 12},
        "legend": axis | sizes,
        "title": {"color": ink, "subtitleColor": ink, "anchor": "start"}
        | {"fontSize": 14, "subtitleFontSize": 12},
    }


def configured(chart: Any, dark: bool = False) -> Any:
    """Return a chart in the project's look, on white or on dark."""
    return chart.configure(**theme(dark))


def decade_axis(low: float, high: float, most: int = 8) -> dict[str, Any]:
    """Values and labels of an axis or a legend for log10 values, at most ``most`` of them.

    >>> decade_axis(-400.0, 0.0)["values"]
    [-400, -350, -300, -250, -200, -150, -100, -50, 0]
    >>> decade_axis(-2.5, 0.1)["values"]
    [-3, -2, -1, 0, 1]
    >>> decade_axis(0.0, 0.0)["values"]
    [0, 1]
    """
    bottom = math.floor(low)
    top = max(math.ceil(high), bottom + 1)
    every = next(n for n in _steps() if (top - bottom) / n <= most)
    first = math.floor(bottom / every) * every
    values = list(range(first, top + every, every))
    return {"values": values, "labelExpr": "'1e' + format(datum.value, 'd')"}


def _steps() -> Iterable[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def save_png(
    what: str, chart: Any, path: str | Path, dark: bool = False, scale: float = 2.0
) -> None:
    """Write a chart, or its specification, as an image: ``scale`` pixels for each of the chart's."""
    target = checked_path(what, path)
    write_file(what, target, converter().vegalite_to_png(_text(chart, dark), scale=scale))


def save_svg(what: str, chart: Any, path: str | Path, dark: bool = False) -> None:
    """Write a chart, or its specification, as a drawing that can be scaled."""
    target = checked_path(what, path)
    write_file(what, target, converter().vegalite_to_svg(_text(chart, dark)).encode())


def inline(title: str, chart: Any) -> str:
    """A chart as HTML that loads nothing and runs nothing: a drawing inside an image."""
    svg = base64.b64encode(converter().vegalite_to_svg(_text(chart)).encode()).decode()
    source = f"data:image/svg+xml;base64,{svg}"
    return f'<img alt="{html.escape(title)}" style="max-width:100%" src="{source}">'


def _text(chart: Any, dark: bool = False) -> str:
    found = chart if isinstance(chart, dict) else spec(chart)
    return json.dumps({"config": theme(dark)} | found)


def finite(values: Sequence[float], digits: int = 4) -> list[float | None]:
    """Numbers for a chart: rounded to significant digits, None where there is none to draw.

    >>> finite([1.23456789, float("-inf"), -400.123456])
    [1.235, None, -400.1]
    """
    return [float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in values]
