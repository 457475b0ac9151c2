"""Charts of the views beside the curves, read as the drawings that come of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const

alt = pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

from tinygrad182.display import charts as _charts  # noqa: E402
from tinygrad182.inspect.charts import view_charts as charts  # noqa: E402
from tinygrad182.inspect.charts.pictures import SLIDE, signalled  # noqa: E402
from tinygrad182.inspect.charts.view_arrays import Matrix, Shares, SingularValues, StepNorms  # noqa: E402
from tinygrad182.inspect.microscope.linked_views import linked_views  # noqa: E402

TIME = np.arange(8)
LINE = np.linspace(0.2, 0.8, 8)
REASON = "the state made by multiply is not a nonlinearity of a sum"
LSTM = Shares(TIME, "c", {"direct": LINE, "via h": 0.1 * LINE, "local": 1 - 1.1 * LINE})
RNN = Shares(TIME[:5], "h", {"direct": LINE[:5], "local": 1 - LINE[:5]})
GAINS = tg.inspect.GainSplit(TIME, LINE, 1.5 * LINE)
LOWER = np.where(np.tri(8, dtype=bool), -np.add.outer(TIME, TIME[::-1]) * 60.0, -np.inf)
VIEWS: dict[Callable[..., Any], Any] = {
    charts.shares_chart: LSTM,
    charts.gain_chart: GAINS,
    charts.matrix_chart: Matrix(TIME, TIME, "h", LOWER),
    charts.singular_chart: SingularValues(TIME, ("h",), np.outer(LINE, [1.0, 0.5, 1e-9])),
    charts.weights_chart: StepNorms(TIME, {"weight_hh_l0": -50 * LINE, "bias": LINE}),
}


def svg(chart: Any, dark: bool = False, **signals: Any) -> str:
    whole = _charts.configured(signalled(chart, **signals), dark)
    return str(vl_convert.vegalite_to_svg(whole.to_json(validate=False)))


def side_by_side(drawn: Iterable[Any], **signals: Any) -> str:
    """Charts in one drawing: to start the converter takes longer than to draw."""
    row = alt.hconcat(*drawn).resolve_scale(color="independent", shape="independent")
    return svg(row, **signals)


def texts(drawing: str) -> list[str]:
    found = re.findall(r"<text[^>]*>(.*?)</text>", drawing, re.DOTALL)
    return [re.sub(r"<[^>]*>", " ", text).strip() for text in found]


def count(drawing: str, mark: str) -> int:
    """The number of shapes in all groups of one kind of mark."""
    groups = re.findall(rf'<g class="mark-{mark} role-mark[^>]*>(.*?)</g>', drawing, re.DOTALL)
    return sum(len(re.findall("<(?:path|line) ", group)) for group in groups)


def test_every_chart_has_a_title_units_and_legible_text() -> None:
    every = [draw({0: view}) for draw, view in VIEWS.items()]
    drawing = side_by_side(every)
    assert texts(drawing).count("step t") == 5
    assert {
        "share of ‖δ‖²",
        "factor of one step back",
        "loss at step k",
        "singular value",
        "‖part of ∂L/∂W‖",
    } <= set(texts(drawing))
    assert min(map(float, re.findall(r'font-size="([\d.]+)px"', drawing))) >= 11
    assert all(len(chart.to_dict()["title"]["subtitle"]) == 2 for chart in every)


@pytest.mark.parametrize("step", [-1, 3])
def test_the_chosen_step_has_a_rule_at_its_time(step: int) -> None:
    drawing = side_by_side([draw({0: view}) for draw, view in VIEWS.items()], step=step)
    rules = re.findall(r'<line aria-label="t: (\d)"[^>]*stroke-dasharray="4,3"', drawing)
    assert rules == ([] if step < 0 else ["3"] * 5)


@pytest.mark.parametrize("block", [0, 4])
def test_a_block_without_the_view_says_why(block: int) -> None:
    drawing = side_by_side(
        [draw({0: view, 4: REASON}) for draw, view in VIEWS.items()], block=block
    )
    reasons = [t for t in texts(drawing) if t.startswith("Not here: the state made by multiply")]
    assert len(reasons) == (5 if block else 0)
    assert (count(drawing, "line") == 0) == ('rect mark"' not in drawing) == bool(block)
    assert "NaN" not in " ".join(texts(drawing))


def test_on_a_page_the_axis_is_the_window() -> None:
    drawing = side_by_side(
        [draw({0: view}, linked=True) for draw, view in VIEWS.items()], window=[2, 4]
    )
    axes = re.findall(r'aria-label="X-axis[^"]*from ([\d.]+) to ([\d.]+)"', drawing)
    assert axes == [("2", "5")] * 5  # 1.5 and 4.5, without their digits


def test_block_chooses_title_curves_and_legend() -> None:
    chart = charts.shares_chart({0: LSTM, 2: RNN})
    cell, hidden = svg(chart, block=0), svg(chart, block=2)
    assert "Where δ = ∂L/∂cₜ comes from" in texts(cell)
    assert "Where δ = ∂L/∂hₜ comes from" in texts(hidden)
    assert [name for name in ("direct", "via h", "local") if name in texts(hidden)] == [
        "direct",
        "local",
    ]
    assert "via h" in texts(cell)
    assert (count(cell, "line"), count(hidden, "line")) == (3, 2)


def test_the_step_counts_the_times_that_are_given() -> None:
    times = {0: np.array([0, 2, 4, 6, 7])}
    chart = charts.shares_chart({0: LSTM}, times)
    assert re.search(r'aria-label="t: 6"[^>]*stroke-dasharray', svg(chart, step=3))


ODD = {"exactly 0": -np.inf, "NaN": np.nan, "infinite": np.inf}


@pytest.mark.parametrize("name", [*ODD, ""])
def test_what_has_no_logarithm_is_a_mark_and_named_only_then(name: str) -> None:
    logs = -LINE.copy()
    logs[[2, 5]] = ODD.get(name, -1.0)
    norms = charts.weights_chart({0: StepNorms(TIME, {"W": logs})})
    matrix = charts.matrix_chart({0: Matrix(TIME[:1], TIME, "h", logs[None])})
    drawing = side_by_side([norms, matrix])
    there = [kind for kind in ODD for text in texts(drawing) if text == kind]
    assert there == ([name] * 2 if name else [])
    label = r"t: (\d); y: [^;]*; v: ([a-zA-Z0 ]+)"
    marked = re.findall(f'"{label}" role="graphics-symbol" aria-roledescription="point"', drawing)
    assert marked == ([("2", name), ("5", name)] if name else [])
    assert len(re.findall('aria-roledescription="rect mark"', drawing)) == 8
    assert len(re.findall('aria-roledescription="circle"', drawing)) == (6 if name else 8)
    assert "e+308" not in drawing  # where an empty legend would push the others


def test_a_share_without_a_gradient_is_a_gap() -> None:
    parts = {name: part.copy() for name, part in LSTM.parts.items()}
    for part in parts.values():
        part[3] = np.nan
    drawing = svg(charts.shares_chart({0: Shares(TIME, "c", parts)}))
    assert "δ is 0 or NaN" in texts(drawing)
    lines = re.findall(r'<path [^>]*"line mark" d="([^"]*)"', drawing)
    assert [d.count("M") for d in lines] == [2, 2, 2]


def test_the_matrix_draws_every_cell_and_zeros_in_their_own_colour() -> None:
    drawing = svg(charts.matrix_chart({0: VIEWS[charts.matrix_chart]}))
    assert count(drawing, "rect") == 64
    assert drawing.count('fill="#c9ccd1"') == 28 + 1  # above the diagonal, and the legend's
    assert "1e−840" in texts(drawing)


def test_magnitudes_have_no_floor() -> None:
    norms = StepNorms(TIME, {"W": np.linspace(-400, -390, 8)})
    labels = texts(svg(charts.weights_chart({0: norms})))
    assert "1e−400" in labels


def test_gains_near_one_are_labelled_as_factors() -> None:
    gains = tg.inspect.GainSplit(TIME, np.full(8, 0.9), np.full(8, 0.6))
    labels = texts(svg(charts.gain_chart({0: gains})))
    assert {"0.7", "1"} <= set(labels)
    assert not any(label.startswith("1e") for label in labels)


@pytest.mark.parametrize("low", [0.97, 0.5, 0.09, 0.004, 1e-7])
def test_at_least_three_labels_enclose_the_factors(low: float) -> None:
    gains = tg.inspect.GainSplit(TIME, np.linspace(low, 1.1, 8), np.full(8, low))
    labels = texts(svg(charts.gain_chart({0: gains})))
    labels = labels[labels.index("step t") + 1 : labels.index("factor of one step back")]
    found = [float(label.replace("−", "-")) for label in labels]
    assert 3 <= len(found) <= 6
    assert min(found) <= low**2 < 1.1 <= max(found)


def test_on_a_page_shares_stand_at_the_step_that_passes_them_back() -> None:
    drawing = svg(charts.shares_chart({0: LSTM}, linked=True), window=[0, 7], step=3)
    assert "How δ = ∂L/∂cₜ₋₁ comes back through step t" in texts(drawing)
    at = re.findall(r'aria-label="t: ([0-9]+); v: [^;]*; part: direct', drawing)
    assert at == [str(t + 1) for t in TIME[:-1]]


def test_singular_values_name_their_states() -> None:
    def title(*names: str) -> str:
        values = SingularValues(TIME, names, np.outer(LINE, [1.0, 0.5]))
        return next(t for t in texts(svg(charts.singular_chart({0: values}))) if "Sing" in t)

    assert title("h", "c") == "Singular values of ∂(h, c)ₜ / ∂(h, c)ₜ₋₁"
    assert title("h") == "Singular values of ∂hₜ / ∂hₜ₋₁"
    assert title("encoder", "decoder") == "Singular values of all of the state"


def test_a_smallest_singular_value_of_rounding_does_not_flatten_the_rest() -> None:
    values = np.outer(np.ones(8), [1.1, 0.9, 1e-17])
    labels = texts(svg(charts.singular_chart({0: SingularValues(TIME, ("h",), values)})))
    assert "1e-17" not in labels
    assert "1" in labels


@pytest.mark.parametrize("steps", [1, 2])
def test_one_step_and_two_can_be_drawn(steps: int) -> None:
    rnn = tg.nn.RNN(1, 2, rng=0)
    output, _ = rnn(tg.ones((steps, 1, 1)))
    views = linked_views((output**2).sum(), None, range(steps))
    every = charts.charts_of({0: views})
    drawing = side_by_side(every.values(), window=[0, steps - 1])
    assert texts(drawing).count("step t") == len(every) == steps + 3


def test_charts_of_leaves_out_what_no_block_has() -> None:
    lstm = tg.nn.LSTM(1, 2, rng=0)
    output, _ = lstm(tg.ones((4, 1, 1)))
    views = linked_views(output[-1].sum(), None, range(4))
    assert list(charts.charts_of({1: views})) == ["shares", "singular", "weights"]


# --- pictures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loss() -> tg.Tensor:
    rnn = tg.nn.RNN(1, 3, rng=0)
    output, _ = rnn(const(np.ones((6, 1, 1), np.float32)))
    return (output[-1] ** 2).sum()


PICTURES = {
    "splits": lambda loss: tg.inspect.path_split(loss),
    "split": lambda loss: tg.inspect.path_split(loss)["h"],
    "gains": lambda loss: tg.inspect.gain_split(loss),
    "jacobians": lambda loss: tg.inspect.step_jacobians(loss),
    "flow": lambda loss: tg.inspect.gradient_flow(loss),
    "stack": lambda loss: tg.inspect.gradient_flow(loss)["rnn.l0"],
    "state": lambda loss: tg.inspect.gradient_flow(loss)["rnn.l0"].h,
    "recorded": lambda loss: tg.inspect.gradient_flow(loss, create_graph=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_view_writes_pictures(name: str, loss: tg.Tensor, tmp_path: Path) -> None:
    view = PICTURES[name](loss)
    view.save_png(tmp_path / "view.png", dark=True)
    png = (tmp_path / "view.png").read_bytes()
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    if name in ("split", "gains", "jacobians"):
        assert (width, height) == (1920, 1080)
    assert 0.9 * 3 * SLIDE[0] <= width <= 1.1 * 3 * SLIDE[0]
    assert height <= 1.1 * 3 * SLIDE[1]


def test_a_split_knows_the_name_of_its_state(loss: tg.Tensor, tmp_path: Path) -> None:
    tg.inspect.path_split(loss)["h"].save_svg(tmp_path / "h.svg")
    assert "Where δ = ∂L/∂hₜ comes from" in texts((tmp_path / "h.svg").read_text())


@pytest.mark.parametrize("log", [False, True])
def test_draw_matrix_takes_norms_and_logarithms(log: bool, tmp_path: Path) -> None:
    norms = np.tri(4) * 2e-3
    norms[3, 0] = 2e-9
    with np.errstate(divide="ignore"):
        given = np.log(norms) if log else norms
    tg.inspect.draw_matrix(given, tmp_path / "m.svg", log=log, of="x", losses=[5, 6, 7, 9])
    drawing = (tmp_path / "m.svg").read_text()
    assert {"1e−9", "1e−2", "exactly 0", "9"} <= set(texts(drawing))
    assert "‖∂Lₖ/∂xₜ‖: from step k back to t" in texts(drawing)
    tg.inspect.draw_matrix(given, tmp_path / "m.png", log=log)
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("matrix", "path", "options", "match"),
    [
        (np.ones((2, 2)), "m.jpg", {}, "must end in .png or .svg"),
        (np.ones(3), "m.png", {}, r"has shape \(3,\)"),
        (np.ones((0, 3)), "m.png", {}, "needs rows and columns"),
        (np.ones((2, 3)), "m.png", {"times": [1, 2]}, "times has shape .* needs 3 numbers"),
        (np.ones((2, 3)), "m.png", {"losses": [1]}, "losses has shape .* needs 2 numbers"),
    ],
)
def test_draw_matrix_refuses(
    matrix: Any, path: str, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        tg.inspect.draw_matrix(matrix, tmp_path / path, **options)
