"""Results in a notebook: their text, titles and drawn shapes."""

from __future__ import annotations

import math
import re
import sys
from html.parser import HTMLParser
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tinygrad182.arrays import backend
from tinygrad182.decode.result import Hypotheses
from tinygrad182.display import charts
from tinygrad182.display.reprs import scientific, sparkline
from tinygrad182.display.reprs.grids import measured
from tinygrad182.nn import notebook

HOSTILE = '<script>alert("1")</script>&\x00'


class Seen(HTMLParser):
    """A repr as a browser reads it: every tag is closed, nothing is run, nothing is loaded."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.titles: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(markup)
        self.close()
        assert not self._open
        names = {tag for tag, _ in self.tags}
        assert names.isdisjoint({"script", "link", "iframe", "style", "object"})
        keys = {key for _, attributes in self.tags for key in attributes}
        assert not any(key.startswith("on") for key in keys)
        assert not any((a.get("src") or "data:").startswith("http") for _, a in self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "title":
            self.titles.append(data)
        else:
            self.text += data + " "

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def rows(self) -> int:
        return self.count("tr") - self.count("table")


def seen(x: Any) -> Seen:
    return Seen(x._repr_html_())


# --- tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.array(math.nan),
        np.array(True),
        np.zeros((0, 3), "f4"),
        np.zeros((3, 0)),
        np.full((2, 3), math.nan),
        np.full((70, 70), math.inf),
        np.full(5000, -math.inf),
        np.array([1, -2, 3], "i8"),
        np.array([2**63, 1], "u8"),
        np.arange(6, dtype="f2").reshape(2, 3),
        np.array([[1 + 2j, math.nan]]),
        np.full((3, 3), 1e308),
        np.full(9000, 5e-324),
        np.ones((1, 1, 1, 1, 2)),
        np.array([[False, True]]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_every_tensor_has_a_repr(array: np.ndarray) -> None:
    page = seen(tg.tensor(array))
    assert str(array.dtype) in page.text
    assert "cpu" in page.text


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.complex64, np.int32, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_a_small_tensor_shows_each_number_once(array: np.ndarray) -> None:
    page = seen(tg.tensor(array))
    if array.ndim:
        expected = {f"{list(place)}: {array[place]}" for place in np.ndindex(array.shape)}
        assert set(page.titles) == expected
        assert len(page.titles) == array.size
    for name, number in (("NaN", np.isnan(array).sum()), ("infinite", np.isinf(array).sum())):
        assert (f"{number:,} {name}" in page.text) == (number > 0)


def test_colours_are_signs_and_their_strength_is_the_magnitude() -> None:
    markup = tg.tensor([-2.0, 0.0, 1.0, math.nan, math.inf])._repr_html_()
    groups = re.findall(r'<g fill="(#\w+)">(.*?)</g>', markup)
    cells = {
        title: (colour, float(opacity))
        for colour, inside in groups
        for opacity, title in re.findall(r'fill-opacity="(\S+)"><title>(.*?)</title>', inside)
    }
    orange, blue, pink, amber = charts.ORANGE, charts.BLUE, charts.PINK, charts.AMBER
    assert cells == {
        "[0]: -2.0": (blue, 1.0),
        "[1]: 0.0": (orange, 0.0),
        "[2]: 1.0": (orange, 0.5),
        "[3]: nan": (pink, 1.0),
        "[4]: inf": (amber, 1.0),
    }


def test_matrices_of_a_stack_stand_apart() -> None:
    markup = tg.ones((2, 3, 4))._repr_html_()
    rows = sorted({int(y) for y in re.findall(r'd="M\d+ (\d+)h', markup)})
    assert rows == [0, 1, 2, 4, 5, 6]


@given(
    hnp.arrays(
        np.float64, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(-1e300, 1e300)
    )
)
def test_figures_are_those_of_the_array(array: np.ndarray) -> None:
    figures = measured(array)
    assert (figures.low, figures.high) == (array.min(), array.max())
    assert figures.mean == pytest.approx(float(np.longdouble(array).mean()), rel=1e-12, abs=1e-290)
    norms = backend.norms(list(array))
    expected = [math.log10(norm) if norm else -math.inf for norm in norms]
    np.testing.assert_allclose(figures.log10_norms, expected, rtol=0, atol=1e-9)


def test_figures_of_a_large_array_are_of_its_parts() -> None:
    array = np.random.default_rng(0).standard_normal((1003, 70))
    array[5, 3], array[999, 0], array[999, 1] = math.nan, math.inf, -math.inf
    figures = measured(array)
    finite = array[np.isfinite(array)]
    assert (figures.nans, figures.infinities) == (1, 2)
    assert (figures.low, figures.high) == (finite.min(), finite.max())
    assert figures.mean == pytest.approx(finite.mean(), rel=1e-12)
    assert math.isnan(figures.log10_norms[0])
    assert figures.log10_norms[-1] == math.inf
    ends = [*figures.first[1:], len(array)]
    norms = [np.linalg.norm(array[a:b]) for a, b in zip(figures.first, ends, strict=True)]
    np.testing.assert_allclose(figures.log10_norms[1:-1], np.log10(norms[1:-1]), atol=1e-12)
    page = seen(tg.tensor(array))
    assert "1 NaN" in page.text
    assert "2 infinite" in page.text
    assert not any(": " in title and title.startswith("[") for title in page.titles)


def test_a_large_tensor_is_summed_up_in_a_short_text() -> None:
    x = tg.tensor(np.random.default_rng(0).standard_normal(10**6).astype("f4"))
    assert len(x._repr_html_()) < 10_000


def test_a_tensor_says_that_it_requires_grad_and_shows_its_gradient() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    assert "requires grad, by multiply" in seen(y).text
    before = seen(x)
    assert "requires grad" in before.text
    assert "gradient" not in before.text
    y.sum().backward()
    assert "[1]: 4.0" in seen(x).titles
    assert "requires grad" not in seen(x.detach()).text


def test_a_tensor_and_its_gradient_come_to_the_host_together(monkeypatch: Any) -> None:
    x = tg.tensor(np.ones(5000), requires_grad=True)
    (x * x).sum().backward()
    calls: list[int] = []
    fetch = backend.fetch
    monkeypatch.setattr(backend, "fetch", lambda xs: calls.append(len(xs)) or fetch(xs))
    monkeypatch.setattr(tg.Tensor, "numpy", None)
    seen(x)
    assert calls == [2]


# --- lines ------------------------------------------------------------------------------------------


def test_a_line_has_no_floor_and_marks_what_has_no_logarithm() -> None:
    log10 = np.array([-400.0, -200.0, -math.inf, -math.inf, math.nan, math.inf, 0.0])
    page = Seen(sparkline("n", log10, np.arange(7)))
    assert "1.0e-400" in page.text
    assert "1.0e+00" in page.text
    assert "exactly 0 at 2 of 7" in page.text
    assert "NaN at 1 of 7" in page.text
    assert "infinite at 1 of 7" in page.text
    assert page.titles[1:] == ["exactly 0: 2 … 3", "NaN: 4 … 4", "infinite: 5 … 5"]
    (path,) = (a["d"] for tag, a in page.tags if tag == "path")
    assert path is not None
    assert (path.count("M"), path.count("L")) == (
        2,
        1,
    )  # the last point is not joined to the second
    heights = [float(y) for y in re.findall(r"[ML]\S+ ([\d.]+)", path)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)  # decades
    low, high = sorted([heights[0], heights[2]])
    assert (low, high) == (10.0, 62.0)


def test_a_level_looks_like_one() -> None:
    for values, labels in (([-3.0, -3.1], 1), ([-3.0, -3.5], 2)):
        markup = sparkline("n", np.array(values), np.arange(2))
        heights = [float(y) for y in re.findall(r"[ML]\S+ ([\d.]+)", markup)]
        assert heights[1] - heights[0] == pytest.approx(52 * (values[0] - values[1]), abs=0.11)
        assert sum(heights) / 2 == pytest.approx(36, abs=0.11)
        assert markup.count("e-0") == labels


@pytest.mark.parametrize("values", [[], [math.nan], [-math.inf] * 3, [2.0], [5.0] * 3])
def test_a_line_of_anything_can_be_drawn(values: list[float]) -> None:
    page = Seen(sparkline("n", np.array(values), np.arange(len(values))))
    assert page.count("svg") == (len(values) > 0)


def test_a_long_line_keeps_its_extremes() -> None:
    log10 = np.zeros(20_000)
    log10[[7, 13_001]] = -30.0, 5.0
    log10[9_000] = math.nan
    markup = sparkline("n", log10, np.arange(20_000))
    (path,) = re.findall(r'<path d="(.*?)"', markup)
    heights = [float(y) for y in re.findall(r"[ML]\S+ ([\d.]+)", path)]
    assert (min(heights), max(heights)) == (10.0, 62.0)
    assert path.count("M") == 2
    assert len(markup) < 20_000


@given(st.floats(-1e6, 1e6))
def test_a_magnitude_is_read_back_from_its_text(log10: float) -> None:
    mantissa, power = scientific(log10).split("e")
    assert 1 <= float(mantissa) < 10
    assert math.log10(float(mantissa)) + int(power) == pytest.approx(log10, abs=0.023)


# --- modules ----------------------------------------------------------------------------------------


class Model(tg.nn.Module):
    def __init__(self) -> None:
        self.rnn = tg.nn.LSTM(1, 4, rng=0)
        self.head = tg.nn.Sequential(tg.nn.Linear(4, 3, rng=0), tg.tanh)
        self.rows = [tg.nn.Linear(2, 2, rng=1)]
        self.scale = tg.nn.Parameter([1.0])

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0][-1]) * self.scale


def test_a_module_is_a_tree_of_its_parameters() -> None:
    model = Model()
    page = seen(model)
    assert page.count("details") == 5  # the model, its three modules, and the one in the Sequential
    assert [a for tag, a in page.tags if tag == "details"] == [{"open": None}, {}, {}, {}, {}]
    assert "Model()" in page.text
    assert f"{sum(p.size for p in model.parameters())} parameters" in page.text
    for name, parameter in model.named_parameters():
        assert name.rpartition(".")[2] in page.text
        assert " × ".join(map(str, parameter.shape)) in page.text
    assert "‖gradient‖" not in page.text
    assert page.rows() == len(list(model.parameters()))
    assert [page.text.index(x) for x in ("rnn:", "head:", "0:", "rows.0:")] == sorted(
        page.text.index(x) for x in ("rnn:", "head:", "0:", "rows.0:")
    )


def test_a_module_shows_norms_of_gradients_read_together(monkeypatch: Any) -> None:
    model = Model()
    model(tg.ones((5, 2, 1))).sum().backward()
    calls: list[int] = []
    norms = backend.norms
    monkeypatch.setattr(notebook.backend, "norms", lambda xs: calls.append(len(xs)) or norms(xs))
    page = seen(model)
    head = model.head[0].weight
    assert f"{norms([head.grad.numpy()])[0]:.4g}" in page.text
    assert "‖gradient‖" in page.text
    with_grad = [p for p in model.parameters() if p.grad is not None]
    assert calls == [len(list(model.parameters())) + len(with_grad)]  # once for all
    assert "·" in page.text  # the rows' Linear has no gradient


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_layers_and_cells_have_a_tree(name: str) -> None:
    layer = getattr(tg.nn, name)(2, 3, num_layers=2, bidirectional=True, rng=0)
    assert "weight_hh_l1_reverse" in seen(layer).text
    assert "weight_hh" in seen(getattr(tg.nn, f"{name}Cell")(2, 3, rng=0)).text


def test_a_module_without_parameters_and_one_deep_in_others() -> None:
    assert "Module()" in seen(tg.nn.Module()).text
    deep: Any = tg.nn.Linear(1, 1, rng=0)
    for _ in range(400):
        deep = tg.nn.Sequential(deep)
    assert seen(deep).count("details") == 401


def test_what_people_call_things_is_escaped() -> None:
    model = Model()
    setattr(model, HOSTILE, tg.nn.Linear(1, 1, rng=0))
    page = seen(model)
    assert '<script>alert("1")</script>&␀' in page.text
    h = tg.inspect.mark(tg.tensor([1.0], requires_grad=True) * 2, HOSTILE, time=0)
    for result in (tg.inspect.trace(h), tg.inspect.gradient_flow(h)):
        assert "alert" in seen(result).text


# --- views ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loss() -> tg.Tensor:
    rnn = tg.nn.LSTM(1, 4, rng=0, dtype="float64")
    output, _ = rnn(tg.tensor(np.random.default_rng(0).standard_normal((60, 2, 1))))
    return (output[40] ** 2).mean()


def test_a_flow_is_drawn_state_by_state(loss: tg.Tensor) -> None:
    flow = tg.inspect.gradient_flow(loss)
    page = seen(flow)
    assert page.count("svg") == 2
    h = flow["lstm.l0"].h
    decades = h.log_grad_norm / math.log(10)
    assert f"{scientific(decades[0])} at t = 0" in page.text
    assert "exactly 0 at 19 of 60" in page.text
    assert "exactly 0: 41 … 59" in page.titles
    assert "‖∂L/∂cₜ‖" in page.text
    for part, pictures in ((flow["lstm.l0"], 2), (h, 1)):
        assert seen(part).count("svg") == pictures
    assert page.text.count("20 more") == 2  # of 60 rows 40 are shown, for each state


def test_a_recorded_flow_is_drawn_as_another(loss: tg.Tensor) -> None:
    recorded = tg.inspect.gradient_flow(loss, create_graph=True)
    ours = tg.inspect.gradient_flow(loss)["lstm.l0"].h
    page = seen(recorded)
    assert page.count("svg") == 2
    assert f"is {scientific(ours.log_grad_norm[0] / math.log(10))} at t = 0" in page.text
    assert seen(recorded["lstm.l0"].h).count("svg") == 1


def test_a_graph_is_counted_by_module_and_listed(loss: tg.Tensor) -> None:
    graph = tg.inspect.trace(loss)
    page = seen(graph)
    assert f"graph of {len(graph)} nodes".split() == page.text.split()[:4]
    assert "lstm_scan" in page.text
    listed = page.rows() - len({node.module for node in graph})
    assert listed == len(graph)
    weight = graph.select(name="weight_hh_l0")[0]
    assert f"{backend.norms([weight.grad])[0]:.4g}" in page.text
    opened = graph.opened()
    page = seen(opened)
    assert f"{len(opened) - 40:,} more" in page.text
    assert page.rows() == len({node.module for node in opened}) + 41


def test_a_gradient_check_tells_each_input() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64")
    check = tg.testing.check_gradients(rnn, np.ones((4, 1, 2)))
    assert [i.name for i in check.inputs] == ["input 0", *[n for n, _ in rnn.named_parameters()]]
    assert max(i.error for i in check.inputs) <= check.error < 1e-11
    assert [i.tried for i in check.inputs] == [8, *[p.size for p in rnn.parameters()]]
    page = seen(check)
    assert "right" in page.text
    assert f"{check.error:.1e}" in page.text
    assert page.rows() == 1 + len(list(rnn.parameters()))
    assert "weight_hh_l0" in page.text


# --- searches ---------------------------------------------------------------------------------------


def search(**options: Any) -> Any:
    table = np.log([[0.6, 0.4], [0.5, 0.5], [0.01, 0.99]])

    def step(tokens: Any, state: Any) -> Any:
        return table[np.where(state == 0, 0, tokens + 1)], state + 1

    return tg.decode.beam_search(step, np.zeros(1, int), 0, max_length=3, beam_width=2, **options)


def test_a_search_is_a_table_of_hypotheses() -> None:
    result = search()
    page = seen(result)
    assert page.rows() == len(result)
    assert " ".join(map(str, result.tokens)) in page.text
    assert f"{result.log_probability:.4g}" in page.text
    assert ("certified" in page.text) == result.certified
    assert "nothing sampled" in seen(Hypotheses([])).text


def test_a_lattice_is_a_picture_or_its_text(monkeypatch: Any) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    lattice = search(trace=True).lattice
    page = seen(lattice)
    ((_, image),) = page.tags
    assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    monkeypatch.setitem(sys.modules, "altair", None)
    assert "step 1" in seen(lattice).text
