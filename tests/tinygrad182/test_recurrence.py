"""A scan as an operation: its operands, its program, and its backward pass."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, leaf
from tests.tinygrad182.cells import KINDS
from tests.tinygrad182.kernels.cases import Case, loops, make
from tinygrad182.arrays.namespaces import NUMPY
from tinygrad182.tensors import functions

FORMS = pytest.mark.parametrize("form", ["compiled", "NumPy"])
EVERY = pytest.mark.parametrize("kind", KINDS)

# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sums", "saved", "columns"),
    [
        ("lstm", 4, 4, 4),
        ("gru", 4, 4, 4),
        ("tanh", 1, 0, 1),
        ("relu", 1, 0, 1),
        ("identity", 1, 0, 1),
        ("peephole", 4, 4, 7),
        ("minimal", 3, 2, 3),
    ],
)
def test_nothing_is_computed_or_kept_twice(kind: str, sums: int, saved: int, columns: int) -> None:
    """A gate that only uses x + h has one sum; values that follow from states are not kept."""
    scan, params = KINDS[kind]
    program = scan.program(**params)
    assert program is not None
    assert (program.sums, program.saved, program.columns) == (sums, saved, columns)
    assert scan.separate == program.separate == (sums > len(scan.gates))
    x, h = program.x_gates, program.h_gates
    assert sorted(x) == sorted(h) == list(range(len(scan.gates)))
    apart = sums - len(scan.gates)
    assert x[apart:] == h[: len(h) - apart] == program.shared


@EVERY
def test_it_saves_as_much_as_its_program_says(kind: str) -> None:
    case = make(kind, (4, 3, 2, 5))
    _, saved = case.run()
    assert saved.values.shape == (4, 3, case.program.saved * 5)
    assert saved.program is case.program


# --- operands and gradients -----------------------------------------------------------------------


def given(case: Case, make: Any = leaf) -> list[Any]:
    return [make(x) if np.ndim(x) else x for x in case.inputs]


@FORMS
@EVERY
def test_some_gradients_are_those_of_all(form: str, kind: str) -> None:
    """Check each gradient alone, and each pair that one product gives."""
    case = make(kind, (4, 3, 2, 5), "float64", bias="both")
    with loops(form):
        inputs = given(case)
        y = tg.apply(case.scan, *inputs, **case.params)
        every = tg.grad(y, inputs, const(case.g), retain_graph=True)
        for i, j in combinations_with_replacement(range(len(inputs)), 2):
            frozen = [x if k in (i, j) else x.detach() for k, x in enumerate(inputs)]
            z = tg.apply(case.scan, *frozen, **case.params)
            for k in {i, j}:
                (d,) = tg.grad(z, inputs[k], const(case.g), retain_graph=True)
                assert_close(d, every[k], 1e-14, f"{k} of {i} and {j}")


@FORMS
@EVERY
@pytest.mark.parametrize("odd", ["x", "h_0", "weight_hh"])
def test_operands_of_several_types(form: str, kind: str, odd: str) -> None:
    """The result has the type that holds all; each gradient that of its operand."""
    case = make(kind, (4, 3, 2, 5), "float32")
    parts = len(case.scan.parts)
    place = {"x": 0, "h_0": 1, "weight_hh": 2 + parts}[odd]
    case.inputs[place] = case.inputs[place].astype("float64")
    found = []
    for run in (tg.apply, None):
        inputs = given(case)
        with loops(form):
            if run is None:
                y = case.scan.definition(functions, *inputs, **case.params)  # type: ignore[misc]
            else:
                y = run(case.scan, *inputs, **case.params)
        assert y.dtype == "float64"
        y.backward(const(case.g.astype("float64")))
        found.append([y.numpy(), *(x.grad.numpy() for x in inputs if np.ndim(x))])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, 3e-6)


@pytest.mark.parametrize("bias", [1, -2, 1.5, True])
@pytest.mark.parametrize("side", [0, 1])
@EVERY
def test_a_bias_is_an_array_or_0(kind: str, side: int, bias: Any) -> None:
    case = make(kind, (4, 3, 2, 5), bias=False)
    case.inputs[3 + len(case.scan.parts) + side] = bias
    with pytest.raises(tg.errors.ShapeError, match="bias"):
        tg.apply(case.scan, *given(case), **case.params)
    with pytest.raises(ValueError, match="bias"):
        case.scan.definition(functions, *given(case), **case.params)  # type: ignore[misc]


# --- inside the backward pass ---------------------------------------------------------------------


@FORMS
@EVERY
@pytest.mark.parametrize("until", [0, 3, 6])
@pytest.mark.parametrize("window", [2, 9])
def test_a_backward_pass_ends_at_until(form: str, kind: str, until: int, window: int) -> None:
    """A pass that ends at step ``until`` finds the same for its steps as a whole pass."""
    case = make(kind, (7, 3, 2, 5), "float64", lead=(2,), lengths=True)
    with loops(form, steps=window):
        y, saved = case.run()
        operands = NUMPY, case.g, y, tuple(case.inputs), saved, None, True
        some = list(case.scan.inside(*operands, until=until, **case.params))
        every = {w.steps.stop: w for w in case.scan.inside(*operands, **case.params)}
    assert some[-1].steps.start == until
    assert [w.steps.stop for w in some] == [*every][: len(some)]
    for w in some:
        whole, skipped = every[w.steps.stop], w.steps.start - every[w.steps.stop].steps.start
        for name in ("sums", "states"):
            mine, theirs = (getattr(x.sum_cotangents, name) for x in (w, whole))
            assert_same_bits(mine, theirs[..., skipped:, :, :], name)


@FORMS
@EVERY
def test_powers_are_multiplied_by(form: str, kind: str) -> None:
    """One power for all rows changes no digit."""
    case = make(kind, (5, 3, 2, 4), "float32")
    with loops(form):
        plain = case.inside().by_rows()
        raised = case.inside(np.full((5, 3), 1000)).by_rows()
    for name, powers in (("sums", "powers"), ("initial", "initial_powers")):
        a, b = (
            np.ldexp(getattr(d, name).astype("longdouble"), getattr(d, powers)[..., None])
            for d in (plain, raised)
        )
        np.testing.assert_array_equal(a * np.ldexp(np.longdouble(1), 1000), b, err_msg=name)
