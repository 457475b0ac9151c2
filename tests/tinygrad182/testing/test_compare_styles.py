"""``compare_cells`` with different names of arguments and places of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import device

X = np.random.default_rng(1).normal(size=(3, 2, 3))


def reference(kind: str, size: int = 3, units: int = 4) -> Any:
    return getattr(tg.nn, kind)(size, units, rng=0, device=device())


def after(a: Any, c: Any) -> Any:
    """The next state from the sums of an LSTM."""
    i, f, g, o = tg.split(a, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    return tg.sigmoid(o) * tg.tanh(c), c


# --- arguments ------------------------------------------------------------------------------------


def previous(x_t: Any, h_prev: Any, c_prev: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return after(x_t @ W_ih.T + h_prev @ W_hh.T + b, c_prev)


def cell_first(x: Any, c: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return after(x @ W_ih.T + h @ W_hh.T + b, c)


def parameters_first(W_ih: Any, W_hh: Any, b: Any, x: Any, h: Any, c: Any) -> Any:
    return after(x @ W_ih.T + h @ W_hh.T + b, c)


def state_first(hc: Any, x: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    return after(x @ W_ih.T + hc[0] @ W_hh.T + b, hc[1])


def in_a_dict(x: Any, h: Any, c: Any, params: Any) -> Any:
    return after(x @ params["W_ih"].T + h @ params["weight_hh"].T + params["b"], c)


def gate_by_gate(
    x: Any,
    h: Any,
    c: Any,
    W_ii: Any,
    W_if: Any,
    W_ic: Any,
    W_io: Any,
    W_hi: Any,
    W_hf: Any,
    W_hc: Any,
    W_ho: Any,
    b_i: Any,
    b_f: Any,
    b_c: Any,
    b_o: Any,
) -> Any:
    i = tg.sigmoid(x @ W_ii.T + h @ W_hi.T + b_i)
    f = tg.sigmoid(x @ W_if.T + h @ W_hf.T + b_f)
    o = tg.sigmoid(x @ W_io.T + h @ W_ho.T + b_o)
    c = f * c + i * tg.tanh(x @ W_ic.T + h @ W_hc.T + b_c)
    return o * tg.tanh(c), c


def in_place(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    a = x @ W_ih.T
    a += h @ W_hh.T + b
    i, f, g, o = np.split(a, 4, axis=1)
    c *= 1 / (1 + np.exp(-f))
    c += np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c) / (1 + np.exp(-o)), c


STYLES = [
    previous,
    cell_first,
    parameters_first,
    state_first,
    in_a_dict,
    gate_by_gate,
    in_place,
]


@pytest.mark.parametrize("step", STYLES, ids=lambda step: step.__name__)
def test_a_right_step_passes_whatever_its_arguments_are(step: Any) -> None:
    for units in (3, 4, 1):  # 3 is the size of x too: then no shape tells x from h
        comparison = tg.testing.compare_cells(step, reference("LSTMCell", 3, units), X)
        assert comparison, comparison


def test_h_before_x_in_an_rnn_of_one_size() -> None:
    def step(h: Any, x: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        return tg.tanh(x @ W_ih.T + h @ W_hh.T + b)

    assert tg.testing.compare_cells(step, reference("RNNCell", 3, 3), X)


def test_weights_of_h_and_x_side_by_side() -> None:
    def rows(x: Any, h: Any, c: Any, W: Any, b: Any) -> Any:
        return after(tg.concat([h, x], axis=-1) @ W.T + b, c)

    def columns(x: Any, h: Any, c: Any, Wx: Any, Wh: Any, b: Any) -> Any:
        return after(x @ Wx + h @ Wh + b, c)

    def swapped(x: Any, h: Any, c: Any, W: Any, b: Any) -> Any:
        return after(tg.concat([x, h], axis=-1) @ W.T + b, c)

    def blocks(x: Any, h: Any, c: Any, W_f: Any, U_f: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
        a = x @ W_ih.T + h @ W_hh.T + b
        n = h.shape[-1]
        f = x @ W_f + h @ U_f + b[n : 2 * n]
        return after(tg.concat([a[:, :n], f, a[:, 2 * n :]], axis=-1), c)

    cell, side = reference("LSTMCell", 4, 4), ("weight_hh", "weight_ih")
    x = np.random.default_rng(1).normal(size=(3, 2, 4))
    turned = {"Wx": "weight_ih.T", "Wh": "weight_hh.T"}
    assert tg.testing.compare_cells(rows, cell, x, names={"W": side})
    assert tg.testing.compare_cells(columns, cell, x, names=turned)
    forget = {"W_f": "weight_ih_f.T", "U_f": "weight_hh_f.T"}
    assert tg.testing.compare_cells(blocks, cell, x, names=forget)
    comparison = tg.testing.compare_cells(swapped, cell, x, names={"W": side})
    assert comparison.mistake == "weights swapped"
    with pytest.raises(tg.ArgumentError, match="names has 'weight_ih_q'"):
        tg.testing.compare_cells(rows, cell, x, names={"W": "weight_ih_q"})


# --- objects --------------------------------------------------------------------------------------


class Cell:
    """A class without a base, with arrays as attributes."""

    def __init__(self, size: int, units: int, whole: bool = False) -> None:
        W_ih, W_hh = np.zeros((4 * units, size)), np.zeros((4 * units, units))
        self.W_ih, self.W_hh, self.b = W_ih, W_hh, np.zeros(4 * units)
        self.params = {"W_ih": W_ih, "W_hh": W_hh, "b": self.b}
        self.whole = whole

    def __call__(self, x: Any, h: Any, c: Any) -> Any:
        if self.whole:
            p = self.params
            return after(x @ p["W_ih"].T + h @ p["W_hh"].T + p["b"], c)
        return after(x @ self.W_ih.T + h @ self.W_hh.T + self.b, c)

    def step(self, x: Any, h: Any, c: Any) -> Any:
        return self(x, h, c)


def test_an_object_computes_with_the_reference_s_parameters_in_its_attributes() -> None:
    for whole in (False, True):
        cell = Cell(3, 4, whole)
        before = dict(vars(cell))
        for mine in (cell, cell.step):
            assert tg.testing.compare_cells(mine, reference("LSTMCell"), X)
        assert all(vars(cell)[name] is value for name, value in before.items())
    with pytest.raises(tg.ShapeError, match=r"W_ih of yours.*\(20, 3\)"):
        tg.testing.compare_cells(Cell(3, 5), reference("LSTMCell"), X)


def test_a_method_of_a_module() -> None:
    class Module(tg.nn.Module):
        def __init__(self) -> None:
            self.x2h = tg.nn.Linear(3, 4, rng=0, device=device())
            self.h2h = tg.nn.Linear(4, 4, rng=0, device=device())

        def step(self, x: Any, h: Any) -> Any:
            return tg.tanh(self.x2h(x) + self.h2h(h))

    names = {"x2h.weight": "weight_ih", "h2h.weight": "weight_hh"}
    names |= {"x2h.bias": "bias_ih", "h2h.bias": "bias_hh"}
    assert tg.testing.compare_cells(Module().step, reference("RNNCell"), X, names=names)


def test_a_class_with_another_name_of_its_state() -> None:
    class Own(tg.nn.RecurrentCell):
        gates, state = ("i", "f", "g", "o"), ("h", "memory")

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            i, f, g, o = xp.split(x + h, 4, axis=-1)
            c = xp.sigmoid(f) * state[1] + xp.sigmoid(i) * xp.tanh(g)
            return xp.sigmoid(o) * xp.tanh(c), c

    assert tg.testing.compare_cells(Own(3, 4, device=device()), reference("LSTMCell"), X)


# --- what cannot be compared ----------------------------------------------------------------------


def test_an_unknown_key_of_the_dict_is_named() -> None:
    def step(x: Any, h: Any, params: Any) -> Any:
        return tg.tanh(x @ params["U"].T + h @ params["W_hh"].T + params["b"])

    assert tg.testing.compare_cells(step, reference("RNNCell"), X, names={"U": "weight_ih"})
    with pytest.raises(tg.ArgumentError, match="compare_cells: yours takes 'U'"):
        tg.testing.compare_cells(step, reference("RNNCell"), X)


def test_a_step_with_other_parameters_is_refused_not_marked_wrong() -> None:
    cell = reference("RNNCell")
    W_ih, W_hh, b = cell.weight_ih, cell.weight_hh, cell.bias_ih
    with pytest.raises(tg.ArgumentError, match="takes none of the parameters"):
        tg.testing.compare_cells(lambda x, h: tg.tanh(x @ W_ih.T + h @ W_hh.T + b), cell, X)


def test_a_shape_that_does_not_fit_shows_what_was_given() -> None:
    with pytest.raises(tg.ArgumentError, match=r"It was given x \(2, 3\), h \(2, 4\), .*PyTorch"):
        tg.testing.compare_cells(
            lambda x, h, W_ih, W_hh, b: x @ W_ih + h @ W_hh + b, reference("RNNCell"), X
        )


@pytest.mark.parametrize(
    ("mine", "text"),
    [
        (Cell, r"mine is the class Cell; pass an instance, Cell\(...\)"),
        (lambda x, W_ih, W_hh, b: x, "takes 'x' and no state"),
        (
            lambda x, h, W_ih, W_hh, b: tg.stack([h, h]),
            r"one axis too many; .* pass sequence=True",
        ),
    ],
)
def test_an_error_names_the_remedy(mine: Any, text: str) -> None:
    with pytest.raises((tg.ArgumentError, tg.ShapeError), match=text):
        tg.testing.compare_cells(mine, reference("RNNCell"), X)
