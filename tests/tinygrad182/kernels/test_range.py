"""Values that may count as 0, checked with gradients of unlimited range that vanish, explode and return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles.wide_range import Reference
from tests.support import Array, assert_close, const, write
from tests.tinygrad182.cells import KINDS as CELLS
from tests.tinygrad182.kernels.cases import KINDS, Case, loops, make

FORMS = ("compiled", "NumPy")
REACH = {"float16": 12, "float32": 120, "float64": 1000}


def program(
    kind: str, dtype: str, seed: int, steps: int, batch: int, lengths: bool, spread: float
) -> Case:
    """A case in which every step may shrink and grow every unit's gradient by any factor.

    The inputs bring the sums to chosen values, so that the gates' factors are anything from 1 down to a
    rounding error; weights are powers of two apart.
    """
    draw = np.random.default_rng(seed)
    units = int(draw.integers(1, 5))
    blocks = len(CELLS[kind].scan.gates)
    case = make(
        kind, (steps, batch, blocks * units, units), dtype, seed, bias=True, lengths=lengths
    )
    operands = case.operands
    x, weight_ih, weight_hh = operands.x, operands.weight_ih, operands.weight_hh
    reach = REACH[dtype]
    weight_ih[...] = np.eye(blocks * units)
    sizes = np.exp2(draw.uniform(-1, 1, weight_hh.shape) * spread * reach / 5)
    signs = draw.choice([-1, 0, 0, 1], weight_hh.shape) + np.tile(np.eye(units) * 3, (blocks, 1))
    weight_hh[...] = sizes * np.sign(signs)
    wanted = draw.normal(size=x.shape) * draw.choice([0.3, 1, 4, 8], x.shape)
    for bias in (operands.bias_ih, operands.bias_hh):
        bias *= 0
    for t in range(steps):
        before = case.inputs[1] if not t else _h(case)[t - 1]
        x[t] = wanted[t] - np.float64(before) @ np.float64(weight_hh.T)
    exponents = draw.uniform(-1, 1, (*case.g.shape[:-1], 1)) * reach
    exponents = exponents + draw.uniform(-1, 0, case.g.shape) * spread * reach
    arrives = draw.random(case.g.shape[:-1]) < draw.choice([0.05, 0.5, 1])
    arrives[..., -1, :] = True
    case.g[...] = np.ldexp(case.g.astype("float64"), exponents.astype(int)) * arrives[..., None]
    limit = float(np.finfo(dtype).max)
    np.clip(case.g, -limit, limit, out=case.g)
    return case


def _h(case: Case) -> Any:
    y = case.states()
    return y[0] if y.ndim == 4 else y


@pytest.mark.parametrize("form", FORMS)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    seed=st.integers(0, 1 << 30),
    steps=st.integers(1, 25),
    batch=st.integers(1, 2),
    lengths=st.booleans(),
    spread=st.floats(0, 1),
    window=st.integers(2, 13),
    powers=st.booleans(),
)
def test_programs_of_scales(form: str, window: int, powers: bool, **options: Any) -> None:
    with np.errstate(all="ignore"), loops(form, steps=window):
        case = program(**options)
        reference = Reference(case)
        reference.check(case.inside())
        reference.check_inputs(case.gradients())
        if powers:
            draw = np.random.default_rng(options["seed"])
            given_ = draw.integers(-1500, 1500, case.states().shape[-3:-1])
            Reference(case, given_).check(case.inside(given_))


# --- a unit that vanishes and returns -------------------------------------------------------------

GAIN = 4.0
"""The recurrent weight multiplies a gradient by this; a unit at :data:`SHUT` passes 2**-6 of it."""

SHUT = 2.7725


def returning(dtype: str) -> tuple[Array, int]:
    """Inputs of two tanh units, and the step at which a loss reaches the second.

    The first shrinks its gradient to less than its type holds, and then grows it again.
    """
    shrinks = {"float32": 45, "float64": 350}[dtype]
    wanted = np.zeros((3 * shrinks + 2, 2))
    wanted[2 * shrinks + 1 : -1, 0] = SHUT
    h = np.tanh(wanted)
    x = wanted.copy()
    x[1:] -= h[:-1] * [GAIN, 1]
    return x.astype(dtype)[:, None], shrinks


def returning_case(dtype: str) -> Case:
    x, joins = returning(dtype)
    case = make("tanh", (len(x), 1, 2, 2), dtype, bias=False)
    case.inputs[0][...], case.inputs[1][...] = x, 0
    case.inputs[2][...], case.inputs[3][...] = np.eye(2), np.diag([GAIN, 1])
    case.g[...] = 0
    case.g[-1, 0, 0] = case.g[joins, 0, 1] = 1
    return case


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("window", [None, 17])
def test_what_vanished_and_returned(form: str, dtype: str, window: int | None) -> None:
    """A loss at another step and unit does not hide it, nor in a weight's gradient."""
    with loops(form, steps=window):
        case = returning_case(dtype)
        reference = Reference(case)
        reference.check(case.inside())
        found = case.gradients()
    reference.check_inputs(found)
    first = reference.states.value[:, 0, 0, 0]
    assert first.e.min() < {"float32": -126, "float64": -1022}[dtype]
    assert -9 < first.e[0] < 9
    true = np.ldexp(first.m[0], first.e[0])
    assert_close(found[0][0, 0, 0], true, {"float32": 1e-3, "float64": 1e-9}[dtype])


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_the_gradient_agrees(form: str) -> None:
    """Fused and unrolled, in plain backward and in the flow, float32 agrees with float64."""
    x, joins = returning("float32")
    found = {}
    for dtype, fused, flow in (
        ("float64", False, False),
        ("float32", True, False),
        ("float32", True, True),
        ("float32", False, True),
    ):
        rnn = tg.nn.RNN(2, 2, bias=False, rng=0, dtype=dtype, fused=fused)
        write(rnn.weight_ih_l0, np.eye(2))
        write(rnn.weight_hh_l0, np.diag([GAIN, 1]))
        h_0 = tg.zeros((1, 1, 2), dtype=dtype, requires_grad=True)
        with loops(form):
            h, _ = rnn(const(x.astype(dtype)), h_0)
            loss = h[-1, 0, 0] + h[joins, 0, 1]
            if flow:
                tg.inspect.gradient_flow(loss, backward=True)
            else:
                loss.backward()
        grads = [h_0.grad, rnn.weight_ih_l0.grad, rnn.weight_hh_l0.grad]
        found[dtype, fused, flow] = [g.numpy() for g in grads]
    true = found.pop(("float64", False, False))
    assert 0.01 < abs(true[0][0, 0, 0]) < 100
    for mine in found.values():
        for a, b in zip(mine, true, strict=True):
            assert_close(a, b, 2e-3)


# --- near the largest number there is -------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("share", [0.2, 0.26, 0.45])
@pytest.mark.parametrize("window", [None, 5])
def test_cotangents_near_overflow(form: str, dtype: str, share: float, window: int | None) -> None:
    """They arrive at every step and add up to less than twice as much."""
    case = make("identity", (20, 1, 1, 2), dtype, bias=False)
    case.inputs[0][...] = case.inputs[1][...] = 0
    case.inputs[2][...], case.inputs[3][...] = 1, np.eye(2) / 2
    case.g[..., 0] = share * float(np.finfo(dtype).max)
    case.g[..., 1] = 1
    with loops(form, steps=window):
        by_x, by_h, *_ = case.gradients()
    steps = np.arange(20, 0, -1)
    sums = 2 - 0.5 ** (steps - 1)
    true = sums * float(case.g[0, 0, 0])
    eps = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(by_x[:, 0, 0].astype(dtype) / true, 1, rtol=eps)
    np.testing.assert_allclose(by_h[0].astype(dtype) / [true[0] / 2, sums[0] / 2], 1, rtol=eps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_sums_that_only_raising_would_make_infinite(form: str, lead: tuple[int, ...]) -> None:
    case = make("identity", (9, 2, 3, 4), "float32", lead=lead, gain=0.0)
    case.inputs[0] *= np.float32(2.0**110)
    true = np.einsum("...tbn,tbi->...ni", case.g.astype("float64"), case.inputs[0])
    with loops(form):
        found = case.gradients()
    assert_close(found[2].astype("float64") / 2.0**110, true / 2.0**110, 1e-5)
