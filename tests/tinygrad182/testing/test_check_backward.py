"""``check_backward``: right derivatives pass in several styles, and mistakes in wrong ones are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import host_only
from tinygrad182.testing.handwritten.parameter_layout import Layout

pytestmark = host_only("check_backward is for plain NumPy")

Array = np.ndarray[Any, Any]


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


# --- an LSTM with columns of gates, in the order i, f, o, g ---------------------------------------


def forward(x: Any, h: Any, c: Any, Wx: Any, Wh: Any, b: Any) -> Any:
    i, f, o, g = np.split(x @ Wx + h @ Wh + b, 4, axis=-1)
    i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), np.tanh(g)
    c_next = f * c + i * g
    return o * np.tanh(c_next), c_next, (x, h, c, Wx, Wh, i, f, o, g, c_next)


def sums(dh: Any, dc: Any, cache: Any) -> Any:
    """The cotangents of the gates' sums."""
    *_, c, _, _, i, f, o, g, c_next = cache
    t = np.tanh(c_next)
    dc = dc + dh * o * (1 - t**2)
    blocks = dc * g * i * (1 - i), dc * c * f * (1 - f), dh * t * o * (1 - o), dc * i * (1 - g**2)
    return np.concatenate(blocks, axis=-1)


def backward(dh: Any, dc: Any, cache: Any) -> Any:
    x, h, _, Wx, Wh, _, f, o, _, c_next = cache
    da = sums(dh, dc, cache)
    dc = dc + dh * o * (1 - np.tanh(c_next) ** 2)
    return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, h.T @ da, da.sum(axis=0)


def numbers(
    steps: int = 2, batch: int = 3, size: int = 2, units: int = 2
) -> tuple[Array, Array, Array, dict[str, Array]]:
    rng = np.random.default_rng(0)
    x, h, c = (rng.normal(size=s) for s in ((steps, batch, size), (batch, units), (batch, units)))
    shapes = {"Wx": (size, 4 * units), "Wh": (units, 4 * units), "b": (4 * units,)}
    return x, h, c, {name: rng.normal(size=shape) for name, shape in shapes.items()}


def check(
    backward: Callable[..., Any], forward: Callable[..., Any] = forward, **options: Any
) -> Any:
    x, h, c, parameters = numbers()
    return tg.testing.check_backward(
        forward, backward, x, h, c, parameters, gates="ifog", **options
    )


def message(backward: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(tg.GradientCheckError) as error:
        check(backward, **options)
    return str(error.value)


@settings(max_examples=15)
@given(
    steps=st.integers(1, 2),
    batch=st.integers(1, 2),
    size=st.integers(1, 3),
    units=st.integers(1, 2),
    whole=st.booleans(),
)
def test_a_right_rule_is_never_marked_wrong(
    steps: int, batch: int, size: int, units: int, whole: bool
) -> None:
    x, h, c, parameters = numbers(steps, batch, size, units)
    x = x if whole else x[0]
    found = tg.testing.check_backward(forward, backward, x, h, c, parameters, gates="ifog")
    assert found.method == "complex step"
    assert found.error < 1e-12
    entries = sum(a.size for a in (h, c, *parameters.values())) + batch * size
    assert found.entries == entries * (steps if whole else 1)


NAMES = ("dx", "dprev_h", "dc_prev", "dWx", "dWh", "db")


def as_dict(dh: Any, dc: Any, cache: Any) -> Any:
    return dict(zip(NAMES, backward(dh, dc, cache), strict=True))


def some_in_a_dict(dh: Any, dc: Any, cache: Any) -> Any:
    first, last = backward(dh, dc, cache)[:3], backward(dh, dc, cache)[3:]
    return *first, dict(reversed(list(zip(NAMES[3:], last, strict=True))))


def as_list(dh: Any, dc: Any, cache: Any) -> Any:
    return list(backward(dh, dc, cache))


def writing_into_its_cotangents(dh: Any, dc: Any, cache: Any) -> Any:
    found = backward(dh, dc, cache)
    dh *= 0
    dc += 1
    return found


@pytest.mark.parametrize(
    "style",
    [as_dict, some_in_a_dict, as_list, writing_into_its_cotangents],
    ids=lambda f: f.__name__,
)
def test_gradients_may_be_returned_in_any_way(style: Callable[..., Any]) -> None:
    assert check(style).order == 1


def test_parameters_may_be_taken_in_any_way() -> None:
    x, h, c, parameters = numbers(1)

    def with_a_dict(x: Any, h: Any, c: Any, p: Any) -> Any:
        return forward(x, h, c, p["Wx"], p["Wh"], p["b"])

    def with_keywords(x: Any, h: Any, c: Any, **p: Any) -> Any:
        return forward(x, h, c, **p)

    def by_other_names(x: Any, h: Any, c: Any, w: Any, u: Any, bias: Any) -> Any:
        return forward(x, h, c, w, u, bias)

    def packed(x: Any, h: Any, c: Any, Wx: Any, Wh: Any, b: Any) -> Any:
        *state, cache = forward(x, h, c, Wx, Wh, b)
        return tuple(state), cache

    for f in (with_a_dict, with_keywords, by_other_names, packed):
        assert tg.testing.check_backward(f, backward, x, h, c, parameters).method == "complex step"


def test_arrays_used_from_outside_are_moved_and_put_back() -> None:
    x, h, c, parameters = numbers(1, 1, 1, 1)
    before = {name: a.copy() for name, a in parameters.items()}

    def from_outside(x: Any, h: Any, c: Any) -> Any:
        return forward(x, h, c, **parameters)

    found = tg.testing.check_backward(from_outside, backward, x, h, c, parameters)
    assert found.method == "five points"
    assert all((parameters[name] == before[name]).all() for name in before)
    lists = {name: a.tolist() for name, a in parameters.items()}
    with pytest.raises(tg.ArgumentError, match="Wx is used from outside"):
        tg.testing.check_backward(from_outside, backward, x, h, c, lists)


def test_a_forward_that_cannot_take_complex_numbers_is_checked_by_five_points() -> None:
    def real(x: Any, h: Any, W: Any) -> Any:
        a = x + np.abs(h @ W)
        return a, (h, W)

    def of_real(dh: Any, cache: Any) -> Any:
        h, W = cache
        da = dh * np.sign(h @ W)
        return dh, da @ W.T, h.T @ da

    rng = np.random.default_rng(0)
    x, h, W = rng.normal(size=(2, 2)), rng.normal(size=(2, 2)), rng.normal(size=(2, 2))
    found = tg.testing.check_backward(real, of_real, x, h, parameters={"W": W})
    assert found.method == "five points"
    with pytest.raises(tg.NotDifferentiableError, match="a kink or a jump at step 0"):
        tg.testing.check_backward(real, of_real, x, 0 * h, parameters={"W": W})


# --- wrong rules ----------------------------------------------------------------------------------


def changed(**changes: Callable[[Array], Any]) -> Callable[..., Any]:
    def wrong(dh: Any, dc: Any, cache: Any) -> Any:
        return as_dict(dh, dc, cache) | {"db": sums(dh, dc, cache)}

    assert "the sum over the batch is missing" in message(wrong)


def mistaken(
    dc_through_h: Callable[..., Any] = lambda dh, dc, o, c, t: dc + dh * o * (1 - t**2),
    slope_of_tanh: Callable[..., Any] = lambda g: 1 - g**2,
    slope_of_sigmoid: Callable[..., Any] = lambda s: s * (1 - s),
    dc_before: Callable[..., Any] = lambda dc, f: dc * f,
) -> Callable[..., Any]:
    def wrong(dh: Any, dc: Any, cache: Any) -> Any:
        x, h, c, Wx, Wh, i, f, o, g, c_next = cache
        t = np.tanh(c_next)
        dc = dc_through_h(dh, dc, o, c_next, t)
        blocks = dc * g, dc * c, dh * t
        da = [d * slope_of_sigmoid(s) for d, s in zip(blocks, (i, f, o), strict=True)]
        da = np.concatenate([*da, dc * i * slope_of_tanh(g)], axis=-1)
        return da @ Wx.T, da @ Wh.T, dc_before(dc, f), x.T @ da, h.T @ da, da.sum(axis=0)

    return wrong


MISTAKES = {
    "dc of the next step is not added": {
        "dc_through_h": lambda dh, dc, o, c, t: dh * o * (1 - t**2)
    },
    "no derivative through tanh of c": {"dc_through_h": lambda dh, dc, o, c, t: dc},
    "o left out of dc": {"dc_through_h": lambda dh, dc, o, c, t: dc + dh * (1 - t**2)},
    "derivative of tanh at the input in tanh(c_t)": {
        "dc_through_h": lambda dh, dc, o, c, t: dc + dh * o * (1 - c**2)
    },
    "derivative of tanh left out in gate g": {"slope_of_tanh": lambda g: 1.0},
    "derivative of tanh without the square in gate g": {"slope_of_tanh": lambda g: 1 - g},
    "derivative of sigmoid without 1 − y in gate i, gate f, gate o": {
        "slope_of_sigmoid": lambda s: s
    },
    "derivative of sigmoid with σ applied twice in gate i, gate f, gate o": {
        "slope_of_sigmoid": lambda s: sigmoid(s) * (1 - sigmoid(s))
    },
    "f left out of dc": {"dc_before": lambda dc, f: dc},
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_known_mistake_is_named(name: str) -> None:
    told = message(mistaken(**MISTAKES[name]))
    assert [
        line.split(":")[1].strip() for line in told.splitlines() if line.startswith("mistake")
    ] == [name]


def test_a_cotangent_that_is_not_used_is_named() -> None:
    told = message(mistaken(**MISTAKES["dc of the next step is not added"]))
    assert "only dh has been used; dc is not in it" in told


# --- other cells ----------------------------------------------------------------------------------


def rnn_forward(x: Any, h: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    h_next = np.tanh(x @ W_ih.T + h @ W_hh.T + b)
    return h_next, (x, h, W_ih, W_hh, h_next)


def rnn_backward(dh: Any, cache: Any, transposed: bool = False) -> Any:
    x, h, W_ih, W_hh, h_next = cache
    da = dh * (1 - h_next**2)
    return da @ W_ih, da @ (W_hh.T if transposed else W_hh), da.T @ x, da.T @ h, da.sum(axis=0)


def test_an_rnn_in_pytorchs_layout() -> None:
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(2, 3, 2)), rng.normal(size=(3, 2))
    shapes = {"W_ih": (2, 2), "W_hh": (2, 2), "b": (2,)}
    parameters = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    assert tg.testing.check_backward(rnn_forward, rnn_backward, x, h, parameters=parameters)
    with pytest.raises(tg.GradientCheckError, match="mistake: dh without its transpose"):
        tg.testing.check_backward(
            rnn_forward,
            lambda dh, cache: rnn_backward(dh, cache, transposed=True),
            x,
            h,
            parameters=parameters,
        )


def test_one_sequence_without_a_batch_axis() -> None:
    def forward(x: Any, h: Any, W: Any) -> Any:
        return np.tanh(x + W @ h), (x, h, W)

    def backward(dh: Any, cache: Any) -> Any:
        x, h, W = cache
        da = dh * (1 - np.tanh(x + W @ h) ** 2)
        return da, W.T @ da, np.outer(da, h)

    rng = np.random.default_rng(0)
    found = tg.testing.check_backward(
        forward, backward, rng.normal(size=(3, 2)), rng.normal(size=2), parameters={"W": np.eye(2)}
    )
    assert found.entries == 3 * (2 + 2 + 4)


# --- columns --------------------------------------------------------------------------------------


def columns_forward(x: Any, h: Any, c: Any, W_ih: Any, W_hh: Any, b: Any) -> Any:
    """x of shape (I, B), h and c of shape (H, B), b of shape (4 H, 1)."""
    *state, cache = forward(x.T, h.T, c.T, W_ih.T, W_hh.T, b.ravel())
    return *(part.T for part in state), cache


def columns_backward(dh: Any, dc: Any, cache: Any, rule: Any = backward, mean: bool = False) -> Any:
    *data, db = rule(dh.T, dc.T, cache)
    return *(d.T for d in data), db[:, None]


def column_numbers(batch: int, size: int, units: int) -> Any:
    x, h, c, p = numbers(2, batch, size, units)
    parameters = {"W_ih": p["Wx"].T, "W_hh": p["Wh"].T, "b": p["b"][:, None]}
    return x.swapaxes(1, 2), h.T, c.T, parameters


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("units", [1, 2, 4])
def test_sequences_may_be_columns(batch: int, size: int, units: int) -> None:
    x, h, c, parameters = column_numbers(batch, size, units)
    for each in (x, x[0]):
        assert tg.testing.check_backward(
            columns_forward, columns_backward, each, h, c, parameters, gates="ifog"
        )


@pytest.mark.parametrize(("batch", "size", "units"), [(1, 2, 2), (1, 3, 4), (3, 2, 4), (1, 1, 3)])
def test_weights_distinguish_columns_from_rows(batch: int, size: int, units: int) -> None:
    shapes = {"W_ih": (4 * units, size), "W_hh": (4 * units, units), "b": (4 * units, 1)}
    x, h = np.zeros((size, batch)), np.zeros((units, batch))
    for data, columns in (((x, h), True), ((x.T, h.T), False)):
        layout = Layout.of(tuple("ifgo"), *data, shapes)
        assert (layout.columns, layout.units) == (columns, units)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_mistake_in_columns_is_named(batch: int) -> None:
    x, h, c, parameters = column_numbers(batch, 2, 4)

    def told(wrong: Any) -> str:
        with pytest.raises(tg.GradientCheckError) as error:
            tg.testing.check_backward(
                columns_forward, wrong, x, h, c, parameters, gates="ifog", seed=1
            )
        return str(error.value)

    rule = mistaken(slope_of_tanh=lambda g: 1 - g)
    found = told(lambda dh, dc, cache: columns_backward(dh, dc, cache, rule))
    assert "dW_ih is wrong at step 0, gate g, unit " in found
    assert "mistake: derivative of tanh without the square in gate g" in found

    def without_dh(dh: Any, dc: Any, cache: Any) -> Any:
        dx, dh_prev, *rest = columns_backward(dh, dc, cache)
        moved = dh_prev.copy()
        moved[3, batch - 1] += 1
        return dx, moved, *rest

    assert f"dh is wrong at step 0, sequence {batch - 1}, unit 3" in told(without_dh)

    def not_summed(dh: Any, dc: Any, cache: Any) -> Any:
        return *columns_backward(dh, dc, cache)[:-1], sums(dh.T, dc.T, cache).T

    if batch > 1:
        assert "the sum over the batch is missing" in told(not_summed)


def test_blocks_have_numbers_where_the_gates_have_no_names() -> None:
    x, h, c, parameters = numbers()

    def wrong(dh: Any, dc: Any, cache: Any) -> Any:
        *rest, db = backward(dh, dc, cache)
        return *rest, db + np.eye(len(db))[5]

    with pytest.raises(tg.GradientCheckError, match="db is wrong at step 0, gate 2, unit 1"):
        tg.testing.check_backward(forward, wrong, x, h, c, parameters)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda dc, c, h, new: dc * h, "h instead of c in df"),
        (lambda dc, c, h, new: dc * new, "new c in df"),
    ],
)
def test_a_mistake_in_df_is_named(change: Any, name: str) -> None:
    def wrong(dh: Any, dc: Any, cache: Any) -> Any:
        x, h, c, Wx, Wh, i, f, o, g, c_next = cache
        t = np.tanh(c_next)
        dc = dc + dh * o * (1 - t**2)
        da = [dc * g * i * (1 - i), change(dc, c, h, c_next) * f * (1 - f)]
        da = np.concatenate([*da, dh * t * o * (1 - o), dc * i * (1 - g**2)], axis=-1)
        return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, h.T @ da, da.sum(axis=0)

    assert f"mistake: {name}: " in message(wrong)


# --- what cannot be checked -----------------------------------------------------------------------


def test_too_few_gradients_are_counted() -> None:
    told = message(lambda dh, dc, cache: dh)
    assert (
        "backward returns 1 gradient. It must return the 6 gradients dx, dh, dc, dWx, dWh, db"
        in told
    )
    told = message(lambda dh, dc, cache: {"dx": dh, "dWx": dc})
    assert "backward returns dx and dWx; dh, dc, dWh, db missing. It must return" in told
    told = message(lambda dh, dc, cache: dh @ dc)
    assert "backward fails: ValueError: matmul" in told
    assert "backward returns nothing" in message(lambda dh, dc, cache: {})
    assert "backward returns nothing" in message(lambda dh, dc, cache: None)


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (lambda x, h, c, Wx, Wh, b: h, "return (h, c, cache)"),
        (lambda x, h, c, Wx, Wh, b: (h[:1], c, None), "forward returns h of shape (1, 2)"),
        (lambda x, h, c, Wx, Wh, b: (h.astype("float32"), c, None), "h as float32 at step 0"),
        (lambda x, h, c, Wx, Wh, b: (h / 0, c, None), "not finite"),
        (lambda x, h, c, W: (h, c, W[0]), "forward fails: KeyError: 0"),
        (lambda x, h, c, W, b: (h, c, None), "parameters= has Wx, Wh, b; name there what it takes"),
        (3, "forward is 3, not a function"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_forward_that_cannot_be_used_is_refused(forward: Any, text: str) -> None:
    with pytest.raises((tg.ArgumentError, tg.ShapeError)) as error:
        check(backward, forward)
    assert text in str(error.value)


def test_wrong_arguments_are_refused() -> None:
    x, h, c, parameters = numbers()
    with pytest.raises(tg.ArgumentError, match=r"h is 'a'.*array of real numbers"):
        tg.testing.check_backward(forward, backward, x, "a", c, parameters)
    with pytest.raises(tg.ArgumentError, match=r"parameters has 'x'.*taken"):
        tg.testing.check_backward(forward, backward, x, h, c, {"x": h})
    with pytest.raises(tg.ArgumentError, match=r"x is .*array of real numbers"):
        tg.testing.check_backward(forward, backward, 1j * x, h, c, parameters)
    for wrong in ((c, list(parameters.values())), (parameters, None)):
        with pytest.raises(tg.ArgumentError, match="a dict of arrays by their names, passed as"):
            tg.testing.check_backward(forward, backward, x, h, *wrong)
    with pytest.raises(tg.ArgumentError, match="max_entries 0"):
        tg.testing.check_backward(forward, backward, x, h, c, parameters, max_entries=0)
    for a, b in ((x[:0], h), (x[:, :0], h[:0])):
        with pytest.raises(tg.ShapeError, match="is empty"):
            tg.testing.check_backward(forward, backward, a, b, b, parameters)
    wide = np.zeros((2, 1, 3))
    for a, b in ((x[0, 0], c), (wide, c), (x, c[:1])):
        with pytest.raises(tg.ShapeError, match=r"do not belong together.*x of shape"):
            tg.testing.check_backward(forward, backward, a, h, b, parameters)
