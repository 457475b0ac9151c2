"""``compare_cells``: right cells pass in every style, and each planted mistake is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import device, host
from tinygrad182.testing.grading.formulas import LSTM_FORMULA, formula_of
from tinygrad182.testing.grading.mistakes import mistakes_of
from tinygrad182.testing.grading.run_step import run_step

from . import students

RIGHT_LSTM = [students.lstm, students.lstm_marked, students.lstm_packed, students.lstm_in_numpy]


def inputs(steps: int = 3, batch: int = 2, size: int = 3) -> Any:
    return np.random.default_rng(1).normal(size=(steps, batch, size))


def reference(kind: str, size: int = 3, units: int = 4, **options: Any) -> Any:
    return getattr(tg.nn, kind)(size, units, rng=0, device=device(), **options)


# --- right cells ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    steps=st.integers(1, 3),
    batch=st.integers(1, 3),
    size=st.integers(1, 3),
    units=st.integers(1, 3),
    k=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_a_right_lstm_is_never_marked_wrong(
    steps: int, batch: int, size: int, units: int, k: int, dtype: str
) -> None:
    cell = reference("LSTMCell", size, units, dtype=dtype)
    comparison = tg.testing.compare_cells(RIGHT_LSTM[k], cell, inputs(steps, batch, size))
    assert comparison, comparison
    assert comparison.equal
    assert (comparison.first, comparison.mistake) == (None, None)


def test_right_modules_and_classes_pass() -> None:
    cell, x = reference("LSTMCell"), inputs()
    module = students.LSTMModule(3, 4)
    before = {n: host(p).copy() for n, p in module.named_parameters()}
    assert tg.testing.compare_cells(module, cell, x, names=module.names)
    for name, parameter in module.named_parameters():
        assert (host(parameter) == before[name]).all(), (
            "the student's parameters are left as they are"
        )
    assert tg.testing.compare_cells(students.OwnLSTM(3, 4, device=device()), cell, x)
    for batch_first in (False, True):
        layer = reference("LSTM", batch_first=batch_first)
        assert tg.testing.compare_cells(layer, cell, x)
        assert tg.testing.compare_cells(students.lstm, layer, x)


@pytest.mark.parametrize(
    ("kind", "step"), [("GRUCell", students.gru), ("RNNCell", students.rnn), ("RNN", students.rnn)]
)
def test_right_grus_and_rnns_pass(kind: str, step: Any) -> None:
    assert tg.testing.compare_cells(step, reference(kind), inputs())
    assert tg.testing.compare_cells(reference(kind), reference(kind), inputs())


def test_symmetric_weights_hide_a_missing_transpose_in_the_values_alone() -> None:
    cell = reference("RNNCell")
    weight = host(cell.weight_hh)
    cell.weight_hh.assign((weight + weight.T) / 2)
    assert tg.testing.compare_cells(students.rnn, cell, inputs())
    comparison = tg.testing.compare_cells(students.rnn_untransposed, cell, inputs())
    assert {(d.phase, d.name) for d in comparison.differences} == {("backward", "weight_hh")}
    assert comparison.mistake == "weight_hh without its transpose"


def test_a_cell_that_rounds_to_float32_is_right() -> None:
    def step(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        x, h, W_ih, W_hh, b = (a.astype("float32") for a in (x, h, W_ih, W_hh, b))
        return tg.tanh(x @ W_ih.T + h @ W_hh.T + b)

    assert tg.testing.compare_cells(step, reference("RNNCell"), inputs())


@pytest.mark.parametrize("nonlinearity", ["relu", "identity", tg.sin])
def test_an_rnn_with_another_nonlinearity(nonlinearity: Any) -> None:
    cell = reference("RNNCell", nonlinearity=nonlinearity)
    assert tg.testing.compare_cells(cell, cell, inputs())
    comparison = tg.testing.compare_cells(students.rnn, cell, inputs())
    kind = getattr(nonlinearity, "__name__", nonlinearity)
    assert comparison.mistake == f"tanh in the place of {kind} in h_t"


def test_a_cell_without_a_bias() -> None:
    cell = reference("RNNCell", bias=False)
    assert tg.testing.compare_cells(students.rnn_without_bias, cell, inputs())


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", students.WRONG_LSTM)
def test_a_mistake_in_an_lstm_is_named(name: str) -> None:
    comparison = tg.testing.compare_cells(
        students.WRONG_LSTM[name], reference("LSTMCell"), inputs()
    )
    assert not comparison
    assert [mistake.name for mistake in comparison.mistakes] == [name]


@pytest.mark.parametrize("name", students.WRONG_GRU)
def test_a_mistake_in_a_gru_is_named(name: str) -> None:
    comparison = tg.testing.compare_cells(students.WRONG_GRU[name], reference("GRUCell"), inputs())
    assert [mistake.name for mistake in comparison.mistakes] == [name]


@pytest.mark.parametrize("name", students.WRONG_RNN)
def test_a_mistake_in_an_rnn_is_named(name: str) -> None:
    comparison = tg.testing.compare_cells(students.WRONG_RNN[name], reference("RNNCell"), inputs())
    same = (
        ["weight_hh reshaped"] if name == "weight_hh without its transpose" else []
    )  # W is square
    assert [mistake.name for mistake in comparison.mistakes] == [name, *same]


def test_a_mistake_must_explain_every_unit() -> None:
    def step(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        i, f, g, o = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
        i, f, g, o = tg.sigmoid(i), tg.sigmoid(f), tg.tanh(g), tg.sigmoid(o)
        no_forget_gate, no_input_gate = c + i * g, f * c + g
        c = tg.concat([no_forget_gate[:, :1], no_input_gate[:, 1:]], axis=-1)
        return o * tg.tanh(c), c

    comparison = tg.testing.compare_cells(step, reference("LSTMCell"), inputs())
    assert not comparison
    assert comparison.mistakes == ()


def test_the_order_of_gates_is_named() -> None:
    comparison = tg.testing.compare_cells(students.order_of_gates, reference("LSTMCell"), inputs())
    assert "order i, g, f, o; PyTorch's and ours is i, f, g, o" in repr(comparison)
    assert repr(comparison).startswith("different: forward, h, step 0") or "c, step 0" in repr(
        comparison
    )


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_all_mistakes_of_the_table_can_be_distinguished(kind: str) -> None:
    """No two rows give equal numbers, and no row gives the numbers of the right cell."""
    cell, rng = reference(kind, 4, 4), np.random.default_rng(2)
    formula, parts = formula_of(cell.scan, cell._params()), cell.scan.parts
    blocks = 4 * len(formula.gates)
    shapes = {"weight_ih": (blocks, 4), "weight_hh": (blocks, 4)}
    shapes |= {"bias_ih": (blocks,), "bias_hh": (blocks,)}
    shapes |= dict.fromkeys(("x", *parts), (3, 4))
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    cotangents = {part: rng.normal(size=(3, 4)) for part in parts}

    def numbers(changed: Any) -> Any:
        found = run_step(changed, arrays, cotangents, device())
        every = [*(found.values[p] for p in parts), *found.gradients.values()]
        return np.concatenate([a.ravel() for a in every])

    rows = {"right": numbers(formula)}
    for mistake in mistakes_of(formula):
        rows[str(mistake)] = numbers(mistake.planted_in(formula))
    table = np.array(list(rows.values()))
    near = [
        {a, b}
        for i, a in enumerate(rows)
        for b in list(rows)[i + 1 :]
        if np.abs(table[i] - rows[b]).max() < 1e-6
    ]
    square = [{name for name in rows if name.startswith(w)} for w in ("weight_ih ", "weight_hh ")]
    assert [pair for pair in near if not any(pair <= same for same in square)] == []
    assert len(near) == (2 if kind == "RNNCell" else 0), (
        "W reshaped is W where it is one square block"
    )


def test_two_mistakes_with_equal_numbers_are_both_named() -> None:
    comparison = tg.testing.compare_cells(
        students.rnn_untransposed, reference("RNNCell"), inputs(), seed=3
    )
    names = [mistake.name for mistake in comparison.mistakes]
    assert names == ["weight_hh without its transpose", "weight_hh reshaped"]


def test_the_formulas_are_the_cells() -> None:
    """The lines of each formula give the step of our cell."""
    for kind in ("LSTMCell", "GRUCell", "RNNCell"):
        cell = reference(kind)
        formula = formula_of(cell.scan, cell._params())

        def lines(x: Any, state: Any, formula: Any = formula, **own: Any) -> Any:
            parts = state if isinstance(state, tuple) else (state,)
            found = formula({"x": x, **dict(zip(formula.state, parts, strict=True)), **own})
            return tuple(found[part] for part in formula.state)

        assert tg.testing.compare_cells(lines, cell, inputs())


# --- where ----------------------------------------------------------------------------------------


def test_the_first_gate_that_differs_is_named() -> None:
    def step(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        i, f, g, o = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
        i, f = tg.inspect.mark(tg.sigmoid(i), "i"), tg.inspect.mark(tg.sigmoid(f + 1), "forget")
        c = f * c + i * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c

    comparison = tg.testing.compare_cells(
        step, reference("LSTMCell"), inputs(), names={"forget": "f"}
    )
    first = comparison.first
    assert first is not None
    assert (first.phase, first.name, first.gate, first.step) == ("forward", "f", "f", 0)
    assert comparison.mistakes == ()
    assert "mistake: none that is known" in repr(comparison)
    assert first.reference < first.mine, "the sigmoid of a larger sum"
    assert str(first.entry).startswith("step 0, gate f, sequence ")


def test_a_declared_gate_is_compared() -> None:
    class Wrong(students.OwnLSTM):
        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            i, f, g, o = xp.split(x + h, 4, axis=-1)
            c = xp.sigmoid(f) * state[1] + xp.sigmoid(i) * xp.sigmoid(g)
            return xp.sigmoid(o) * xp.tanh(c), c

    comparison = tg.testing.compare_cells(
        Wrong(3, 4, device=device()), reference("LSTMCell"), inputs()
    )
    assert comparison.first is not None
    assert comparison.first.gate == "g"
    assert comparison.mistake == "sigmoid in the place of tanh in gate g"


def test_the_first_step_that_differs_is_named() -> None:
    """An error does not carry over from a wrong step to the next one."""
    calls = []

    def step(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        calls.append(1)
        return tg.tanh(x @ W_ih.T + h @ W_hh.T + (b if len(calls) != 3 else 2 * b))

    comparison = tg.testing.compare_cells(step, reference("RNNCell"), inputs(5))
    forward = [d for d in comparison.differences if d.phase == "forward"]
    assert [d.step for d in forward] == [2]


def test_a_wrong_derivative_names_the_gate_of_a_parameter() -> None:
    wrong = tg.Primitive(
        "wrong_tanh", lambda xp, x: xp.tanh(x), (lambda xp, g, y, x: g * (1 - y),), "elementwise"
    )

    def step(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        i, f, g, o = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.apply(wrong, g)
        return tg.sigmoid(o) * tg.tanh(c), c

    comparison = tg.testing.compare_cells(step, reference("LSTMCell"), inputs())
    first = comparison.first
    assert first is not None
    assert (first.phase, first.gate) == ("backward", "g")
    assert comparison.mistake == "derivative of tanh without the square in gate g"


def test_a_users_own_cell_can_be_the_reference() -> None:
    class Leaky(tg.nn.RecurrentLayer):
        gates, state = ("u", "v"), ("s",)

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            u, v = xp.split(x + h, 2, axis=-1)
            return (xp.sigmoid(u) * state[0] + xp.tanh(v),)

    def step(x: Any, s: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        v, u = tg.split(x @ W_ih.T + s @ W_hh.T + b, 2, axis=-1)
        return tg.sigmoid(u) * s + tg.tanh(v)

    cell = Leaky(3, 4, rng=0, device=device())
    assert tg.testing.compare_cells(cell, cell, inputs())
    comparison = tg.testing.compare_cells(step, cell, inputs())
    assert comparison.mistake == "gates in another order"


def test_a_notebook_shows_where_they_differ() -> None:
    comparison = tg.testing.compare_cells(students.no_bias, reference("LSTMCell"), inputs())
    shown = comparison._repr_html_()
    assert "bias left out" in shown
    assert "backward" in shown


# --- what cannot be compared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "text"),
    [
        (3, "mine is 3; pass a function"),
        (
            lambda x, h, c, W, b: (h, c),
            "yours takes 'W'; a cell takes x, its state, and the parameters",
        ),
        (lambda x, h, c, b: h, "return the next state, h, c"),
        (lambda x, h, c, b: (h[:1], c), r"returns h of shape \(1, 4\); \(B, H\) is \(2, 4\) here"),
        (lambda x, h, c, b: (None, c), "returns None as h; return Tensors"),
        (lambda x, h, c, b: (h / "a", c), "step 0 fails: "),
        (lambda x, h, c, b: (), r"returns \(\); return the next state"),
        (lambda *args: args, "no named argument for x; let it take x, h, c, and the parameters"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused(mine: Any, text: str) -> None:
    with pytest.raises((tg.ArgumentError, tg.ShapeError), match=text):
        tg.testing.compare_cells(mine, reference("LSTMCell"), inputs())


def test_a_parameter_of_another_layout_is_refused() -> None:
    class Cell(tg.nn.Module):
        def __init__(self) -> None:
            self.W_ih = tg.nn.Parameter(tg.zeros((3, 16)))

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            return h, c

    with pytest.raises(tg.ShapeError, match=r"W_ih of yours.*\(3, 16\)"):
        tg.testing.compare_cells(Cell(), reference("LSTMCell"), inputs())


def test_wrong_inputs_are_refused() -> None:
    cell = reference("LSTMCell")
    with pytest.raises(tg.ShapeError, match=r"x.*\(2, 3\).*\(T, B, 3\)"):
        tg.testing.compare_cells(students.lstm, cell, inputs()[0])
    with pytest.raises(tg.ShapeError, match=r"the state.*\(2, 4\).*h, c"):
        tg.testing.compare_cells(students.lstm, cell, inputs(), np.zeros((2, 4)))
    with pytest.raises(tg.ArgumentError, match="not finite"):
        tg.testing.compare_cells(students.lstm, cell, np.nan * inputs())
    for names in ("weight_ih", {"W_ih": 3}):
        with pytest.raises(tg.ArgumentError, match=r"names is .*dict such as"):
            tg.testing.compare_cells(students.lstm, cell, inputs(), names=names)  # type: ignore[arg-type]
    with pytest.raises(tg.ArgumentError, match="the reference is"):
        tg.testing.compare_cells(students.lstm, students.lstm, inputs())  # type: ignore[arg-type]
    with pytest.raises(tg.ArgumentError, match="num_layers=1"):
        tg.testing.compare_cells(students.lstm, reference("LSTM", num_layers=2), inputs())


def test_lines_are_read_by_their_names() -> None:
    assert LSTM_FORMULA.changed({"c_t": lambda c: 2 * c}).lines["c_t"](3) == 6
