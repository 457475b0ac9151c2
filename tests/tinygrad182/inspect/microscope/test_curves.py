"""The curves: their numbers, marks for values without a logarithm, and the two selections."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tinygrad182.inspect.charts.curves import Anomaly, curves_chart
from tinygrad182.inspect.charts.pictures import signalled

pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

INF, NAN = math.inf, math.nan


def stack(path: str = "loop", **states: list[float]) -> Any:
    """States whose gradients have these log10 norms, and whose values have norm 1."""

    class Stack(dict[str, Any]):
        pass

    found = Stack(
        {
            name: SimpleNamespace(
                time=np.arange(len(logs)),
                log10_grad_norm=np.array(logs),
                value_norm=np.ones(len(logs)),
            )
            for name, logs in states.items()
        }
    )
    found.path = path  # type: ignore[attr-defined]
    return found


def spec_of(
    *stacks: Any, step: int = 0, block: int = 0, linked: bool = False, **others: Any
) -> dict[str, Any]:
    kept = {k: list(range(len(s["h"].time))) for k, s in enumerate(stacks)}
    chart = curves_chart(dict(enumerate(stacks)), kept, linked, **others)
    return signalled(chart, step=step, block=block).to_dict()  # type: ignore[no-any-return]


def texts(spec: dict[str, Any]) -> list[str]:
    return re.findall(r">([^<>]+)</text>", vl_convert.vegalite_to_svg(spec))


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return max(spec["datasets"].values(), key=lambda rows: "g0" in rows[0])


@pytest.mark.parametrize("T", [1, 8, 1000])
def test_norms_are_those_of_the_flow(T: int) -> None:
    lstm = tg.nn.LSTM(2, 3, num_layers=2, rng=0)
    inputs = tg.tensor(np.random.default_rng(0).standard_normal((T, 1, 2)).astype("f4"))
    flow = tg.inspect.gradient_flow(lstm(inputs)[0][-1].sum())
    found = rows(spec_of(*flow.values()))
    for row, states in zip(found, flow.values(), strict=True):
        assert row["t"] == list(range(T))
        for k, state in enumerate(states.values()):
            gradient, value = state.log_grad_norm / math.log(10), np.log10(state.value_norm)
            np.testing.assert_allclose(row[f"g{k}"], gradient, rtol=0, atol=5.0001e-4)
            np.testing.assert_allclose(row[f"v{k}"], value, rtol=0, atol=5.0001e-4)


def test_the_axis_has_no_floor() -> None:
    assert "1e−400" in texts(spec_of(stack(h=[-400.0, -200.0, 0.0])))


def test_only_kept_steps_are_drawn() -> None:
    chart = curves_chart({0: stack(h=[-4.0, -3.0, -2.0, -1.0])}, {0: [0, 3]})
    (row,) = rows(chart.to_dict())
    assert (row["i"], row["t"], row["g0"]) == ([0, 1], [0, 3], [-4.0, -1.0])
    assert (row["left"], row["right"]) == (
        [-0.5, 1.5],
        [1.5, 3.5],
    )  # a click takes the nearest step


def test_zeros_infinities_and_nan_have_marks_and_a_legend_where_they_occur() -> None:
    marks = ["exactly 0", "infinite", "NaN"]
    plain = texts(spec_of(stack(h=[-2.0, -1.0])))
    assert not set(marks) & set(plain)
    assert [mark for mark in texts(spec_of(stack(h=[-INF, -1.0]))) if mark in marks] == marks[:1]
    spec = spec_of(stack(h=[-INF, INF, NAN, -1.0]))
    assert [mark for mark in texts(spec) if mark in marks] == marks
    assert rows(spec)[0]["g0"] == ["0", "∞", "NaN", -1.0]


def test_the_chosen_step_and_the_first_anomaly_are_named() -> None:
    told = "first NaN: h at t = 1"
    anomaly = Anomaly(0, 1, told)
    stacks = stack("m", h=[-3.0, NAN, -1.0]), stack("n", h=[-3.0, -2.0, -1.0])
    found = texts(spec_of(*stacks, step=2, anomaly=anomaly))
    assert "m, t = 2" in found
    assert told in found
    other = vl_convert.vegalite_to_svg(spec_of(*stacks, step=2, block=1, anomaly=anomaly))
    (mark,) = re.findall(rf"<text[^>]*>{told}", other)
    assert 'opacity="0"' in mark  # it is not this block's


def test_selections_are_made_on_demand() -> None:
    names = ["block", "loop", "step", "loop_step"]
    assert [each["name"] for each in spec_of(stack(h=[-1.0, 0.0]))["params"]] == names
    params = {p["name"]: p for p in spec_of(stack(h=[-1.0, 0.0]), linked=True)["params"]}
    assert params["pick_step"]["select"]["fields"] == ["i"]
    assert params["pick_step"]["views"][0].startswith("steps")
    assert params["brush"]["select"]["encodings"] == ["x"]


def test_states_of_several_blocks_share_their_lines() -> None:
    found = texts(spec_of(stack("a", h=[-1.0, 0.0], c=[-1.0, 0.0]), stack("b", h=[-2.0, 0.0])))
    assert [text for text in found if "∂" in text] == ["‖∂L/∂hₜ‖", "‖∂L/∂cₜ‖"]
