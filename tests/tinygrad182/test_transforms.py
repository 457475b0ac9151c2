"""vjp, jvp, jacobian and hessian of functions of several inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import derivatives
from tests.support import (
    assert_close,
    assert_same_bits,
    const,
    leaf,
    write,
)

W = np.array([[0.3, -0.7], [1.1, 0.2]])
X = np.array([0.4, -0.9])


def _layer(x: Any, w: Any) -> Any:
    return tg.tanh(x @ w)


def _pair(x: Any, w: Any) -> Any:
    h = _layer(x, w)
    return h, (h * h).sum()


# --- several inputs and outputs -----------------------------------------------------------------


def test_vjp_of_two_outputs_by_two_inputs() -> None:
    out, pull = tg.vjp(_pair, const(X), const(W))
    assert isinstance(out, tuple)
    g, s = np.array([2.0, -1.0]), np.array(3.0)
    for _ in range(2):  # it may be called again
        found = pull(const(g), const(s))
        for i, d in enumerate(found):
            parts = [
                derivatives.complex_jacobians(lambda *xs, k=k: _pair(*xs)[k], [X, W])[i]
                for k in (0, 1)
            ]
            expected = np.tensordot(g, parts[0], 1) + s * parts[1]
            assert_close(d, expected, 1e-14)
            assert not d.requires_grad


def test_jvp_of_two_outputs_by_two_inputs() -> None:
    vs = [np.array([1.0, -2.0]), np.array([[0.5, 1.0], [0.0, -1.0]])]
    out, tangents = tg.jvp(_pair, [const(X), const(W)], [const(v) for v in vs])
    assert isinstance(out, tuple)
    assert isinstance(tangents, tuple)
    for k in (0, 1):
        expected = derivatives.complex_jvp(lambda *xs, k=k: _pair(*xs)[k], [X, W], vs)
        assert_close(tangents[k], expected, 1e-14)


def test_inputs_that_do_not_matter_and_outputs_that_do_not_depend() -> None:
    _, pull = tg.vjp(lambda a, b: (a * 2, const([7.0])), const([1.0]), const(W))
    da, db = pull(const([3.0]), const([1.0]))
    assert da.tolist() == [6.0]
    assert_same_bits(db, np.zeros((2, 2)))
    _, (first, second) = tg.jvp(lambda a: (a * 2, const([7.0])), const([1.0]), const([1.0]))
    assert first.tolist() == [2.0]
    assert second.tolist() == [0.0]
    assert tg.jacobian(lambda a: const([7.0, 8.0]), const(X)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert tg.hessian(lambda a: a.sum(), const(X)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert tg.hessian(lambda a: const(7.0) * 1, const(X)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_identity() -> None:
    assert tg.jacobian(lambda x: x, const(X)).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    _, pull = tg.vjp(lambda x: x, const(X))
    assert pull(const([3.0, 4.0]))[0].tolist() == [3.0, 4.0]
    _, tangent = tg.jvp(lambda x: x, const(X), const([3.0, 4.0]))
    assert isinstance(tangent, tg.Tensor)
    assert tangent.tolist() == [3.0, 4.0]


def test_numbers_and_arrays_are_taken() -> None:
    assert tg.jvp(lambda x: x**3, 2.0, 1.0)[1].item() == 12.0  # type: ignore[union-attr]
    assert tg.vjp(lambda x: x**3, 2.0)[1](1.0)[0].item() == 12.0
    assert_close(tg.jacobian(_square, const(X).data), np.diag(2 * X), 1e-15)
    assert tg.jvp(_square, const(X).data, const(X).data)[1].dtype == tg.float64  # type: ignore[union-attr]


def _square(x: Any) -> Any:
    return x * x


# --- tensors from outside, inputs that depend on one another ------------------------------------


def test_functions_may_close_over_recorded_tensors() -> None:
    w = leaf(W)
    scaled = w * 2  # an intermediate result outside

    def f(x: Any) -> Any:
        return tg.tanh(x @ scaled)

    expected = derivatives.complex_jacobians(lambda x: tg.tanh(x @ const(2 * W)), [X])[0]
    assert_close(tg.jacobian(f, const(X)), expected, 1e-14)
    _, tangent = tg.jvp(f, const(X), const([1.0, 0.0]))
    assert_close(tangent, expected[:, 0], 1e-14)
    (pulled,) = tg.vjp(f, const(X))[1](const([1.0, 0.0]))
    assert_close(pulled, expected[0], 1e-14)
    # and the graph outside is still there
    scaled.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_one_input_may_depend_on_another() -> None:
    """Derivatives stop at the inputs: h is not differentiated through its dependence on w."""
    w = leaf(3.0)
    h = w * w
    out, pull = tg.vjp(lambda w, h: w * h, w, h)
    dw, dh = pull(const(1.0))
    assert (out.item(), dw.item(), dh.item()) == (27.0, 9.0, 3.0)  # type: ignore[union-attr]
    _, tangent = tg.jvp(lambda w, h: w * h, [w, h], [const(1.0), const(0.0)])
    assert tangent.item() == 9.0  # type: ignore[union-attr]
    # the results are recorded, for w requires grad: d(dw + dh)/dw, through h, is 2w + 1
    (second,) = tg.grad(dw + dh, w)
    assert second is not None
    assert second.item() == 7.0


def test_results_are_recorded_when_the_point_requires_grad() -> None:
    x = leaf(X)
    cube = tg.jacobian(lambda x: x**3, x)
    (g,) = tg.grad(cube.sum(), x)
    assert_close(g, 6 * X, 1e-14)
    _, tangent = tg.jvp(lambda x: x**3, x, const([1.0, 1.0]))
    (g,) = tg.grad(tangent.sum(), x)  # type: ignore[union-attr]
    assert_close(g, 6 * X, 1e-14)
    hessian = tg.hessian(lambda x: (x**3).sum(), x)
    (g,) = tg.grad(hessian.sum(), x)
    assert_close(g, np.full(2, 6.0), 1e-14)


def test_results_are_recorded_when_the_direction_requires_grad() -> None:
    v = leaf([1.0, 2.0])
    _, tangent = tg.jvp(lambda x: x**3, const(X), v)
    (g,) = tg.grad(tangent.sum(), v)  # type: ignore[union-attr]
    assert_close(g, 3 * X**2, 1e-14)
    _, pull = tg.vjp(lambda x: x**3, const(X))
    (pulled,) = pull(v)
    (g,) = tg.grad(pulled.sum(), v)
    assert_close(g, 3 * X**2, 1e-14)


def test_transforms_nest() -> None:
    """Forward over reverse, reverse over forward, and Jacobian of Jacobian give the Hessian."""

    def f(x: Any) -> Any:
        return (tg.tanh(x @ const(W)) ** 2).sum()

    def gradient(x: Any) -> Any:
        return tg.vjp(f, x)[1](1.0)[0]

    hessian = tg.hessian(f, const(X)).numpy()
    assert_close(hessian, hessian.T, 1e-14)
    assert_close(tg.jacobian(lambda x: tg.jacobian(f, x), const(X)), hessian, 1e-14)
    for k, unit in enumerate(np.eye(2)):
        _, column = tg.jvp(gradient, const(X), const(unit))
        assert_close(column, hessian[:, k], 1e-13)
        (row,) = tg.vjp(lambda x, u=unit: tg.jvp(f, x, const(u))[1], const(X))[1](1.0)
        assert_close(row, hessian[k], 1e-13)


def test_forward_mode_through_indexing_in_a_gradient() -> None:
    """The derivative of an index is a scatter, whose own forward mode is needed here."""
    key = [0, 0, 1]

    def f(x: Any) -> Any:
        return (x[key] ** 3).sum() + (x[1:] ** 2).sum()

    for point in (const(X), leaf(X)):
        _, tangent = tg.jvp(lambda x: tg.vjp(f, x)[1](1.0)[0], point, const([1.0, 1.0]))
        assert_close(tangent, np.array([12 * X[0], 6 * X[1] + 2]), 1e-14)


def test_the_point_may_change_between_vjp_and_its_use() -> None:
    """``vjp`` records a copy: the derivative is that at the values of its call."""
    for x in (const(X), leaf(X)):
        _, pull = tg.vjp(lambda x: x * x, x)
        write(x, 100.0)
        assert_close(pull(const([1.0, 1.0]))[0], 2 * X, 1e-15)


def test_a_jacobian_of_many_axes_and_of_none() -> None:
    point = np.arange(6.0).reshape(1, 2, 3)
    y = tg.jacobian(lambda x: tg.permute_dims(x * x, (2, 0, 1)), const(point))
    assert y.shape == (3, 1, 2, 1, 2, 3)
    assert tg.jacobian(lambda x: x.sum(), const(point)).shape == (1, 2, 3)
    assert tg.jacobian(lambda x: x * tg.ones(3), const(2.0)).shape == (3,)
    assert tg.hessian(lambda x: x**3, const(2.0)).item() == 12.0


def test_values_are_those_of_the_function() -> None:
    x = const(X)
    out, _ = tg.vjp(_layer, x, const(W))
    again, _ = tg.jvp(_layer, [x, const(W)], [x, const(W)])
    assert_same_bits(out, _layer(x, const(W)))
    assert_same_bits(again, out)


def test_no_grad_outside_does_not_matter() -> None:
    with tg.no_grad():
        assert_close(tg.jacobian(_square, const(X)), np.diag(2 * X), 1e-15)
        assert_close(tg.vjp(_square, const(X))[1](const(X))[0], 2 * X * X, 1e-15)
        assert_close(tg.jvp(_square, const(X), const(X))[1], 2 * X * X, 1e-15)
        assert_close(tg.hessian(lambda x: (x**3).sum(), const(X)), np.diag(6 * X), 1e-15)


def test_leaves_outside_keep_their_gradients() -> None:
    x = leaf(X)
    tg.jacobian(_square, x)
    tg.vjp(_square, x)[1](const(X))
    assert x.grad is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_are_kept(dtype: str) -> None:
    x = const(X.astype(dtype))
    assert str(tg.jacobian(_square, x).dtype) == dtype
    assert str(tg.hessian(lambda x: _square(x).sum(), x).dtype) == dtype
    assert str(tg.jvp(_square, x, const(X))[1].dtype) == dtype  # type: ignore[union-attr]
    assert str(tg.vjp(_square, x)[1](const(X))[0].dtype) == dtype


def test_a_penalty_on_a_jacobian_reaches_the_weights() -> None:
    """∂/∂W Σ_ij J_ij for J = ∂tanh(v W)/∂v, by hand: J_ij = (1 − y_i²) W_ji."""
    w = tg.tensor(np.array([[0.5, -0.3], [0.2, 0.8]]), requires_grad=True)
    v = tg.tensor(np.array([1.0, 2.0]))
    tg.jacobian(lambda v: tg.tanh(v @ w), v).sum().backward()
    y = np.tanh(v.numpy() @ w.numpy())
    d = 1 - y * y
    expected = d[None, :] - 2 * (y * d * w.numpy().sum(0))[None, :] * v.numpy()[:, None]
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-13)
    with tg.no_grad():
        assert not tg.jacobian(lambda v: tg.tanh(v @ w), v).requires_grad


def test_a_tangent_passes_a_condition_that_is_not_a_mask() -> None:
    x, v = tg.tensor([1.0, 0.0]), tg.tensor([3.0, 5.0])
    _, tangent = tg.jvp(lambda x: tg.where(x, x * 2, 0.0), x, v)
    assert tangent.tolist() == [6.0, 0.0]
    _, tangent = tg.jvp(lambda x: tg.where(x, 1.0, 0.0), x, v)
    assert tangent.tolist() == [0.0, 0.0]


def test_derivatives_by_what_a_function_does_not_use_are_zeros_of_their_shapes() -> None:
    x, w = tg.ones(3), tg.tensor([2.0, 5.0], requires_grad=True)
    for f in (lambda x: tg.ones(2), lambda x: w * 1):
        found = tg.jacobian(f, x)
        assert found.tolist() == [[0.0] * 3] * 2
    out, tangent = tg.jvp(lambda x: (x * 2, w * 1, tg.ones(4)), x, tg.ones(3))
    assert isinstance(out, tuple)
    assert [t.tolist() for t in tangent] == [[2.0] * 3, [0.0] * 2, [0.0] * 4]
    _, pull = tg.vjp(lambda a, b: a * 2, x, w)
    assert [g.tolist() for g in pull(tg.ones(3))] == [[2.0] * 3, [0.0] * 2]
