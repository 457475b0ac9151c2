"""Cotangents far outside their type keep their true size, in compiled loops and in NumPy's."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, host, write
from tests.tinygrad182.cells import KINDS as CELLS
from tests.tinygrad182.kernels.cases import Case, digits, loops, make, true_log2
from tinygrad182 import kernels
from tinygrad182.kernels import products
from tinygrad182.kernels.powers import NOTHING, exponent_range, largest_exponent, times_rows
from tinygrad182.kernels.products import NeedsGrad, ProductOperands
from tinygrad182.kernels.runs import StepCotangents

FORMS = ("compiled", "NumPy")
DTYPES = ("float32", "float64")
SCALES = {"float32": 100, "float64": 900}
"""How many powers of two below its row's largest element an element is kept."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def linear(factors: list[float], steps: int, dtype: str, batch: int = 1) -> Case:
    """h_t = h_{t−1} W, all 0, with a diagonal W: its gradients are known to the last bit."""
    case = make("identity", (steps, batch, 1, len(factors)), dtype, bias=False)
    case.inputs[3][...] = np.diag(factors)
    for zero in (case.inputs[0], case.inputs[1], case.g):
        zero[...] = 0
    return case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [-40, -7, 7, 40])
@pytest.mark.parametrize("window", [None, 13])
def test_linear_to_the_last_bit(form: str, dtype: str, power: int, window: int | None) -> None:
    steps = 120
    case = linear([2.0**power] * 3, steps, dtype, batch=2)
    case.g[-1] = np.arange(1.0, 7.0).reshape(2, 3) * np.array([[1], [2.0**-30]])
    with loops(form, steps=window):
        found = case.inside()
    mantissas, exponents = digits(case.g[-1])
    distance = np.arange(steps)[::-1, None, None]
    for array, powers, steps_back in (
        (found.states[0], found.powers, distance),
        (found.initial[0], found.initial_powers, steps),
    ):
        m, e = digits(array, powers)
        np.testing.assert_array_equal(m, np.broadcast_to(mantissas, m.shape))
        np.testing.assert_array_equal(e, exponents + power * steps_back)
    assert abs(power * steps) > 800


@pytest.mark.parametrize("dtype", DTYPES)
def test_smaller_than_the_smallest_normal_number(form: str, dtype: str) -> None:
    case = linear([0.5, 0.5], 4, dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    case.g[-1] = [[tiny, 5 * tiny]]
    with loops(form):
        found = case.inside()
    m, e = digits(found.states[0], found.powers)
    np.testing.assert_array_equal(m, np.broadcast_to([0.5, 0.625], m.shape))
    smallest = math.frexp(tiny)[1] - np.arange(4)[::-1, None, None]
    np.testing.assert_array_equal(e, smallest + np.array([0, 2]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_far_below_their_row(form: str, dtype: str) -> None:
    """Elements are kept down to 2**-100 (2**-900) of the largest; only smaller ones become 0."""
    steps = 500
    case = linear([1.0, 0.125, 0.0], steps, dtype)
    case.g[-1] = 1
    case.g[-1] *= np.asarray(2.0**-40, dtype)
    with loops(form):
        found = case.inside()
    logs = true_log2(found.states[0], found.powers)[:, 0]
    below = 3 * np.arange(steps)[::-1]
    np.testing.assert_array_equal(logs[:, 0], -40)
    exact = below <= SCALES[dtype]
    np.testing.assert_array_equal(logs[exact, 1], -40 - below[exact])
    rest = logs[~exact, 1]
    assert ((rest == -40 - below[~exact]) | (rest == -np.inf)).all()
    assert (rest == -np.inf).any()


@given(
    form=st.sampled_from(FORMS),
    dtype=st.sampled_from(DTYPES),
    terms=st.lists(
        st.tuples(st.floats(0.5, 1.0, width=32), st.integers(-300, 300), st.floats(-1, 0.5)),
        min_size=2,
        max_size=6,
    ),
)
@example(form="compiled", dtype="float32", terms=[(0.5, -110, -1.0), (0.5, -100, 0.5)])
@example(form="NumPy", dtype="float32", terms=[(0.5, -110, -1.0), (0.5, -100, 0.5)])
def test_what_arrives_at_any_power(
    form: str, dtype: str, terms: list[tuple[float, int, float]]
) -> None:
    """h_t = h_{t−1}: a state's gradient is the sum of those after it, whatever powers these have.

    Each comes as a mantissa and its power of two, some of which is in the number itself.
    """
    case = linear([1.0], len(terms), dtype)
    room = SCALES[dtype]
    given_, powers = [], []
    for mantissa, power, share in terms:
        inside = int(share * room)
        given_.append(math.ldexp(mantissa, inside))
        powers.append(power - inside)
    case.g[:, 0, 0] = given_
    with loops(form):
        found = case.inside(np.array(powers)[:, None])
    total = Fraction(0)
    for t in reversed(range(len(terms))):
        mantissa, power, _ = terms[t]
        total += Fraction(mantissa) * Fraction(2) ** power
        exponent = int(np.broadcast_to(found.powers, found.sums.shape[:-1])[t, 0])
        mine = Fraction(float(found.states[0, t, 0, 0])) * Fraction(2) ** exponent
        assert abs(mine / total - 1) < 4 * len(terms) * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lower_power_may_be_the_larger_number(form: str, dtype: str) -> None:
    """A cotangent 2**-2r that has grown to 2**-r meets 2**-1.6r at the power 0."""
    reach = {"float32": 62, "float64": 510}[dtype]
    case = linear([2.0**reach], 2, dtype)
    late, early = -2 * reach - 8, -int(1.6 * reach)
    case.g[:, 0, 0] = [math.ldexp(1, early), 1]
    with loops(form):
        found = case.inside(np.array([[0], [late]]))
    total = math.ldexp(1, early) + math.ldexp(1, late + reach)
    true = math.ldexp(float(found.states[0, 0, 0, 0]), int(found.powers[0, 0]))
    assert abs(true / total - 1) < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("kind", ["lstm", "tanh", "gru", "peephole", "minimal"])
def test_true_sizes_of_a_layer_that_forgets(form: str, kind: str) -> None:
    """Gradients far below float32's range agree with float64, where nothing underflows."""
    found = {}
    for dtype in DTYPES:
        case = make(kind, (60, 3, 2, 8), dtype, gain=0.02)
        case.g[..., :-1, :, :] = 0
        if kind != "tanh":  # the gate by which the state is carried on
            gate, closed = {"gru": (1, -6), "minimal": (0, 6)}.get(kind, (1, -6))
            case.operands.bias_ih[8 * gate : 8 * gate + 8] = closed
        for peephole in case.operands.others:
            peephole *= np.asarray(0.1, dtype)
        with loops(form if dtype == "float32" else "NumPy"):
            found[dtype] = case.inside()
    one, two = (true_log2(found[d].states, found[d].powers) for d in DTYPES)
    assert one[:, 0].max() < -200
    norms = [np.logaddexp2.reduce(2 * logs, axis=-1) / 2 for logs in (one, two)]
    np.testing.assert_allclose(norms[0], norms[1], atol=0.01)  # of a power of two


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("power", [-9, 1])
def test_the_inputs_get_what_their_type_holds(
    form: str, dtype: str, window: int | None, power: int
) -> None:
    """Weights get the rows that count; x_t has its true size at every step, rounded to 0 or ∞."""
    case = make("identity", (80, 2, 3, 4), dtype, bias=True, gain=0.0)
    case.inputs[3][...] = np.diag([2.0**power] * 4)
    case.g[:-1] = 0
    if power > 0:
        case.inputs[0][...] *= np.asarray(2.0**-40, dtype)
        case.g *= np.asarray(2.0**-5, dtype)
    wide = [np.asarray(x, np.longdouble) for x in case.inputs]
    x, h, weight_ih, weight_hh, bias, _ = wide
    states = [h]
    for t in range(80):
        states.append(x[t] @ weight_ih.T + states[-1] @ weight_hh.T + bias)
    dz = [np.longdouble(case.g[-1]) * np.longdouble(2.0) ** (power * t) for t in range(80)][::-1]
    expected = [
        np.stack([d @ weight_ih for d in dz]),
        dz[0] @ weight_hh,
        sum(d.T @ a for d, a in zip(dz, x, strict=True)),
        sum(d.T @ a for d, a in zip(dz, states, strict=False)),
        sum(d.sum(0) for d in dz),
    ]
    with np.errstate(all="ignore"), loops(form, steps=window):
        found = case.gradients()
    eps = float(np.finfo(dtype).eps)
    for a, b in zip(found[2:], expected[2:], strict=True):
        assert_close(np.float64(a), np.float64(b), 200 * eps)
    smallest = float(np.finfo(dtype).smallest_normal)
    steps = [*zip(found[0], expected[0], strict=True), (found[1], expected[1])]
    for a, b in steps:
        assert_close(np.float64(a), np.float64(b), 200 * eps, floor=smallest / eps)


def test_steps_that_do_not_count_are_left_out(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of W_h does not change when steps that do not count are left out."""
    batch, draw = 3, np.random.default_rng(0)
    case = make("identity", (180, batch, 1, 2), bias=False)
    case.inputs[0][...] = 0  # h_t is what h_0 becomes: as much smaller as its gradient is larger
    case.inputs[1][...] = draw.integers(1, 9, (batch, 2)) * 2.0**60
    case.inputs[3][...] = np.eye(2, dtype="float32") / 2
    case.g[...] = draw.integers(1, 9, case.g.shape)
    case.g[:-1] = 0
    count, left_out = products._first_that_counts, []

    def none(*operands: Any) -> int:
        left_out.append(count(*operands) // batch)
        return 0

    with loops(form):
        found = case.gradients()
        monkeypatch.setattr(products, "_first_that_counts", none)
        expected = case.gradients()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 0.0)
    assert 30 < left_out[0] < 60
    assert (np.abs(found[3].diagonal()) > 1e-36).all()


# --- the weights' products ------------------------------------------------------------------------


IDENTITY = CELLS["identity"].scan.program(nonlinearity="identity")
ALL_WEIGHTS = NeedsGrad(False, True, True, True, False, False)


def sums(
    rows: Array, powers: Array, x: Array, h: Array, dtype: str = "float32"
) -> tuple[list[Array], int]:
    """The weights' gradients from cotangents (T, B, N) of the sums, and their power of two."""
    rows, x, h = (a.astype(dtype) for a in (rows, x, h))
    assert rows.shape == h.shape  # a cell of one gate
    found = StepCotangents(rows, powers, np.zeros((1, *h.shape[1:]), dtype), None, None)
    weight = np.zeros((rows.shape[-1], x.shape[-1]), dtype)
    operands = ProductOperands(np, IDENTITY, x, h[0], h, weight, False, ALL_WEIGHTS)
    found = products.products(operands, found)
    by_x, by_h, (by_bias, _), _ = found.by_weights()
    assert by_x[1] == by_h[1] or not h.any()
    return [by_x[0], by_h[0], by_bias], int(by_x[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.0, 0.3, 0.9, -0.3])
@pytest.mark.parametrize("own", [-0.4, 0.0, 0.4])
def test_no_sum_overflows(form: str, dtype: str, size: float, own: float) -> None:
    """No sum overflows, however large inputs, states or rows are. Exponents are shares of the range."""
    draw, limit = np.random.default_rng(0), largest_exponent(dtype)
    rows = draw.uniform(0.5, 1, (9, 4, 3)) * 2.0 ** int(own * limit)
    powers = -np.arange(9)[::-1, None] * 40 + np.zeros((9, 4), int)
    x = draw.uniform(0.5, 1, (9, 4, 2)) * 2.0 ** int((size - max(own, 0)) * limit - 7)
    h = draw.uniform(0.5, 1, (9, 4, 3))
    with loops(form):
        found, power = sums(rows, powers, x, h, dtype)
    wide = (rows * np.exp2(np.longdouble(powers))[..., None]).astype(np.longdouble)
    expected = np.einsum("tbn,tbi->ni", wide, x)
    assert_close(np.ldexp(np.longdouble(found[0]), power) / expected, np.ones((3, 2)), 1e-6)


@pytest.mark.parametrize("zeros", [(), (8,), (8, 7, 6), range(9)])
def test_rows_of_zeros_have_no_power(form: str, zeros: Any) -> None:
    """The other rows count however small they are, also where the last steps are all zeros."""
    rows, powers = np.ones((9, 1, 2)), -200 * np.arange(9)[::-1, None]
    rows[list(zeros)] = 0
    with loops(form):
        found, power = sums(rows, powers, np.ones((9, 1, 1)), np.ones((9, 1, 2)))
    if len(zeros) == 9:
        assert not any(a.any() for a in found)
    else:
        for a in found:
            np.testing.assert_array_equal(np.ldexp(a, power + 200 * len(zeros)), np.ones_like(a))


@given(
    dtype=st.sampled_from(DTYPES),
    width=st.integers(1, 70),
    seed=st.integers(0, 99),
    special=st.sampled_from([0.0, np.nan, np.inf, -np.inf, "tiny"]),
)
def test_rows_measured_and_raised_alike(dtype: str, width: int, seed: int, special: Any) -> None:
    """Compiled loops and NumPy's agree."""
    draw, limit = np.random.default_rng(seed), largest_exponent(dtype)
    rows = (draw.normal(size=(9, width)) * 2.0 ** draw.integers(-30, 30, (9, 1))).astype(dtype)
    rows[1] = 0
    rows[2, -1] = np.finfo(dtype).smallest_normal if special == "tiny" else special
    sizes, lift = draw.integers(-limit - 9, 1, 9), draw.integers(-40, limit - 9)
    exponents = np.frexp(np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=1))[1]
    found = []
    for form in FORMS:
        with loops(form), np.errstate(invalid="ignore"):
            run = kernels.loops(IDENTITY, np, np.dtype(dtype))
            raised = run.at_powers(np, rows, exponents, sizes, lift)
            found.append((run.exponents(np, rows), raised))
    (mine, a), (numpys, b) = found
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(mine == NOTHING, ~rows.any(axis=1))
    np.testing.assert_array_equal(mine > limit, ~np.isfinite(rows).all(axis=1))
    assert ((mine <= numpys) & (numpys <= mine + width.bit_length())).all()
    usual = (mine != NOTHING) & (mine <= limit)
    np.testing.assert_array_equal(mine[usual], np.frexp(np.abs(rows[usual]).max(axis=1))[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_rows_stay_finite_whose_sum_is_not(form: str, dtype: str) -> None:
    """A second row has another power, so that rows are raised."""
    top = 2.0 ** (largest_exponent(dtype) - 3)
    rows, powers = np.full((2, 1, 64), top), np.array([[-60], [0]])
    with loops(form):
        found, power = sums(rows, powers, np.full((2, 1, 1), 0.5), np.zeros((2, 1, 64)), dtype)
    expected = np.full((64, 1), 0.5 * (1 + 2.0**-60))
    assert_close(np.ldexp(np.float64(found[0]) / top, power), expected, 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_are_put_back_to_the_last_bit(dtype: str) -> None:
    """This includes results that are subnormal, or half the smallest number."""
    limit = largest_exponent(dtype)
    powers = np.array([*range(-limit - 60, 4), limit - 3, limit + 9, -9 * limit, 9 * limit])
    rows = np.array([1.0, 1.5, -1.25, 1 + 2.0**-20, 2.0**40, 2.0**-40, 0, np.inf], dtype)
    wide = np.ldexp(rows.astype(np.longdouble), powers[:, None].clip(-4 * limit, 4 * limit))
    with np.errstate(over="ignore"):
        found = times_rows(np, np.tile(rows, (len(powers), 1)), powers)
        np.testing.assert_array_equal(found, wide.astype(dtype))


def test_nothing_arrives(form: str) -> None:
    case = make("lstm", (5, 2, 2, 3))
    case.g[...] = 0
    with loops(form):
        found, gradients = case.inside(), case.gradients()
    assert found.powers == -exponent_range("float32").middle
    for array in (found.sums, found.states, found.initial, *gradients):
        assert not array.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.parametrize("window", [None, 1])
def test_rows_that_meet_zeros_hide_no_other(
    form: str, dtype: str, look: bool, first: float, window: int | None
) -> None:
    """A cotangent 2**80 at step 0, where h_0 is 0, does not hide one of 2**-60 at step 2."""
    w, large, small = {"float32": (-20, 80, -60), "float64": (-200, 700, -500)}[dtype]
    rnn = tg.nn.RNN(1, 1, nonlinearity="identity", bias=False, dtype=dtype)
    write(rnn.weight_hh_l0, 2.0**w)
    write(rnn.weight_ih_l0, 1.0)
    x = np.ones((3, 2, 1), dtype)
    x[0, 0], x[:, 1] = first, 0
    weights = np.zeros((3, 2, 1))
    weights[0], weights[2] = 2.0**large, 2.0**small
    weights[:, 1] = 2.0 ** (large + 20)  # of a sequence that is 0 at all steps
    with loops(form, steps=window):
        loss = (rnn(tg.tensor(x))[0] * tg.tensor(weights, dtype=dtype)).sum()
        parts = host(tg.inspect.weight_grad_by_time(loss, rnn.weight_hh_l0))[:, 0, 0]
        if look:
            tg.inspect.gradient_flow(loss, backward=True)
        else:
            loss.backward()
    expected = 2.0**small * np.array([0, 2.0**w * first, 2.0**w * first + 1])
    assert_close(parts / 2.0**small, expected / 2.0**small, 1e-6)
    assert_close(host(rnn.weight_hh_l0.grad)[0, 0] / 2.0**small, expected.sum() / 2.0**small, 1e-6)
    by_x = first * (2.0**large + 2.0 ** (small + 2 * w)) + 2.0 ** (small + w) + 2.0**small
    assert_close(host(rnn.weight_ih_l0.grad)[0, 0] / by_x, np.float64(1), 1e-6)


def test_windows_that_meet_zeros_have_no_power(form: str) -> None:
    """The other windows' norms are beyond float32 and true; states vanish within four steps."""
    rnn = tg.nn.RNN(1, 1, nonlinearity="identity", bias=False)
    write(rnn.weight_hh_l0, 2.0**-40)
    write(rnn.weight_ih_l0, 1.0)
    x = np.zeros((8, 1, 1), "float32")
    x[0] = 1
    with loops(form, steps=1):
        loss = rnn(tg.tensor(x))[0][-1].sum()
        norms = tg.inspect.weight_grad_by_time(loss, rnn.weight_hh_l0, norm_only=True)
    assert_close(norms * 2.0**240, np.array([0, 1, 1, 1, 1, 0, 0, 0]), 1e-6)


def test_a_weight_that_no_state_is_multiplied_by_counts_every_row(form: str) -> None:
    """The largest row, that of the first step, counts too, though the state before it is 0."""

    class Gained(tg.nn.RecurrentLayer):
        gates = ("z",)
        state = ("h",)
        weights = ("gain",)

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any, gain: Any) -> Any:
            return (gain * (x + h),)

    found = []
    for fused in (True, False):
        layer: Any = Gained(2, 3, bias=False, rng=0, dtype="float64", fused=fused)
        layer.gain_l0.data[...] = [1, 2, 1.5]
        layer.weight_hh_l0.data[...] = 1e20 * np.eye(3)
        layer.weight_ih_l0.requires_grad = False
        x = np.zeros((8, 2, 2))
        x[0] = 1
        with loops(form):
            output, _ = layer(tg.tensor(x))
            output[-1].sum().backward()
        found.append(layer.gain_l0.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-13)
