"""``live``: a chart in a notebook for which Python computes the chosen step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import _caches
from ...display import charts
from ...display.reprs import scientific
from ...errors import MissingDependencyError
from ..passes.scaling import HostArray
from ..views.step_flow import StepFlow, StepVectors

PICK = "pick_step"
"""The selection of a step, by its position ``i`` in the flow's time."""

Row = dict[str, Any]


def live(flow: StepFlow, sample: int = 0, dark: bool = False) -> Any:
    """Show one recurrence in a notebook; a click on a step opens it in full.

    A page on disk holds the vectors of a few steps. Here Python computes those of any clicked step.

    Parameters
    ----------
    flow : StepFlow
        The result of :func:`step_flow`.
    sample : int
        The sequence of the batch whose vectors are shown.
    dark : bool
        Whether the notebook is dark.

    Returns
    -------
    altair.JupyterChart
        A widget. It draws without a network.

    Raises
    ------
    MissingDependencyError
        Without altair or anywidget.
    """
    return live_chart(lambda i: opened_chart(flow, i, sample, dark), len(flow.time) - 1)


def live_chart(draw: Callable[[int], Any], start: int) -> Any:
    """Make a widget that is redrawn for each step that is selected on it.

    Parameters
    ----------
    draw : callable
        From the position of a step to a chart with a point selection ``pick_step`` over the field ``i``.
    start : int
        The step that is drawn first.
    """
    widget = live_type()(draw(start), embed_options={"renderer": "svg", "actions": False})
    at = start

    def pick(change: Any) -> None:
        nonlocal at
        chosen = [int(each["i"]) for each in change["new"].value if "i" in each]
        if chosen and chosen[-1] != at:
            at = chosen[-1]
            widget.spec = charts.spec(draw(at))

    widget.selections.observe(pick, names=PICK)
    return widget


def live_type() -> Any:
    """A JupyterChart that loads its JavaScript from here, not from the network; the bundle is cached."""
    alt, version = charts.altair(), charts.converter().__version__
    name = f"jupyter-chart.{alt.__version__}.{version}.js"
    bundle = _caches.read_cached(name)
    if bundle is None:
        try:
            alt.JupyterChart.enable_offline()
        except ImportError as error:
            raise _missing() from error
        bundle = alt.JupyterChart._esm.encode()
        alt.JupyterChart.enable_offline(False)
        _caches.write_cached(name, bundle)
    return type("LiveChart", (alt.JupyterChart,), {"_esm": bundle.decode()})


def _missing() -> MissingDependencyError:
    return MissingDependencyError(
        "live: a chart that asks Python needs anywidget: pip install 'tinygrad182[notebooks]'"
    )


def opened_chart(flow: StepFlow, i: int, sample: int = 0, dark: bool = False) -> Any:
    """Draw the gradients over time, and below them the hidden units of the step ``flow.time[i]``."""
    t = int(flow.time[i])
    opened = [flow.vectors(k, [t], sample) for k in range(len(flow.operations))]
    alt = charts.altair()
    with charts.unchecked():
        units = alt.hconcat(*(_over_units(flow, opened, of, t) for of in ("gradient", "value")))
        chart = alt.vconcat(_over_time(flow, i), units)
        return charts.configured(chart.resolve_scale(color="independent"), dark)


def _over_time(flow: StepFlow, i: int) -> Any:
    """‖∂L/∂state‖ over t in decades, on which a step can be chosen."""
    alt = charts.altair()
    states = [each for each in flow.operations if each.kind == "state"]
    rows: list[Row] = [
        {"i": j, "t": int(t), "state": each.label, "log10": log}
        for each in states
        for j, (t, log) in enumerate(
            zip(flow.time, charts.finite(each.log10_grad_norm.tolist()), strict=True)
        )
    ]
    logs = [row["log10"] for row in rows if row["log10"] is not None] or [0.0]
    pick = alt.selection_point(name=PICK, fields=["i"], on="click", clear=False, nearest=True)
    axis = alt.Axis(title="Norm of the gradient", **charts.decade_axis(min(logs), max(logs)))
    x = alt.X("t:Q", title="Step t", scale=alt.Scale(nice=False, zero=False))
    scale = alt.Scale(range=list(charts.PALETTE))
    lines = alt.Chart(charts.data(rows)).encode(
        x=x,
        y=alt.Y("log10:Q", axis=axis, scale=alt.Scale(zero=False)),
        color=alt.Color("state:N", title="State", scale=scale, sort=None),
        tooltip=["t:Q", "state:N", "log10:Q"],
    )
    here = alt.Chart(charts.data([{"t": int(flow.time[i])}])).mark_rule(color=charts.GREY)
    title = f"{flow.path or 'loop'}: click a step to open it"
    layers = alt.layer(here.encode(x=x), lines.mark_line(), _points(lines, pick))
    return layers.properties(title=title, width=900, height=180)


def _points(lines: Any, pick: Any) -> Any:
    return lines.mark_point(filled=True, size=25).add_params(pick)


def _over_units(flow: StepFlow, opened: list[StepVectors], of: str, t: int) -> Any:
    """One row for each operation of the step, each in units of its largest element."""
    alt = charts.altair()
    rows: list[Row] = []
    for each, vectors in zip(flow.operations, opened, strict=True):
        numbers = vectors.grad[0] if of == "gradient" else vectors.value[0]
        scale = float(vectors.log10_scale[0]) if of == "gradient" else 0.0
        rows += _row(each.label, np.ravel(numbers).astype(np.float64), scale)
    order = [each.label for each in flow.operations]
    domain = alt.Scale(scheme=charts.SHARE, domain=[-1, 1], domainMid=0)
    legend = alt.Legend(title="of the row's largest", format="+.1f")
    title = "gradient of each unit" if of == "gradient" else "value of each unit"
    chart = alt.Chart(charts.data(rows)).mark_rect()
    return chart.encode(
        x=alt.X("unit:O", title="Unit", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
        y=alt.Y("operation:N", title=None, sort=order),
        color=alt.Color("part:Q", scale=domain, legend=legend),
        tooltip=["operation:N", "unit:O", "number:N"],
    ).properties(title=f"Step {t}: {title}", width=340, height=18 * len(order))


def _row(label: str, numbers: HostArray, log10_scale: float) -> list[Row]:
    """The cells of one operation. A number that is not finite has no colour; its tooltip names it."""
    finite = np.isfinite(numbers)
    top = float(np.abs(numbers[finite]).max(initial=0.0)) or 1.0
    return [
        {"operation": label, "unit": u, "number": _scientific(x, log10_scale)}
        | {"part": round(x / top, 4) if math.isfinite(x) else None}
        for u, x in enumerate(numbers.tolist())
    ]


def _scientific(x: float, log10_scale: float) -> str:
    """A number times a power of ten, of any magnitude."""
    if not x or not math.isfinite(x):
        return f"{x:g}"
    return ("-" if x < 0 else "") + scientific(math.log10(abs(x)) + log10_scale)
