"""The axes of charts and their titles."""

import re
from pathlib import Path

import numpy as np
import pytest

import experiments
from experiments.drawing import charts
from experiments.drawing.tables import set_titles

EXPERIMENTS = Path(experiments.__file__).parent


@pytest.mark.parametrize(
    ("count", "ticks"),
    [
        (1, [0, 1]),
        (2, [0, 1]),
        (6, [0, 1, 2, 3, 4, 5]),
        (9, [0, 2, 4, 6, 8]),
        (30, [0, 5, 10, 15, 20, 25]),
        (100, [0, 20, 40, 60, 80]),
        (999, [0, 200, 400, 600, 800]),
    ],
)
def test_every_tick_is_a_step_and_none_is_there_twice(count, ticks):
    axis = charts.steps(count).to_dict()
    assert axis["axis"]["values"] == ticks
    assert axis["scale"]["domain"] == [0, max(count - 1, 1)]


@pytest.mark.parametrize(
    ("domain", "ticks"),
    [
        ((-1.6, 0.4), [-1, 0]),
        ((-2.0, 0.0), [-2, -1, 0]),
        ((-16.1, 17.9), [-15, -10, -5, 0, 5, 10, 15]),
        ((-300.5, 3.0), [-300, -250, -200, -150, -100, -50, 0]),
    ],
)
def test_every_label_is_a_power_of_ten_of_its_own(domain, ticks):
    assert charts.decades("x", "x", domain).to_dict()["axis"]["values"] == ticks


@pytest.mark.parametrize("low", [-300.3, -1.6, -0.9, 0.0, 5.99])
def test_an_axis_of_one_decade_has_several_labels_and_each_is_true(low):
    axis = charts.decades("x", "x", (low, low + 1.0)).to_dict()["axis"]
    assert 2 <= len(axis["values"]) <= 4
    assert all(low <= value <= low + 1.0 for value in axis["values"])
    if "pow" in axis["labelExpr"]:
        mantissas = {round(10 ** (value - np.floor(value + 1e-9)), 6) for value in axis["values"]}
        assert mantissas <= {1.0, 2.0, 5.0}


def test_colours_are_those_of_the_framework():
    """So that one edit of ``tinygrad182/display/charts.py`` changes the palette everywhere."""
    for file in (*EXPERIMENTS.rglob("*.py"), *EXPERIMENTS.rglob("*.html")):
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b", text), file


def test_indices_in_titles_are_set_and_data_left_alone():
    spec = {"title": "‖∂L_k/∂h_t‖, W_h, h_(T−1), log_10", "data": {"title": "h_t"}, "field": "h_t"}
    expected = spec | {"title": "‖∂Lₖ/∂hₜ‖, Wₕ, h_(T−1), log_10"}
    assert set_titles(spec) == expected
    assert set_titles({"x": [spec]}) == {"x": [expected]}
