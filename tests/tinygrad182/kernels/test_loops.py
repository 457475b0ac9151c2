"""The compiled loops, NumPy's and the definition give the same states and gradients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, host
from tests.tinygrad182.cells import KINDS as CELLS
from tests.tinygrad182.kernels.cases import KINDS, TOLERANCE, loops, make
from tinygrad182 import kernels
from tinygrad182.arrays.namespaces import NUMPY
from tinygrad182.kernels import numpy_loops, runs
from tinygrad182.kernels.powers import exponent_range

FORMS = pytest.mark.parametrize("form", ["compiled", "NumPy"])

UNITS = st.one_of(st.integers(1, 19), st.sampled_from([32, 64, 70]))
"""Some numbers of units fill registers or groups of registers, others leave a rest."""


@FORMS
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 18), UNITS),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
    lead=st.sampled_from([(), (1,), (3,), (2, 2)]),
    bias=st.sampled_from([False, "x", "h", "both"]),
    lengths=st.booleans(),
    window=st.integers(1, 8),
)
def test_loops_equal_the_definition(
    form: str, kind: str, dtype: str, window: int, **options: Any
) -> None:
    case = make(kind, dtype=dtype, **options)
    states, *expected = case.defined()
    with loops(form, steps=window):
        assert_close(case.states(), states, TOLERANCE[dtype], "states")
        found = case.gradients()
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        assert_close(a, b, 10 * TOLERANCE[dtype], f"gradient {i}", floor=1.0)


@FORMS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [False, True])
def test_every_state_has_its_whole_gradient(form: str, kind: str, lengths: bool) -> None:
    """The whole gradient ∂L/∂s_t agrees between the forms of the loops."""
    case = make(kind, (6, 3, 2, 5), "float64", lead=(2,), lengths=lengths)
    with loops("NumPy"):
        expected = case.inside()
    with loops(form):
        found = case.inside()
    for name in ("sums", "initial", "states"):
        assert_close(getattr(found, name), getattr(expected, name), 1e-13, name)
    for name in ("powers", "initial_powers"):  # none has changed
        assert getattr(found, name) == getattr(expected, name) == -exponent_range("float64").middle
    last = np.ldexp(found.states[..., -1, :, :], found.powers)
    g = case.g if len(case.scan.parts) > 1 else case.g[:, None]
    own = np.moveaxis(g, 1, 0)[..., -1, :, :]
    assert_close(last[0], own[0], 1e-15, "the last state gets its own cotangent alone")


@FORMS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_the_way_of_the_definition(
    form: str, kind: str, value: float
) -> None:
    clean = make(kind, (5, 3, 2, 4), "float64")
    broken = make(kind, (5, 3, 2, 4), "float64")
    broken.inputs[0][2, 1, 0] = value
    with np.errstate(all="ignore"):
        states = broken.defined()[0]
    with np.errstate(all="ignore"), loops(form):
        found, other = broken.states(), clean.states()
        found_back, other_back = broken.gradients()[0], clean.gradients()[0]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(states))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(states))
    assert_same_bits(found[..., [0, 2], :], other[..., [0, 2], :], "companions in the batch")
    assert_same_bits(found_back[:, [0, 2]], other_back[:, [0, 2]], "their gradients")


@FORMS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_cotangent_that_is_not_finite_arrives(form: str, value: float) -> None:
    case = make("tanh", (4, 2, 2, 3), "float64")
    case.g[3, 1, 0] = value
    with np.errstate(all="ignore"), loops(form):
        by_x, by_h, *_ = case.gradients()
    assert not np.isfinite(by_x[0, 1]).any()
    assert not np.isfinite(by_h[1]).any()
    assert np.isfinite(by_x[:, 0]).all()


@FORMS
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "tanh", "gru", "peephole"])
def test_any_layout_is_taken(form: str, kind: str, contiguous: bool) -> None:
    case = make(kind, (4, 3, 2, 5), "float64", lengths=True)
    with loops(form):
        expected = case.gradients()
        for i, x in enumerate(case.inputs):
            if not np.ndim(x):
                continue
            wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
            wide[..., ::2] = x
            case.inputs[i] = wide[..., ::2].copy() if contiguous else wide[..., ::2]
            case.inputs[i].flags.writeable = False
        case.g = case.g.copy() if contiguous else np.asfortranarray(case.g)
        case.g.flags.writeable = False
        for a, b in zip(case.gradients(), expected, strict=True):
            assert_close(a, b, 1e-14)


@FORMS
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_broadcast_cotangent(form: str, kind: str) -> None:
    """The gradient of a sum is one number, repeated."""
    case = make(kind, (4, 3, 2, 5), "float64")
    case.g = np.broadcast_to(np.float64(0.5), case.g.shape)
    expected = case.defined()[1:]
    with loops(form):
        for a, b in zip(case.gradients(), expected, strict=True):
            assert_close(a, b, 1e-13)


# --- threads --------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_from_many_threads_at_once(form: str, kind: str) -> None:
    cases = [make(kind, (30, 2, 3, 8), seed=i) for i in range(8)]
    with loops(form):
        expected = [case.gradients() for case in cases]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                found = list(pool.map(lambda case: case.gradients(), cases))
                for some, others in zip(found, expected, strict=True):
                    for a, b in zip(some, others, strict=True):
                        assert_same_bits(a, b)


@FORMS
def test_a_part_of_the_state_that_is_read_by_nobody(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cotangent comes back through it, whatever the reused memory held."""

    class Telling(tg.nn.RecurrentLayer):
        gates = ("z",)
        state = ("h", "gate")

        @staticmethod
        def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
            gate = xp.sigmoid(x + h)
            return (gate * state[0] + xp.tanh(x + h), gate)

    empty, found = np.empty, []

    def with_nan(shape: Any, dtype: Any = float, *given: Any, **options: Any) -> Any:
        array = empty(shape, dtype, *given, **options)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    x = np.random.default_rng(0).normal(size=(5, 3, 2))
    for fused in (True, False):
        layer = Telling(2, 4, rng=0, dtype="float64", fused=fused, return_states=True)
        with loops(form), monkeypatch.context() as patch:
            layer(tg.tensor(x))
            patch.setattr(np, "empty", with_nan)
            _, _, states = layer(tg.tensor(x))
            (states.h.sum() + (states.gate**2).sum()).backward()
        found.append([host(p.grad) for p in layer.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@FORMS
@pytest.mark.parametrize("layer", [tg.nn.LSTM, tg.nn.GRU])
def test_sequences_that_end_in_any_window(
    form: str, layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without recording, steps run window by window, each with the remaining lengths."""
    monkeypatch.setattr(runs, "WINDOW_ROWS", 9)
    monkeypatch.setattr(runs, "WINDOW_SUMS", 1)
    x = tg.tensor(np.random.default_rng(0).normal(size=(11, 3, 2)))
    run = layer(2, 4, rng=0, dtype="float64")
    for lengths in ([11, 2, 7], [4, 6, 5], None):
        with loops(form):
            expected, _ = run(x, lengths=lengths)
            with tg.no_grad():
                found, _ = run(x, lengths=lengths)
        assert_close(found.numpy(), expected.numpy(), 1e-14)


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_other_types_and_libraries_have_numpys_loops(kind: str) -> None:
    program = make(kind, (1, 1, 1, 1)).program
    assert kernels.loops(program, np, np.dtype("complex128")) is numpy_loops
    assert kernels.loops(program, np, np.dtype("longdouble")) is numpy_loops
    with loops("NumPy"):
        assert kernels.loops(program, np, np.dtype("float32")) is numpy_loops


# --- sizes ----------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lead", [(), (2,), (0,)])
def test_a_batch_of_none(form: str, kind: str, lead: tuple[int, ...]) -> None:
    for batch in (0, 2) if lead == (0,) else (0,):
        case = make(kind, (3, batch, 2, 5), lead=lead)
        with loops(form):
            assert case.states().shape[-2:] == (batch, 5)
            arrays_ = [x for x in case.inputs if np.ndim(x)]
            for found, x in zip(case.gradients(), arrays_, strict=True):
                assert found.shape == (*lead, *x.shape)
                assert not found.any()


@FORMS
@pytest.mark.parametrize("kind", ["lstm", "tanh", "gru", "peephole"])
def test_shapes_that_do_not_belong_together(form: str, kind: str) -> None:
    """Compiled loops would read past the end of an array."""
    case = make(kind, (3, 2, 4, 5), lengths=True)
    with loops(form):
        case.states()
        for i, x in enumerate(case.inputs):
            if not np.ndim(x):
                continue
            for wrong in (x[:-1], x[..., :-1], x[None], 1.5):
                if i == 0 and np.shape(wrong)[1:] == x.shape[1:]:
                    continue  # one step less
                operands = [*case.inputs[:i], wrong, *case.inputs[i + 1 :]]
                with pytest.raises(ValueError, match="has shape"):
                    case.scan.forward_with_residuals(NUMPY, *operands, **case.params)  # type: ignore[misc]
                given = [tg.tensor(a) if np.ndim(a) else a for a in operands]
                with pytest.raises(tg.errors.ShapeError):
                    tg.apply(case.scan, *given, **case.params)
        for operands, what in (
            ([case.inputs[0][:0], *case.inputs[1:]], "no steps"),
            ([*case.inputs[:-1], case.inputs[-1] * 1.0], "whole numbers"),
        ):
            with pytest.raises(ValueError, match=what):
                case.scan.forward_with_residuals(NUMPY, *operands, **case.params)  # type: ignore[misc]


def test_an_unknown_nonlinearity() -> None:
    case, scan = make("tanh", (3, 2, 4, 5)), CELLS["tanh"].scan
    with pytest.raises(AttributeError, match="sinus"):
        tg.apply(scan, *case.inputs, nonlinearity="sinus")
