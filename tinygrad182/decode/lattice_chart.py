"""The picture of a lattice: prefixes over steps, their fates, and where the optimum was dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import checked_path, write_file
from ..display import charts
from ..display.pages import chart_page, legible
from ..errors import ArgumentError, brief
from .token_names import Words, namer

if TYPE_CHECKING:
    from .lattice import Lattice, LatticeNode

# A fate has its own colour and its own shape.
COLOURS = {"kept": charts.BLUE, "finished": charts.GREEN, "pruned": charts.GREY}
SHAPES = {"kept": "circle", "finished": "square", "pruned": "cross"}
OPTIMUM = charts.ORANGE
WIDTH = 720
TITLE = "What beam search kept, pruned and finished"

ALONG = 0.72
"""The place of a token's log-probability on its edge, after the label of the node before."""

MOST_LABELS = 60
"""More prefixes than this are drawn without labels."""


def save_html(lattice: Lattice, path: str | Path, **options: Any) -> None:
    """Write the picture as a page that needs no network."""
    target = checked_path("save_html", path)
    chart = picture(lattice, **options)
    page = chart_page(options.get("title", TITLE), chart.to_dict(), charts.library())
    write_file("save_html", target, page.encode())


def picture(
    lattice: Lattice,
    words: Words = None,
    optimum: Sequence[int] | None = None,
    gradient: Any = None,
    most: int = 4,
    title: str = TITLE,
) -> Any:
    """Return the chart; for the parameters see :meth:`Lattice.save_png`."""
    if not isinstance(title, str):
        raise ArgumentError(f"lattice: title {brief(title)} must be a string")
    alt = charts.altair()
    best = None if optimum is None else lattice.check(optimum)
    nodes, edges = _rows(lattice, namer(words), best, most)
    panels = [_lattice_panel(alt, lattice, nodes, edges, best, title)]
    if gradient is not None:
        if not isinstance(gradient, Mapping):
            raise ArgumentError(
                f"lattice: gradient is a {type(gradient).__name__}; pass "
                "tg.inspect.gradient_flow(tg.decode.rescore(...).sum())"
            )
        panels.append(_gradient_panel(alt, gradient, len(lattice.steps)))
    chart = alt.vconcat(*panels).resolve_scale(color="independent", shape="independent")
    return charts.configured(chart)


def _rows(
    lattice: Lattice, name: Any, best: tuple[int, ...] | None, most: int
) -> tuple[list[charts.Row], list[charts.Row]]:
    """The data of the chart: a row for each node, and one for the edge that leads to it."""
    blocks = lattice.shown(most, best)
    totals = {(): 0.0} | {node.tokens: node.log_probability for b in blocks for node in b}
    places = _places(blocks)
    dropped = None if best is None else lattice.dropped(best)
    nodes, edges = [], []
    for block in blocks:
        for rank, node in enumerate(block, 1):
            length, before, token = len(node.tokens), node.tokens[:-1], name(node.tokens[-1])
            on_path = best is not None and node.tokens == best[:length]
            own = node.log_probability - totals[before]
            above, here = places[before], places[node.tokens]
            note = ", the optimum is dropped" if on_path and length == dropped else ""
            nodes.append(
                {
                    "step": length,
                    "place": here,
                    "log-probability": round(node.log_probability, 6),
                    "fate": node.fate,
                    "word": token,
                    "prefix": " ".join(map(name, node.tokens)),
                    "rank": rank,
                    "of the token": round(own, 6),
                    "label": f"{token} {node.log_probability:.2f}{note}",
                    "optimum": on_path,
                }
            )
            edges.append(
                {
                    "from": length - 1,
                    "from place": above,
                    "to": length,
                    "to place": here,
                    "optimum": on_path,
                    "of the token": f"{own:.2f}",
                    "label at": length - 1 + ALONG,
                    "label place": above + ALONG * (here - above),
                }
            )
    return nodes, edges


def _places(blocks: list[list[LatticeNode]]) -> dict[tuple[int, ...], float]:
    """Vertical places of prefixes, as in a drawn tree: leaves one below another, the likelier above."""
    nodes = [node for block in blocks for node in sorted(block, key=lambda n: -n.log_probability)]
    children: dict[tuple[int, ...], list[tuple[int, ...]]] = {(): []}
    for node in nodes:
        children[node.tokens] = []
        children[node.tokens[:-1]].append(node.tokens)
    depth_first: list[tuple[int, ...]] = []
    pending: list[tuple[int, ...]] = [()]
    while pending:
        depth_first.append(pending.pop())
        pending.extend(reversed(children[depth_first[-1]]))
    leaves = (tokens for tokens in depth_first if not children[tokens])
    places = {tokens: float(i) for i, tokens in enumerate(leaves)}
    for tokens in reversed(depth_first):  # children before their parents
        if below := children[tokens]:
            places[tokens] = sum(places[child] for child in below) / len(below)
    return places


def _lattice_panel(
    alt: Any,
    lattice: Lattice,
    nodes: list[charts.Row],
    edges: list[charts.Row],
    best: tuple[int, ...] | None,
    title: str,
) -> Any:
    depth = len(lattice.steps)
    rows = max(row["place"] for row in nodes) - min(row["place"] for row in nodes) if nodes else 1
    x = alt.Scale(domain=[-0.15, depth + 0.6], nice=False)
    y = alt.Scale(domain=[-0.7, rows + 0.7], reverse=True, nice=False)
    layers = _links_and_points(alt, nodes, edges, x, y, _steps_axis(alt, depth, "Step (tokens)"))
    labelled = len(nodes) <= MOST_LABELS
    if labelled:
        layers += _labels(alt, nodes, edges, x, y)
    subtitle = _subtitle(lattice, best, labelled)
    properties = {
        "title": alt.TitleParams(legible(title), subtitle=subtitle, offset=12),
        "width": WIDTH,
        "height": max(160, min(900, 34 * (rows + 1))),
    }
    return alt.layer(*layers).properties(**properties)


def _links_and_points(
    alt: Any, nodes: list[charts.Row], edges: list[charts.Row], x: Any, y: Any, axis: Any
) -> list[Any]:
    """A line for each edge, and a mark for each node with the colour and shape of its fate."""
    links = (
        alt.Chart(charts.data(edges))
        .mark_rule()
        .encode(
            x=alt.X("from:Q", scale=x, axis=axis),
            x2="to:Q",
            y=alt.Y("from place:Q", scale=y, axis=None),
            y2="to place:Q",
            color=alt.condition("datum.optimum", alt.value(OPTIMUM), alt.value(charts.GREY)),
            size=alt.condition("datum.optimum", alt.value(3), alt.value(1.2)),
        )
    )
    fates = [fate for fate in COLOURS if any(row["fate"] == fate for row in nodes)]
    points = (
        alt.Chart(charts.data(nodes))
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X("step:Q", scale=x, axis=axis),
            y=alt.Y("place:Q", scale=y, axis=None),
            color=_by_fate(alt, alt.Color, fates, COLOURS),
            shape=_by_fate(alt, alt.Shape, fates, SHAPES),
            tooltip=["prefix:N", "fate:N", "log-probability:Q", "of the token:Q", "rank:Q"],
        )
    )
    return [links, points]


def _steps_axis(alt: Any, depth: int, title: str) -> Any:
    every = max(1, depth // 20)
    return alt.Axis(
        values=list(range(every, depth + 1, every)), format="d", grid=False, title=title
    )


def _by_fate(alt: Any, channel: Any, fates: list[str], values: dict[str, str]) -> Any:
    scale = alt.Scale(domain=fates, range=[values[fate] for fate in fates])
    return channel("fate:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _labels(
    alt: Any, nodes: list[charts.Row], edges: list[charts.Row], x: Any, y: Any
) -> list[Any]:
    """The token and the total beside each node; the token's own log-probability on each edge."""
    on_edge = alt.Chart(charts.data(edges)).encode(
        x=alt.X("label at:Q", scale=x), y=alt.Y("label place:Q", scale=y), text="of the token:N"
    )
    at_node = alt.Chart(charts.data(nodes)).encode(
        x=alt.X("step:Q", scale=x), y=alt.Y("place:Q", scale=y), text="label:N"
    )
    total = {"align": "left", "dx": 9, "dy": -10, "fontSize": 12}
    halo = {"stroke": charts.LIGHT.paper, "strokeWidth": 4}
    return [
        on_edge.mark_text(**halo),
        on_edge.mark_text(color=charts.GREY),
        at_node.mark_text(**total, **halo),
        at_node.mark_text(**total),
    ]


def _subtitle(lattice: Lattice, best: tuple[int, ...] | None, labelled: bool) -> list[str]:
    lines = [
        "Beside each prefix: its last token and total log-probability (nats); on edges: the token's own"
        if labelled
        else "Prefixes with a common beginning are neighbours, the likelier ones above"
    ]
    if best is None:
        return lines
    dropped = lattice.dropped(best)
    if dropped is None:
        return [*lines, "Orange: the optimum, which was never dropped"]
    return [*lines, f"Orange: the optimum, dropped at step {dropped}"]


def _gradient_panel(alt: Any, gradient: Mapping[str, Any], depth: int) -> Any:
    """‖∂ log p / ∂h_t‖ over the steps of a hypothesis."""
    rows = [
        {"step": int(t) + 1, "log10": log / math.log(10), "state": f"{path} {name}".strip()}
        for path, states in gradient.items()
        for name, state in states.items()
        for t, log in zip(state.time.tolist(), state.log_grad_norm.tolist(), strict=True)
        if math.isfinite(log)
    ]
    logs = [row["log10"] for row in rows]
    decades = charts.decade_axis(min(logs, default=-1), max(logs, default=0))
    x = alt.Scale(domain=[-0.15, depth + 0.6], nice=False)
    y = alt.Scale(zero=False, domain=decades["values"][:: len(decades["values"]) - 1], nice=False)
    colours = alt.Scale(range=list(charts.PALETTE))
    axis = _steps_axis(alt, depth, "Step that the state is used in (tokens)")
    norms = alt.Axis(**decades)
    legend = alt.Legend(orient="top")
    return (
        alt.Chart(charts.data(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", scale=x, axis=axis),
            y=alt.Y("log10:Q", title="Norm of the gradient (1)", scale=y, axis=norms),
            color=alt.Color("state:N", title=None, scale=colours, legend=legend),
            tooltip=["state:N", "step:Q", "log10:Q"],
        )
        .properties(
            title="Gradient of the hypothesis's log-probability by the state of each step",
            width=WIDTH,
            height=200,
        )
    )
