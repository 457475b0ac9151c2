"""A click on a live chart reaches Python, which opens the step; the browser's part is set by hand."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182 import _caches
from tinygrad182.errors import MissingDependencyError
from tinygrad182.inspect.microscope.live import live, live_chart, opened_chart
from tinygrad182.inspect.views.step_flow import StepFlow, step_flow

alt = pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def flow() -> StepFlow:
    lstm = tg.nn.LSTM(1, 3, rng=0)
    output, _ = lstm(tg.tensor(np.random.default_rng(0).standard_normal((40, 2, 1)).astype("f4")))
    return step_flow((1e-30 * output[-1]).sum())


def click(widget: Any, i: int | None) -> None:
    """Send what altair's JavaScript sends after a click on a point, or (None) after a new drawing."""
    points = [] if i is None else [{"i": i}]
    widget._vl_selections = {"pick_step": {"value": {"vlPoint": {"or": points}}, "store": points}}


def rows(chart: Any, of: int) -> list[dict[str, Any]]:
    spec = chart.to_dict()
    return values(spec, spec["vconcat"][1]["hconcat"][of])


def values(spec: dict[str, Any], chart: dict[str, Any]) -> list[dict[str, Any]]:
    return list(spec["datasets"][chart["data"]["name"]])


def test_an_opened_step_holds_the_vectors_of_all_its_operations(flow: StepFlow) -> None:
    for i in (0, 17):
        gradients, of_values = (rows(opened_chart(flow, i, sample=1), of) for of in (0, 1))
        for each in flow.operations:
            vectors = flow.vectors(each.label, [i], sample=1)
            its = [row for row in of_values if row["operation"] == each.label]
            numbers = vectors.value[0].ravel()
            assert [row["number"] for row in its][:1] == [_said(numbers[0])]
            np.testing.assert_allclose(
                [row["part"] for row in its], numbers / (np.abs(numbers).max() or 1.0), atol=1e-4
            )
            its = [row for row in gradients if row["operation"] == each.label]
            assert [row["unit"] for row in its] == list(range(vectors.grad[0].size))


def _said(x: float) -> str:
    if x == 0:
        return "0"
    power = math.floor(math.log10(abs(x)))
    return f"{x / 10.0**power:.1f}e{power:+03d}"


def test_gradients_below_the_type_are_described(flow: StepFlow) -> None:
    gradients = rows(opened_chart(flow, 0), 0)
    powers = [int(row["number"].split("e")[1]) for row in gradients if "e" in row["number"]]
    assert max(powers) < -35
    flowed = flow["h"].log10_grad_norm[0]
    top = max(int(r["number"].split("e")[1]) for r in gradients if r["operation"] == "h")
    assert flowed - 2 < top <= flowed


def test_the_curve_has_a_row_for_each_state_and_step(flow: StepFlow) -> None:
    spec = opened_chart(flow, 17).to_dict(validate=False)
    here, lines, *_ = spec["vconcat"][0]["layer"]
    assert values(spec, here) == [{"t": 17}]
    drawn = {(row["state"], row["i"]): row["log10"] for row in values(spec, lines)}
    assert drawn.keys() == {(state, i) for state in ("h", "c") for i in range(40)}
    np.testing.assert_allclose(
        [drawn["h", i] for i in range(40)], flow["h"].log10_grad_norm, rtol=1e-3
    )
    (selection,) = (p for p in spec["params"] if p["name"] == "pick_step")
    assert selection["select"]["fields"] == ["i"]


def test_values_that_are_not_finite_are_described(flow: StepFlow) -> None:
    rnn = tg.nn.RNN(1, 2, nonlinearity="identity", rng=0)
    output, _ = rnn(tg.tensor([[[math.inf]]]))
    chart = opened_chart(step_flow(output[..., 0].sum()), 0)
    infinite = [row for row in rows(chart, 1) if row["number"] in ("inf", "-inf", "nan")]
    assert infinite
    assert {row["part"] for row in infinite} == {None}
    assert "Infinity" not in json.dumps(chart.to_dict(validate=False))


def test_a_click_opens_a_step_and_draws_it_once(monkeypatch: Any) -> None:
    pytest.importorskip("anywidget")
    monkeypatch.setattr(_caches, "read_cached", lambda name: b"export default {}")
    asked: list[int] = []

    def draw(i: int) -> Any:
        asked.append(i)
        pick = alt.selection_point(name="pick_step", fields=["i"])
        data = alt.Data(values=[{"i": i}])
        return alt.vconcat(alt.Chart(data, title=f"{i}").mark_point().add_params(pick))

    widget = live_chart(draw, 5)
    shown = []
    widget.observe(lambda change: shown.append(change["new"]["vconcat"][0]["title"]), "spec")
    click(widget, 7)
    click(widget, None)  # the chart drawn anew has no selection
    click(widget, 7)
    click(widget, 2)
    assert asked == [5, 7, 2]
    assert shown == ["7", "2"]


def test_a_click_shows_the_vectors_of_its_step(flow: StepFlow, monkeypatch: Any) -> None:
    pytest.importorskip("anywidget")
    monkeypatch.setattr(_caches, "read_cached", lambda name: b"export default {}")
    widget = live(flow, sample=1)
    assert widget.spec["vconcat"][1]["hconcat"][0]["title"].startswith("Step 39")
    click(widget, 3)
    assert widget.spec == opened_chart(flow, 3, sample=1).to_dict(validate=False)
    assert widget._esm == "export default {}"  # nothing is loaded from the network


def test_its_javascript_loads_nothing_and_is_kept(monkeypatch: Any, tmp_path: Any) -> None:
    pytest.importorskip("anywidget")
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(_caches, "read_cached", kept.get)
    monkeypatch.setattr(_caches, "write_cached", kept.__setitem__)
    before = alt.JupyterChart._esm

    def enable_offline(offline: bool = True) -> None:
        alt.JupyterChart._esm = "bundled" if offline else before

    monkeypatch.setattr(alt.JupyterChart, "enable_offline", enable_offline)
    chart = alt.Chart(alt.Data(values=[])).mark_point()
    chart = chart.add_params(alt.selection_point(name="pick_step", fields=["i"]))
    assert live_chart(lambda i: chart, 0)._esm == "bundled"
    assert list(kept.values()) == [b"bundled"]
    assert alt.JupyterChart._esm == before  # charts of other packages are as they were
    monkeypatch.setattr(alt.JupyterChart, "enable_offline", None)
    assert live_chart(lambda i: chart, 0)._esm == "bundled"


def test_a_missing_package_is_named(flow: StepFlow, monkeypatch: Any) -> None:
    monkeypatch.setattr(_caches, "read_cached", lambda name: None)

    class Without:
        @classmethod
        def enable_offline(cls, offline: bool = True) -> None:
            raise ImportError("anywidget")

    monkeypatch.setattr(alt, "JupyterChart", Without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tinygrad182\[notebooks\]'"):
        live(flow)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingDependencyError, match=r"tinygrad182\[viz\]"):
        live(flow)
