"""Bars and heatmap over hidden units: their numbers, and their words for missing data."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.display import charts
from tinygrad182.display.charts import Row
from tinygrad182.inspect.charts.pictures import signalled
from tinygrad182.inspect.microscope.unit_views import unit_bars, unit_heatmap, unit_rows
from tinygrad182.inspect.views.step_flow import StepFlow, StepVectors, step_flow

pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

T = 9


@pytest.fixture(scope="module")
def flow() -> StepFlow:
    lstm = tg.nn.LSTM(2, 5, rng=0)
    inputs = tg.tensor(np.random.default_rng(0).standard_normal((T, 2, 2)).astype("f4"))
    return step_flow((1e-30 * lstm(inputs)[0][-1]).sum())


def rows_of(value: Any, grad: Any, log10_scale: Any, requires_grad: bool = True) -> list[Row]:
    """The rows of one operation with these vectors."""
    found = StepVectors(
        np.arange(len(value)), np.array(value), np.array(grad), np.array(log10_scale)
    )
    flow = step_flow(tg.nn.RNN(1, 1, rng=0)(tg.ones((len(value), 1, 1)))[0].sum())
    operation = dataclasses.replace(flow.operations[0], requires_grad=requires_grad)
    flow = StepFlow("m", flow.time, (operation,), (), lambda *_: {0: found})
    return unit_rows({0: flow}, {0: found.time.tolist()}, {0: found.time.tolist()})


def texts(chart: Any, **values: int) -> list[str]:
    with charts.unchecked():
        spec = charts.spec(signalled(chart, **values))
    return re.findall(r">([^<>]+)</text>", vl_convert.vegalite_to_svg(spec))


def test_rows_are_the_vectors_of_the_flow(flow: StepFlow) -> None:
    rows = unit_rows({3: flow}, {3: range(T)}, {3: [0, 4, 8]}, sample=1)
    assert [row["t"] for row in rows] == [0, 4, 8] * len(flow.operations)
    for row in rows:
        vectors = flow.vectors(row["node"], [row["t"]], sample=1)
        assert row["block"] == 3
        np.testing.assert_allclose(row["value"], vectors.value[0], rtol=5.1e-3)
        scale = 10.0 ** (vectors.log10_scale[0] - row["power"])
        np.testing.assert_allclose(row["grad"], vectors.grad[0] * scale, rtol=5.1e-3)


def test_bars_show_the_nearest_step_and_say_so(flow: StepFlow) -> None:
    bars = unit_bars(unit_rows({0: flow}, {0: range(T)}, {0: [0, 4, 8]}))
    node = flow.index("f")
    there = texts(bars, step=4, node=node)
    near = texts(bars, step=5, node=node)
    assert "f at t = 4" in there
    assert "f at t = 4" in near
    said = "Not the opened step: its hidden units are not on this page."
    assert (said in there, said in near) == (False, True)
    power = next(text for text in there if text.startswith("gradient, in units of 1e-"))
    assert int(power.rpartition("e")[2]) < -25


def test_columns_that_leave_steps_out_are_said_not_to_be_to_scale(flow: StepFlow) -> None:
    for shown, title in ([0, 4, 8], "drawn steps t, not to scale"), (range(T), "step t"):
        rows = unit_rows({0: flow}, {0: range(T)}, {0: shown})
        assert title in texts(unit_heatmap(rows), step=4, node=0)


def test_of_many_units_those_with_the_largest_gradient_are_kept() -> None:
    grad = np.ones((2, 300))
    grad[1] = np.arange(300)
    rows = rows_of(np.zeros((2, 300)), grad, [-50.0, 0.0])
    assert [row["unit"] for row in rows] == [list(range(172, 300))] * 2
    assert any("128 of 300 units" in text for text in texts(unit_heatmap(rows), step=0, node=0))


def test_zeros_infinities_and_nan_are_described() -> None:
    plain = rows_of([[0.5, 1.0]] * 2, [[0.5, -1.0]] * 2, [0.0] * 2)
    odd = rows_of([[0.5, 1.0, np.nan]] * 2, [[0.0, np.inf, np.nan]] * 2, [0.0] * 2)
    names = {"exactly 0", "infinite", "NaN"}
    assert not names & set(texts(unit_heatmap(plain), step=0, node=0))
    assert names <= set(texts(unit_heatmap(odd), step=0, node=0))
    assert names & set(texts(unit_heatmap(odd, "value"), step=0, node=0)) == {"NaN"}
    other = [row | {"node": 1} for row in plain]
    assert not names & set(texts(unit_heatmap(odd + other), step=0, node=1))
    bars = texts(unit_bars(odd), step=0, node=0)
    assert "value (crosses: NaN)" in bars
    assert "gradient (crosses: infinite, NaN)" in bars


def test_a_gradient_that_is_all_zero_is_described() -> None:
    rows = rows_of([[0.5, 1.0]], [[0.0, 0.0]], [-np.inf])
    assert "gradient: all exactly 0" in texts(unit_bars(rows), step=0, node=0)


def test_a_chart_without_data_over_time_says_so() -> None:
    """One step makes no heatmap; a constant has no gradient, and none that is 0 or NaN."""
    alone = rows_of([[0.5, 1.0]], [[0.5, 1.0]], [0.0])
    said = texts(unit_heatmap(alone), step=0, node=0)
    assert [text for text in said if text.endswith("has one step: nothing changes over time.")]
    rows = rows_of([[0.5, 1.0]] * 2, [[np.nan, np.nan]] * 2, [0.0] * 2, requires_grad=False)
    said = texts(unit_heatmap(rows), step=0, node=0) + texts(unit_bars(rows), step=0, node=0)
    assert "gradient: a constant has none" in said
    assert [text for text in said if text.endswith("is a constant: no gradient comes back to it.")]
    assert not {"NaN", "exactly 0"} & set(said)


def test_what_has_no_time_is_not_said_to_be_at_one() -> None:
    head = tg.nn.Linear(2, 3, rng=0)
    graph = tg.inspect.look(head(tg.ones((4, 2))).sum())
    (block,) = (i for i, b in enumerate(graph.network.blocks) if b.kind == "module")
    rows = unit_rows({0: graph.steps[block]}, {0: [0]}, {0: [0]})
    said = texts(unit_bars(rows), step=0, node=0)
    assert "x" in said
    assert not [text for text in said if "t = " in text]
