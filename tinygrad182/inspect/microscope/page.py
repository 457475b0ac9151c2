"""The page of the microscope: its charts in one specification, their signals, and the text around them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...display import charts as _charts
from ...display.pages import chart_page, prose, text

BESIDE = 3
"""Number of linked views in a row."""

_INDEPENDENT = dict.fromkeys(
    ("color", "fill", "stroke", "size", "shape", "opacity", "strokeWidth", "strokeDash"),
    "independent",
)


class Span(NamedTuple):
    """The steps of one block of the network, and what is chosen before the first click.

    Attributes
    ----------
    steps : int
        The number of its drawn steps; 1 without a time axis.
    first, last : int
        The time of its first and of its last step.
    step : int
        Position of the open step among the drawn ones.
    node : int
        Position of the chosen operation among those of a step.
    loop : int, optional
        For a block that is not a recurrence: the recurrence whose curves are shown with it.
    """

    steps: int = 1
    first: int = 0
    last: int = 0
    step: int = 0
    node: int = 0
    loop: int | None = None


@dataclass(frozen=True, kw_only=True)
class Panels:
    """The charts of a page; a chart that the model lacks is None.

    Attributes
    ----------
    network : alt.Chart
        It defines the selection ``pick_block``.
    curves : alt.Chart, optional
        Over time. It defines the selections ``pick_step`` and ``brush``.
    opened : alt.Chart, optional
        The operations of a step. It defines the selection ``pick_node``.
    bars, heatmap : alt.Chart, optional
        Hidden units of the chosen operation.
    linked : sequence of alt.Chart
        All others.
    """

    network: Any
    curves: Any = None
    opened: Any = None
    bars: Any = None
    heatmap: Any = None
    linked: Sequence[Any] = ()


def compose(panels: Panels, spans: Sequence[Span], block: int) -> dict[str, Any]:
    """Place the charts of a page, and define the signals by which they follow each other.

    Charts read six signals. ``block``, ``step`` and ``node`` are the positions of the chosen block, of its
    open step and of its chosen operation. ``loop`` and ``loop_step`` are the block and the step of the
    recurrence whose curves are drawn. ``window`` is the first and the last time that is shown. The signals
    are computed from the selections, so that they are valid whichever block is chosen: a step past the
    block's last one becomes the last; a node chosen in another block is ignored, and so is a window without
    a step of the recurrence.

    Parameters
    ----------
    spans : sequence of Span
        One for each block of the network.
    block : int
        The block that is chosen before the first click.

    Returns
    -------
    dict
        A Vega-Lite specification. Altair makes single charts only: it would copy all of them whenever one
        is placed beside another.
    """
    units = (panels.bars, panels.heatmap)
    rows = [
        (panels.network, *((panels.curves,) if panels.curves is not None else units)),
        (panels.opened,),
        *([units] if panels.curves is not None else []),
        *_rows(panels.linked),
    ]
    there = [[chart for chart in row if chart is not None] for row in rows]
    page = _Page()
    placed = [page.beside(row) for row in there if row]
    top = _charts.spec(_charts.altair().Chart().mark_point())
    signals = _signals(panels, spans, block)
    return {
        "$schema": top["$schema"],
        "vconcat": placed,
        "spacing": 24,
        "resolve": {"scale": _INDEPENDENT},
        "params": signals + [_bound(each, spans, block) for each in page.selections],
        "datasets": page.datasets,
    }


class _Page:
    """Charts side by side, and what Vega-Lite wants at the top of the page."""

    def __init__(self) -> None:
        self.selections: list[dict[str, Any]] = []
        self.datasets: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def beside(self, charts: Sequence[Any]) -> dict[str, Any]:
        """Place charts from left to right."""
        placed = [self._taken(chart) for chart in charts]
        return {"hconcat": placed, "spacing": 24, "resolve": {"scale": _INDEPENDENT}}

    def _taken(self, chart: Any) -> dict[str, Any]:
        """Return a chart without what belongs at the top of the page."""
        spec = _charts.spec(chart)
        for key in ("$schema", "config"):
            spec.pop(key, None)
        self.datasets |= spec.pop("datasets", {})
        for param in spec.pop("params", ()):
            views = [self._named(name) for name in param.get("views", ())]
            self.selections.append(param | {"views": views})
        self._rename(spec)
        return spec

    def _rename(self, spec: dict[str, Any]) -> None:
        """Rename views that define selections: Altair numbers them through the whole process."""
        if "name" in spec:
            spec["name"] = self._named(spec["name"])
        for how in ("layer", "hconcat", "vconcat"):
            for part in spec.get(how, ()):
                self._rename(part)

    def _named(self, name: str) -> str:
        return self._names.setdefault(name, f"view_{len(self._names) + 1}")


def _rows(charts: Sequence[Any]) -> list[list[Any]]:
    return [list(charts[i : i + BESIDE]) for i in range(0, len(charts), BESIDE)]


def _bound(selection: dict[str, Any], spans: Sequence[Span], block: int) -> dict[str, Any]:
    """Return a selection of the page. That of the step is bound to a slider, which the arrow keys move."""
    if selection["name"] != "pick_step":
        return selection
    last = max(span.steps for span in spans) - 1
    ends = {(span.first, span.last) for span in spans if span.steps > 1}
    name = "Step t = {} to {}".format(*ends.pop()) if len(ends) == 1 else "Step"
    slider = {"input": "range", "min": 0, "max": last, "step": 1, "name": name}
    # A bound selection takes no clicks without "on", and "on" alone takes those of every chart.
    clicks = {"on": f"@{selection['views'][0]}_marks:click"}
    first = {"value": [{"i": spans[block].step}]}
    return first | selection | {"select": selection["select"] | clicks, "bind": {"i": slider}}


def _signals(panels: Panels, spans: Sequence[Span], block: int) -> list[Any]:
    """Return the signals, which Vega-Lite computes from the selections."""
    loops = [i if span.loop is None else span.loop for i, span in enumerate(spans)]
    steps, first, last, opened, nodes, _ = (json.dumps(each) for each in zip(*spans, strict=True))
    node, window = f"{nodes}[block]", f"[{first}[loop], {last}[loop]]"
    at = {name: f"{opened}[{name}]" for name in ("block", "loop")}
    if panels.curves is not None:
        for name, start in at.items():
            picked = f"isArray(pick_step.i) ? pick_step.i[0] : {start}"
            at[name] = f"clamp({picked}, 0, {steps}[{name}] - 1)"
        seen = f"brush.t[0] <= {last}[loop] && brush.t[1] >= {first}[loop]"
        window = f"isArray(brush.t) && {seen} ? brush.t : {window}"
    if panels.opened is not None:
        here = "isArray(pick_node.node) && pick_node.block[0] === block"
        node = f"{here} ? pick_node.node[0] : {node}"
    chosen = f"isArray(pick_block.block) ? pick_block.block[0] : {block}"
    signals = {"block": chosen, "loop": f"{json.dumps(loops)}[block]"}
    signals |= {"step": at["block"], "loop_step": at["loop"], "node": node, "window": window}
    return [{"name": name, "expr": expr} for name, expr in signals.items()]


# --- the text around the charts -----------------------------------------------------------------

READING = (
    "The gradient flows from the loss back to the inputs: down the network, and from right to left in the "
    "curves and in an opened step. A small change of a state changes the loss in proportion to this norm: "
    "where the norm is 1e-3, a thousandth as much as where it is 1.",
    "Click a box of the network to see its steps. The number in a box, and its colour, is the norm of the "
    "gradient that leaves the box.",
    "Click a curve to open that step; the slider and the arrow keys move it. Drag over the strip below "
    "the curves to zoom in on some steps; double-click the strip to zoom out.",
    "In the opened step, the gradient comes back over each line. The line's width and colour show the "
    "norm of that gradient. The number below the line (×) is what the norm is multiplied by on its way "
    "back from the right box to the left one; the number above it (%) is the share of the left box's "
    "gradient, where that comes back over several lines. The shares of one operation add up to 100%. Only"
    " those of the states of the step before add up to less: the rest came to them at their own step. A "
    "negative share works against the others.",
    "Click an operation to see its value and its gradient in each hidden unit, and over time. These are of "
    "one sequence; norms are over the whole batch.",
    "A decade is a power of ten: from 1e-2 to 1e-5 are three decades. Norms are Frobenius norms. Averages "
    "of factors are geometric means: every step could have this factor, and the product stayed the same.",
    "Steps are counted from 0. The step $t$ leads from the state $h_t$ back to the state $h_{t−1}$: what "
    "it passes back is the norm of $∂L/∂h_{t−1}$, divided by that of $∂L/∂h_t$.",
)


def page(
    title: str,
    sentences: Sequence[str],
    chart: dict[str, Any],
    more: Sequence[str] = (),
    notes: Sequence[str] = (),
    absent: Mapping[str, str] | None = None,
    reading: Sequence[str] = READING,
) -> str:
    """Return an HTML page that shows a chart below its sentences, and needs no network.

    Parameters
    ----------
    title : str
        Title of the window and of the page.
    sentences : sequence of str
        The first one is set larger.
    chart : dict
        A specification without a theme: the page brings one for white and one for dark.
    more : sequence of str
        Further sentences, behind a fold.
    notes : sequence of str
        Lines about what is shown and what was left out.
    absent : mapping of str to str, optional
        Views that the model lacks, and why.
    reading : sequence of str
        How to read the page; by default that of the microscope.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    MissingDependencyError
        Altair or ``vl_convert`` is not installed.
    """
    left_out = [*notes, *(f"{name}: {reason}" for name, reason in (absent or {}).items())]
    return chart_page(
        title,
        chart,
        _charts.library(),
        themes=[_charts.theme(dark) for dark in (False, True)],
        style=style(),
        above=_header(title, sentences),
        below=fold("More about this gradient", more)
        + fold("How to read this page", reading)
        + fold("What is shown, and what was left out", left_out),
    )


def _header(title: str, sentences: Sequence[str]) -> str:
    lines = "".join(f"<p>{text(sentence)}</p>\n" for sentence in sentences)
    return f'<header>\n<h1>{text(title)}</h1>\n{lines}</header>\n<div id="controls"></div>'


def fold(title: str, lines: Sequence[str]) -> str:
    """Return lines behind a title that opens them, or nothing for no lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{prose(line)}</li>\n" for line in lines)
    return f"<details>\n<summary>{text(title)}</summary>\n<ul>\n{items}</ul>\n</details>\n"


def style() -> str:
    """CSS: the chart's colours, and a slider that stays in sight."""
    light, dark = (
        "; ".join(f"--{name}: {value}" for name, value in colours._asdict().items())
        for colours in (_charts.LIGHT, _charts.DARK)
    )
    return f"""
:root {{ color-scheme: light dark; --accent: {_charts.BLUE}; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
body {{ font: 14px/1.45 {_charts.FONT}; color: var(--ink); background: var(--paper);
  width: 1240px; margin: 0 auto; padding: 8px 12px 24px }}
h1 {{ font-size: 14px; font-weight: normal; margin: 0 }}
p {{ margin: 2px 0 }}
h1 + p {{ font-size: 18px }}
summary {{ cursor: pointer; margin-top: 8px }}
li {{ max-width: 100ex }}
#controls {{ position: sticky; top: 0; z-index: 1; background: var(--paper); padding: 4px 0 }}
.vega-bind label {{ display: flex; align-items: center; gap: 12px }}
.vega-bind input {{ flex: 1 }}
.vega-bind input + * {{ display: none }}
"""
