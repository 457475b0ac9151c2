"""The playground's page: its controls, and the charts that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ... import _charts
from ..._charts import Row
from ..._html import chart_page, text
from ..microscope.page import fold, style
from .charts import CLOSED_FORM, SLOPE, VIEWS, Source, page_chart
from .settings import APPLIES, OF_NETWORK, Setting, written

Stops = Mapping[str, tuple[Any, ...]]

STATES, PARTS = ("h", "c"), ("via h", "via branch", "local")
"""Those of any cell."""

_LABELS = {
    "cell": "cell",
    "nonlinearity": "nonlinearity (RNN, ResNet)",
    "radius": "spectral radius of the recurrent weights",
    "bias": "bias scale",
    "forget_bias": "forget bias (LSTM)",
    "length": "length T, or depth",
    "loss": "loss reads",
}

_CHOICES = {"last": "the last state", "all": "every state"}


def chart_spec(
    losses: Sequence[Row],
    values: Sequence[Row],
    stops: Stops,
    start: Setting,
    view: str | None = None,
    bound: bool = False,
) -> dict[str, Any]:
    """Return the specification of one view, or of all as on the page.

    Parameters
    ----------
    losses, values : sequence of dict
        :func:`loss_row` and :func:`values_row` of settings, with their names as ``key``.
    stops : mapping of str to tuple
        Those of each control.
    start : Setting
        What is shown at first.
    view : str, optional
        One of :data:`VIEWS`.
    bound : bool
        Whether the page's controls set what is shown.
    """
    alt = _charts.altair()
    with _charts.unchecked():
        source = Source(
            alt.Chart(_charts.data(losses)).transform_filter("datum.key === key"),
            alt.Chart(_charts.data(values)).transform_filter("datum.key === network"),
            STATES,
            PARTS,
            [SLOPE, CLOSED_FORM],
        )
        chart = page_chart(source) if view is None else VIEWS[view](source)
        spec = _charts.spec(chart)
    spec["params"] = [*_signals(stops, start, bound), *spec.get("params", ())]
    return spec


def _signals(stops: Stops, start: Setting, bound: bool) -> list[dict[str, Any]]:
    """The controls as signals, and what follows from them."""
    found: list[dict[str, Any]] = []
    for name, some in stops.items():
        place = some.index(getattr(start, name))
        binding = {"bind": {"element": f"#{name}", "event": "input"}} if bound else {}
        found.append({"name": f"at_{name}", "value": place} | binding)
    here = {
        name: f"{json.dumps(list(map(written, some)))}[+at_{name}]" for name, some in stops.items()
    }
    for name, cells in APPLIES.items():
        here[name] = f"indexof({json.dumps(cells)}, cell) < 0 ? '' : {here[name]}"
    follow = here | {
        "network": f"join([{', '.join(OF_NETWORK)}], '/')",
        "key": f"join([{', '.join(stops)}], '/')",
        "steps": "+length",
        "states": "cell === 'LSTM' ? ['h', 'c'] : ['h']",
        "parts": "cell === 'LSTM' ? ['direct', 'via h', 'local'] : "
        "cell === 'ResNet' ? ['direct', 'via branch', 'local'] : ['direct', 'local']",
    }
    return found + [{"name": name, "expr": expr} for name, expr in follow.items()]


READING = (
    "Every control moves all curves at once. A gradient flows from the loss back to the first step, from "
    "right to left. Where its norm is 1e-3, a small change of the state changes the loss a thousandth as "
    "much as where it is 1.",
    "RNN: h_t = σ(W x_t + W_h h_t₋₁ + b). LSTM and GRU have their own gates and tanh, so the nonlinearity "
    "is not theirs. ResNet: h_t = h_t₋₁ + σ(W_h h_t₋₁ + b), where the step t is a block and all have the "
    "same weights.",
    "The spectral radius |λ|max of a matrix is the largest magnitude of its eigenvalues. The slider "
    "scales the recurrent weights so that it is theirs; in the LSTM and the GRU, that of each gate's.",
    "|λ|max in the sentences is that of the last step's Jacobian: the derivative of all states by those of "
    "the step before. In the linear RNN the Jacobian is the weight matrix, so it is what the slider says.",
    "The direct path leads straight from the same state one step later: over the cell state of the LSTM, "
    "over the skip of the ResNet. The path via h leads from the cell state one step later through the "
    "hidden state and the weights, the one via branch through the branch of a block. Local is what the "
    "loss reads at this step. The shares add up to 100%; a negative share works against the others.",
    "Norms are drawn by their logarithms, so that none is too small to be seen. One that is exactly 0 has "
    "no logarithm; it is a triangle at the bottom. Point at a step to read its numbers.",
)


def page(
    losses: Sequence[Row],
    values: Sequence[Row],
    stops: Stops,
    start: Setting,
    notes: Sequence[str],
) -> str:
    """Return the page as HTML that needs no network; parameters are those of :func:`chart_spec`."""
    title = "Gradients through time: a playground"
    return chart_page(
        title,
        chart_spec(losses, values, stops, start, bound=True),
        _charts.library(),
        themes=[_charts.theme(dark) for dark in (False, True)],
        style=style() + _STYLE + _greyed(stops),
        above=f"<header><h1>{text(title)}</h1></header>\n{_controls(stops, start)}",
        below=fold("How to read this page", READING) + fold("What network this is", notes),
    )


def _controls(stops: Stops, start: Setting) -> str:
    """A list for words, a slider with its stops below it for numbers; Vega's own controls get no room."""
    controls = "".join(
        (_list if isinstance(some[0], str) else _slider)(
            name, some, some.index(getattr(start, name))
        )
        for name, some in stops.items()
    )
    return f'<form id="settings" autocomplete="off">\n{controls}</form>\n<div id="controls"></div>'


def _list(name: str, stops: tuple[Any, ...], place: int) -> str:
    options = "".join(
        f'<option value="{k}"{" selected" if k == place else ""}>{_CHOICES.get(stop, stop)}</option>'
        for k, stop in enumerate(stops)
    )
    return _labelled(name, f'<select id="{name}">{options}</select>')


def _slider(name: str, stops: tuple[Any, ...], place: int) -> str:
    below = "".join(f"<span>{written(stop)}</span>" for stop in stops)
    ends = f'min="0" max="{len(stops) - 1}" value="{place}"'
    return _labelled(
        name, f'<input type="range" id="{name}" {ends}><small class="stops">{below}</small>'
    )


def _labelled(name: str, control: str) -> str:
    return f'<label class="{name}"><span>{_LABELS[name]}</span>{control}</label>\n'


_STYLE = """
body { width: 950px }
h1 { font-size: 18px }
#settings { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 8px 0;
  display: flex; flex-wrap: wrap; gap: 8px 28px; border-bottom: 1px solid var(--line); margin-bottom: 10px }
#settings label { display: flex; flex-direction: column; font-size: 12px; gap: 2px }
#settings input { width: 100%; margin: 0; accent-color: #0072B2 }
#settings select { font: inherit; padding: 2px }
.stops { display: flex; justify-content: space-between; padding: 0 8px; font-size: 11px }
.stops span { width: 0; display: flex; justify-content: center }
.radius { width: 380px } .bias { width: 110px } .forget_bias { width: 150px } .length { width: 190px }
"""


def _greyed(stops: Stops) -> str:
    """CSS that greys a control out, and takes it no clicks, where the cell does not have what it sets."""
    rules = []
    for name, cells in APPLIES.items():
        others = [k for k, cell in enumerate(stops["cell"]) if cell not in cells]
        chosen = ", ".join(f'#cell option[value="{k}"]:checked' for k in others)
        rules.append(f"#settings:has({chosen}) .{name} {{ opacity: 0.35; pointer-events: none }}")
    return "\n".join(rules)
