"""An opened step: boxes and edges do not overlap, and show the numbers of the flow."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tinygrad182.display import charts
from tinygrad182.inspect.charts.pictures import signalled
from tinygrad182.inspect.microscope.opened_step import step_chart
from tinygrad182.inspect.microscope.step_layout import Place, laid_out
from tinygrad182.inspect.views.step_flow import StepEdge, StepFlow, StepOperation, step_flow

pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

T = 6


def of(cell: str) -> StepFlow:
    if cell in loops.LOOPS:
        states = loops.LOOPS[cell](loops.Weights(), T, 2, 3)
        return step_flow(loops.loss_of(states[list(states)[-1]], "all"))
    layer = getattr(tg.nn, cell)(2, 3, rng=0)
    inputs = tg.tensor(np.random.default_rng(0).standard_normal((T, 2, 2)).astype("f4"))
    return step_flow(layer(inputs)[0].sum())


def chain(n: int) -> StepFlow:
    """A feed-forward block of n operations behind its input."""
    one = np.zeros(1)
    kinds = ["input"] + ["operation"] * n
    ops = [
        StepOperation(f"op {k}", "add", kind, "", "m", (1, 2), one, one, True)
        for k, kind in enumerate(kinds)
    ]
    edges = [StepEdge(k, k + 1 if k < n else "loss", one, one + 1) for k in range(n + 1)]
    return StepFlow("m", np.arange(1), tuple(ops), tuple(edges), lambda *_: {})


CELLS = ["RNN", "LSTM", "GRU", *loops.LOOPS]


def drawn(flow: StepFlow, step: int = 2, node: int = 0) -> list[str]:
    with charts.unchecked():
        chart = step_chart({0: flow}, {0: flow.time.tolist()})
        spec = charts.spec(signalled(chart, step=step, node=node))
    return re.findall(r">([^<>]+)</(?:text|tspan)>", vl_convert.vegalite_to_svg(spec))


@pytest.mark.parametrize("cell", CELLS)
def test_no_edge_runs_through_a_box_and_no_two_boxes_share_a_cell(cell: str) -> None:
    flow = of(cell)
    layout = laid_out(flow)
    assert len(set(layout.places)) == len(flow.operations)
    for edge, run in zip(flow.edges, layout.runs, strict=True):
        start = layout.places[edge.source]
        inner = isinstance(edge.target, int)
        end = layout.places[edge.target].slot if inner else layout.slots  # type: ignore[index]
        assert start.slot < end
        assert not {Place(slot, run) for slot in range(start.slot + 1, end)} & set(layout.places)
    for place in layout.places:
        assert 0 <= place.lane < layout.lanes


def test_states_end_in_the_lane_in_which_they_began() -> None:
    flow = of("LSTM")
    places = dict(zip([each.label for each in flow.operations], laid_out(flow).places, strict=True))
    assert places["c"].lane == places["c₋"].lane < places["i"].lane
    assert places["h"].lane == places["h₋"].lane > places["o"].lane
    assert [places[gate].slot for gate in "ifgo"] == [places["i"].slot] * 4


def test_every_share_factor_and_norm_of_the_chosen_step_is_written() -> None:
    flow = of("LSTM")
    found = Counter(drawn(flow, step=3))
    assert found[f"Step t = 3 of {flow.path}, opened"]
    uses = Counter(edge.source for edge in flow.edges)
    written = Counter[str]()
    for edge in flow.edges:
        share = edge.share[3]
        if abs(share) >= 0.01 and (
            uses[edge.source] > 1 or flow.operations[edge.source].kind == "before"
        ):
            written[f"{float(f'{100 * share:.2g}'):g}%".replace("-", "−")] += 1
        if isinstance(edge.target, int):
            log10 = edge.log10_norm[3] - flow.operations[edge.target].log10_grad_norm[3]
            factor = 10 ** round(log10, 3)  # as a chart's data are
            if 0.01 <= factor < 1000:
                written[f"×{float(f'{factor:.2g}'):g}"] += 1
    assert written - found == Counter()
    assert sum(written.values()) > 20
    for each in flow.operations:
        norm = 10 ** each.log10_grad_norm[3]
        if 0.1 <= norm < 1:
            assert f"∂\u2009{norm:.2g}" in found


@pytest.mark.parametrize(
    ("log", "text"), [(0.0, "×1"), (-2.6, "×0.003"), (-5.0003, "×1e-5"), (-400.5, "×3e-401")]
)
def test_a_factor_is_short_and_a_single_use_has_no_share(log: float, text: str) -> None:
    flow = chain(3)
    edges = list(flow.edges)
    edges[1] = dataclasses.replace(edges[1], log10_norm=np.array([log]))
    found = drawn(dataclasses.replace(flow, edges=tuple(edges)), step=0)
    assert found.count(text) == (3 if log == 0 else 1)
    assert not [text for text in found if "%" in text]


def test_the_chosen_operation_says_its_norms() -> None:
    flow = of("GRU")
    (text,) = (text for text in drawn(flow, node=flow.index("r")) if text.startswith("r:"))
    value, gradient = (
        10 ** log[2] for log in (flow["r"].log10_value_norm, flow["r"].log10_grad_norm)
    )
    numbers = [float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", text)]
    np.testing.assert_allclose(numbers, [value, gradient], rtol=0.05)


@pytest.mark.parametrize(("log", "word"), [(-np.inf, "0"), (np.nan, "NaN"), (np.inf, "∞")])
def test_a_gradient_without_a_logarithm_is_named_on_its_edge(log: float, word: str) -> None:
    flow = chain(3)
    bad = dataclasses.replace(flow.edges[1], log10_norm=np.array([log]), share=np.array([np.nan]))
    edges = (flow.edges[0], bad, *flow.edges[2:])
    found = drawn(dataclasses.replace(flow, edges=edges), step=0)
    assert found.count(word) == drawn(flow, step=0).count(word) + 1  # the legend has a 0 too


def test_a_long_step_says_what_it_leaves_out() -> None:
    assert any("norms and factors are in the tooltips" in text for text in drawn(chain(16), step=0))
    found = drawn(chain(60), step=0)
    assert any(text.startswith("61 operations: names, norms, factors and shares") for text in found)
    assert "op 3" not in found


def test_boxes_stay_inside_the_chart() -> None:
    for flow in map(of, CELLS):
        with charts.unchecked():
            spec = charts.spec(step_chart({0: flow}, {0: flow.time.tolist()}))
        boxes = [row for rows in spec["datasets"].values() for row in rows if "kind" in row]
        assert all(0 <= row["x"] < row["x2"] <= spec["width"] - 56 for row in boxes)
        assert all(40 <= row["y"] < row["y2"] <= spec["height"] for row in boxes)


def test_one_layer_makes_the_selection() -> None:
    flow = chain(3)
    spec = step_chart({0: flow}, {0: [0]}, linked=True).to_dict()
    (pick,) = spec["params"]
    assert (pick["name"], pick["views"]) == ("pick_node", ["operations"])
    assert pick["select"]["fields"] == ["node", "block"]


def test_what_is_open_is_called_by_its_name() -> None:
    """A module without a time axis is not a loop; a constant has no gradient that could be NaN."""
    w = tg.ones((2, 3), requires_grad=True)
    view = tg.inspect.look((tg.tanh(tg.ones((4, 2)) @ w) * tg.exp(w[0])).sum())
    (block,) = view.steps
    title = view.network.blocks[block].title
    with charts.unchecked():
        spec = charts.spec(view.chart("step"))
    found = re.findall(r">([^<>]+)</(?:text|tspan)>", vl_convert.vegalite_to_svg(spec))
    assert f"{title}, opened" in found
    assert any(text.startswith("∂") for text in found)
    assert not [text for text in found if "NaN" in text or "loop" in text]
