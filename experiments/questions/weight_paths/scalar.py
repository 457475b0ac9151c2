"""The smallest recurrence, h_t = w (u_t + h_{t−1}): its paths by hand, and by the inspector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

import tinygrad182 as tg
from experiments.drawing import charts
from experiments.drawing.charts import darker
from experiments.drawing.tables import Row

PATH_COLOURS = (
    *(charts.BLUE, charts.ORANGE, charts.GREEN),
    *(darker(charts.PINK, 0.2), darker(charts.AMBER, 0.4)),
)
"""One for each path, dark enough for letters: as many inputs as can be drawn."""


@dataclass(frozen=True)
class ScalarPath:
    """One path from w to the loss, the last state: through one use of w and the later states.

    Parameters
    ----------
    step : int
        Of the use.
    entry : float
        ∂h_t/∂w at this use alone, with h_{t−1} held: u_t + h_{t−1}.
    passes : tuple of float
        ∂h_s/∂h_{s−1} = w for each later step s.
    by_hand : float
        Their product.
    edge : float
        What :func:`tinygrad182.inspect.trace` says flows back to w over this use.
    by_time : float
        What :func:`tinygrad182.inspect.weight_grad_by_time` says of this step.
    """

    step: int
    entry: float
    passes: tuple[float, ...]
    by_hand: float
    edge: float
    by_time: float


@dataclass(frozen=True)
class ScalarCase:
    """All paths for given w and inputs.

    Parameters
    ----------
    w : float
    inputs, states : tuples of float
        u_0 … u_{n−1} and h_0 … h_{n−1}.
    paths : tuple of ScalarPath
        The earliest use first.
    gradient : float
        ∂L/∂w from :func:`backward`.
    polynomial : float
        The derivative of L(w) = Σ_t w^(n−t) u_t, written down without any path.
    """

    w: float
    inputs: tuple[float, ...]
    states: tuple[float, ...]
    paths: tuple[ScalarPath, ...]
    gradient: float
    polynomial: float

    @property
    def sum_text(self) -> str:
        """The contributions with plus signs between them."""
        numbers = (path.by_hand for path in self.paths)
        return " + ".join(f"({n:.4g})" if n < 0 else f"{n:.4g}" for n in numbers)

    @property
    def size(self) -> float:
        """Σ |contribution|: what rounding is relative to, since contributions can cancel."""
        return sum(abs(path.by_hand) for path in self.paths)

    def relative(self, difference: float) -> float:
        """|difference| in units of ``size``."""
        return abs(difference) / self.size if self.size else abs(difference)


def scalar_case(w: float, inputs: Sequence[float]) -> ScalarCase:
    """Follow every path by plain arithmetic, and ask the inspector for the same numbers.

    >>> case = scalar_case(0.5, [1.0, 2.0, 3.0])
    >>> [path.by_hand for path in case.paths], case.gradient
    ([0.25, 1.25, 4.25], 5.75)
    """
    count = len(inputs)
    states, entries = [], []
    before = 0.0
    for u in inputs:
        entries.append(u + before)  # ∂h_t/∂w: the factor that stands beside w
        before = w * entries[-1]
        states.append(before)
    edges, by_time, gradient = _inspected(w, inputs)
    paths = []
    for index, entry in enumerate(entries):
        passes = (w,) * (count - 1 - index)  # ∂h_s/∂h_{s−1} = w, once for each later step
        by_hand = entry
        for partial in passes:
            by_hand *= partial
        paths.append(ScalarPath(index, entry, passes, by_hand, edges[index], by_time[index]))
    # the last state is w u_{n−1} + w² u_{n−2} + … + w^n u_0
    polynomial = sum((count - t) * w ** (count - t - 1) * u for t, u in enumerate(inputs))
    return ScalarCase(w, tuple(inputs), tuple(states), tuple(paths), gradient, polynomial)


def _inspected(w: float, inputs: Sequence[float]) -> tuple[list[float], list[float], float]:
    """The shares of the edges that leave w, the parts of its gradient by time, and the gradient."""
    weight = tg.tensor(w, requires_grad=True, dtype="float64")
    h = tg.tensor(0.0, dtype="float64")
    for step, u in enumerate(inputs):
        h = tg.inspect.mark(weight * (u + h), "h", time=step)
    (node,) = (n for n in tg.inspect.trace(h).nodes if n.op == "leaf" and n.requires_grad)
    edges = {edge.consumer.time: float(edge.cotangent) for edge in node.edges}
    by_time = [float(part) for part in tg.inspect.weight_grad_by_time(h, weight)]
    h.backward()
    assert weight.grad is not None
    return [edges[step] for step in range(len(inputs))], by_time, float(weight.grad.item())


def scalar_rows(case: ScalarCase) -> list[Row]:
    """Return a row for each path, and one for their sum."""
    rows: list[Row] = [
        {
            "use": f"step {path.step}",
            "entry": path.entry,
            "passes": " · ".join(f"{value:g}" for value in path.passes) or "1",
            "by_hand": path.by_hand,
            "edge": path.edge,
            "by_time": path.by_time,
        }
        for path in case.paths
    ]
    total: Row = {
        "use": "sum",
        "entry": None,
        "passes": "",
        "by_hand": sum(path.by_hand for path in case.paths),
        "edge": case.gradient,
        "by_time": sum(path.by_time for path in case.paths),
    }
    return [*rows, total]


LANE = 3.0
"""Height of one path's copy of the graph, in units where states are 1 above w."""

SUBSCRIPT = str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋")


def _sub(name: str, index: int) -> str:
    return name + str(index).translate(SUBSCRIPT)


def scalar_chart(case: ScalarCase) -> alt.TopLevelMixin:
    """Draw the unrolled graph once for each path, that path in colour with its partials on it."""
    lines, nodes, labels = [], [], []
    for path in case.paths:
        drawn = _lane(case, path)
        lines += drawn[0]
        nodes += drawn[1]
        labels += drawn[2]
    total = f"∂L/∂w = {case.sum_text} = {case.gradient:.4g}"
    labels.append(_label(-0.4, -1.25, total, charts.INK, "left", True))
    return _draw(case, lines, nodes, labels)


def _lane(case: ScalarCase, path: ScalarPath) -> tuple[list[Row], list[Row], list[Row]]:
    """Edges, nodes and labels of one copy of the graph."""
    count, base = len(case.inputs), (len(case.paths) - 1 - path.step) * LANE
    colour = PATH_COLOURS[path.step]
    middle = (count - 1) / 2
    lines: list[Row] = []
    nodes = [_node(middle, base, "w", True, colour)]
    labels = [_label(middle, base - 0.52, f"w = {case.w:g}", charts.INK)]
    for t, state in enumerate(case.states):
        on_path = t >= path.step
        lines.append(_line(middle, base, t, base + 1, colour if t == path.step else None))
        nodes.append(_node(t, base + 1, _sub("h", t), on_path, colour))
        labels.append(_label(t, base + 1.5, f"{_sub('h', t)} = {state:.3g}", charts.GREY))
        if t < count - 1:
            lines.append(_line(t, base + 1, t + 1, base + 1, colour if on_path else None))
            if on_path:
                labels.append(_label(t + 0.5, base + 1.2, f"× {case.w:g}", colour, bold=True))
    x = path.step + 0.42 * (middle - path.step)
    labels.append(_label(x, base + 0.55, f"{path.entry:.4g}", colour, bold=True))
    own, reads = _sub("h", path.step), f"{_sub('u', path.step)} + {_sub('h', path.step - 1)}"
    later = ", then w for each later step" if path.passes else ""
    product = " · ".join([f"{path.entry:.4g}", *(f"{v:g}" for v in path.passes)])
    for line, (text, bold) in enumerate(
        (
            (f"the use at step {path.step}: {product} = {path.by_hand:.4g}", True),
            (f"∂{own}/∂w = {reads} = {path.entry:.4g}{later}", False),
            (f"on this edge of the traced graph: {path.edge:.4g}", False),
        )
    ):
        y, shown = base + 1.1 - 0.5 * line, colour if bold else charts.INK
        labels.append(_label(count - 0.55, y, text, shown, "left", bold))
    return lines, nodes, labels


def _line(x: float, y: float, x2: float, y2: float, colour: str | None) -> Row:
    return {"x": x, "y": y, "x2": x2, "y2": y2, "colour": colour or charts.LINE,
            "width": 4.0 if colour else 1.5}  # fmt: skip


def _node(x: float, y: float, text: str, on_path: bool, colour: str) -> Row:
    return {"x": x, "y": y, "text": text, "colour": colour if on_path else charts.PALE_GREY}


def _label(
    x: float, y: float, text: str, colour: str, align: str = "center", bold: bool = False
) -> Row:
    return {"x": x, "y": y, "text": text, "colour": colour, "align": align, "bold": bold}


def _draw(
    case: ScalarCase, lines: Sequence[Row], nodes: Sequence[Row], labels: Sequence[Row]
) -> alt.TopLevelMixin:
    count = len(case.inputs)
    top = (count - 1) * LANE + 1.9
    step = max(95, min(150, 480 // count))
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.55, count - 0.55 + 430 / step]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-1.6, top]))
    colour = alt.Color("colour:N", scale=None)
    width = alt.StrokeWidth("width:Q", scale=None)
    layers: list[Any] = [
        alt.Chart(charts.data(lines))
        .mark_rule(strokeCap="round")
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q", color=colour, strokeWidth=width),
        alt.Chart(charts.data(nodes)).mark_circle(size=720, opacity=1).encode(x=x, y=y, color=colour),
        alt.Chart(charts.data(nodes))
        .mark_text(fontSize=13, fontWeight="bold", color="white")
        .encode(x=x, y=y, text="text:N"),
    ]  # fmt: skip
    # Letters stand on a white outline of themselves, so that lines do not cross them.
    for halo in (True, False):
        for align in ("center", "left"):
            for bold in (True, False):
                rows = [r for r in labels if (r["align"], r["bold"]) == (align, bold)]
                if rows:
                    layers.append(_text(rows, x, y, align, bold, halo))
    return charts.finish(
        alt.layer(*layers).properties(width=step * count + 430, height=50 * (top + 1.6)),
        title="One weight, used at every step: one path for each use",
        subtitle=f"h_t = w (u_t + h_(t−1)) with u = {', '.join(f'{u:g}' for u in case.inputs)}; "
        f"L = {_sub('h', count - 1)}; each copy of the graph shows one path from w to L",
    )


def _text(rows: Sequence[Row], x: Any, y: Any, align: str, bold: bool, halo: bool) -> alt.Chart:
    style: dict[str, Any] = {
        "align": align, "fontSize": 13, "fontWeight": "bold" if bold else "normal"
    }  # fmt: skip
    if halo:
        style |= {"stroke": "white", "strokeWidth": 6, "strokeJoin": "round"}
    chart: alt.Chart = (
        alt.Chart(charts.data(rows))
        .mark_text(**style)
        .encode(x=x, y=y, text="text:N", color=alt.Color("colour:N", scale=None))
    )
    return chart
