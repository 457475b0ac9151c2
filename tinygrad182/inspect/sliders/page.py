"""The playground's page: its controls, and the charts that read them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...display import charts
from ...display.charts import Row
from ...display.pages import chart_page, in_script, text
from ..charts.magnitudes import INFINITE, NOT_A_NUMBER, ZERO
from ..microscope.page import fold, style
from .charts import DRAWN, chart_spec
from .rows import Names
from .settings import APPLIES, OF_NETWORK, PlaygroundSetting, written

Stops = Mapping[str, tuple[Any, ...]]

NAMES = Names(("h", "c"), ("via h", "via branch", "local"))
"""The states, and the paths of their gradients, that any of the cells may have."""

_LABELS = {
    "cell": "cell",
    "nonlinearity": "nonlinearity (RNN, ResNet)",
    "radius": "spectral radius of the recurrent weights",
    "bias": "bias scale",
    "forget_bias": "forget bias (LSTM)",
    "length": "length in steps",
    "loss": "loss reads",
}

_CHOICES = {"last": "the last state", "all": "every state"}


def packed(losses: Mapping[str, Row], values: Mapping[str, Row]) -> dict[str, str]:
    """Return rows as two texts, each compressed by zlib and in base64.

    Returns
    -------
    dict
        ``numbers`` are float64, little-endian: all arrays of the rows one behind the other, equal ones
        once.
        ``index`` is JSON: the rows of ``losses`` and of ``values`` by their keys, in which the name of an
        array has the place of its first number; in a row of ``losses`` these stand under ``at``.
    """
    arrays: dict[bytes, int] = {}
    end = 0

    def placed(row: Row) -> dict[str, int]:
        nonlocal end
        found = {}
        for name, given in row.items():
            if isinstance(given, np.ndarray):
                stored = given.astype("<f8").tobytes()
                found[name] = arrays.setdefault(stored, end)
                end += given.size * (found[name] == end)
        return found

    index: dict[str, Any] = {
        "losses": {
            key: {n: x for n, x in row.items() if not isinstance(x, np.ndarray)}
            | {"at": placed(row)}
            for key, row in losses.items()
        },
        "values": {key: placed(row) for key, row in values.items()},
    }
    texts = {"index": json.dumps(index).encode(), "numbers": b"".join(arrays)}
    return {name: base64.b64encode(zlib.compress(t)).decode() for name, t in texts.items()}


READING = (
    "Every control moves all curves at once. The gradient flows from the loss back to the first step, "
    "from right to left. A small change of a state changes the loss in proportion to this norm: where the"
    " norm is 1e-3, a thousandth as much as where it is 1.",
    "The RNN computes $h_t = σ(W_x x_t + W_h h_{t−1} + b)$. The nonlinearity $σ$ is set for the RNN and "
    "the ResNet alone: the LSTM and the GRU have their own gates and tanh. The ResNet computes $h_t = "
    "h_{t−1} + σ(W_h h_{t−1} + b)$: the step $t$ is a block, and all blocks have the same weights.",
    "The spectral radius of a matrix, $|λ|_{max}$, is the largest magnitude of its eigenvalues. The slider "
    "scales the recurrent weights to this radius; in the LSTM and the GRU, those of each gate.",
    "The sentences give $|λ|_{max}$ of the last step's Jacobian, the derivative $∂h_t/∂h_{t−1}$ of all "
    "states. In the linear RNN the Jacobian is the weight matrix, so this is the number at the slider.",
    "The direct path leads straight back from a state to the same state one step earlier: over the cell "
    "state of the LSTM, and over the skip of the ResNet. The RNN and the GRU have one state, so their "
    "direct path is everything except the local part. The path via h leads through the LSTM's hidden "
    "state and its weights. The path via branch leads through the branch of a block. The local part is "
    "what the loss sends to this step itself. The shares add up to 100%; a negative share works against "
    "the others.",
    "Norms are drawn by their logarithms, so that none is too small to be seen. A norm of exactly 0 has no "
    "logarithm: it is a triangle at the bottom. Point at a step to read its numbers.",
)


def page(
    losses: Mapping[str, Row],
    values: Mapping[str, Row],
    row: Row,
    stops: Stops,
    start: PlaygroundSetting,
    notes: Sequence[str],
) -> str:
    """Return the page as HTML that needs no network.

    Parameters
    ----------
    losses, values : dict of str to dict
        :func:`loss_row` by the key of a setting, :func:`values_row` by the name of a network.
    row : dict
        The row that is drawn at first, as JSON.
    stops : mapping of str to tuple
        The stops of each control.
    start : PlaygroundSetting
        The setting that is drawn at first.
    notes : sequence of str
        Notes about the network.
    """
    title = "Gradients through time: a playground"
    script = _SCRIPT.format(
        packed=in_script(packed(losses, values)),
        stops=in_script({name: [*map(written, some)] for name, some in stops.items()}),
        applies=in_script(APPLIES),
        networks=in_script(OF_NETWORK),
        drawn=DRAWN,
        words=in_script([ZERO, INFINITE, NOT_A_NUMBER]),
    )
    return chart_page(
        title,
        chart_spec(row, NAMES),
        charts.library(),
        themes=[charts.theme(dark) for dark in (False, True)],
        style=style() + _STYLE + _greyed(stops),
        above=f"<header><h1>{text(title)}</h1></header>\n{_controls(stops, start)}",
        below=fold("How to read this page", READING) + fold("What network this is", notes) + script,
        then="shown = view; show()",
    )


_SCRIPT = """
<script>
const packed = {packed}, stops = {stops}, applies = {applies}, networks = {networks}, words = {words};
const unpacked = async (text) => {{
  const coded = atob(text), bytes = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}};
const index = unpacked(packed.index).then((found) => found.json());
const numbers = unpacked(packed.numbers).then(async (found) => new Float64Array(await found.arrayBuffer()));
const word = (x) => isFinite(x) ? x : isNaN(x) ? words[2] : x > 0 ? words[1] : words[0];
const element = (name) => document.getElementById(name);
const named = (controls) => {{
  const cell = stops.cell[element("cell").value];
  return controls.map((name) =>
    name in applies && !applies[name].includes(cell) ? "" : stops[name][element(name).value]).join("/");
}};
let shown;
const show = async () => {{
  const {{ losses, values }} = await index, all = await numbers;
  const row = {{ ...losses[named(Object.keys(stops))] }}, at = {{ ...row.at, ...values[named(networks)] }};
  for (const [name, place] of Object.entries(at)) {{
    const some = Array.from(all.subarray(place, place + row.steps));
    row[name] = name[0] === "s" ? some.map((x) => isFinite(x) ? x : null) : some.map(word);
  }}
  const length = row.unit === "block" ? "depth in blocks" : "length in steps";
  document.querySelector(".length span").textContent = length;
  await shown.signal("{drawn}", row).runAsync();
}};
element("settings").oninput = () => shown && show();
</script>
"""


def _controls(stops: Stops, start: PlaygroundSetting) -> str:
    """The controls: a list for words, a slider with its stops below it for numbers."""
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
#settings input { width: 100%; margin: 0; accent-color: var(--accent) }
#settings select { font: inherit; padding: 2px }
.stops { display: flex; justify-content: space-between; padding: 0 8px; font-size: 11px }
.stops span { width: 0; display: flex; justify-content: center }
.radius { width: 380px } .bias { width: 110px } .forget_bias { width: 150px } .length { width: 190px }
"""


def _greyed(stops: Stops) -> str:
    """CSS that greys out a control, and stops its clicks, if the chosen cell lacks it."""
    rules = []
    for name, cells in APPLIES.items():
        others = [k for k, cell in enumerate(stops["cell"]) if cell not in cells]
        chosen = ", ".join(f'#cell option[value="{k}"]:checked' for k in others)
        rules.append(f"#settings:has({chosen}) .{name} {{ opacity: 0.35; pointer-events: none }}")
    return "\n".join(rules)
