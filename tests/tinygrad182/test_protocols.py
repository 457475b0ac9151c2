"""NumPy's functions on tensors call our function of the same name, or raise with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, assert_close, const, host_only, leaf
from tinygrad182._suggestions.numpy_names import HINTS

X = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75]])

# what NumPy computes of an array must come out of a tensor, on the graph; beside it is an array a
DIFFERENTIABLE: list[Callable[[Any, Any], Any]] = [
    lambda x, a: np.sin(x),
    lambda x, a: np.tanh(x),
    lambda x, a: np.exp(x),
    lambda x, a: np.absolute(x),
    lambda x, a: np.negative(x),
    lambda x, a: np.square(x),
    lambda x, a: np.add(x, a),
    lambda x, a: np.multiply(a, x),
    lambda x, a: np.maximum(x, 0.3),
    lambda x, a: np.power(np.abs(x), 1.5),
    lambda x, a: np.matmul(x, a.T),
    lambda x, a: np.dot(x, a[0]),
    lambda x, a: np.add.reduce(x),
    lambda x, a: np.add.reduce(x, axis=None),
    lambda x, a: np.multiply.reduce(x, axis=1),
    lambda x, a: np.maximum.reduce(x, axis=-1, keepdims=True),
    lambda x, a: np.sum(x, axis=0),
    lambda x, a: np.mean(x, axis=1, keepdims=True),
    lambda x, a: np.prod(x),
    lambda x, a: np.max(x, axis=1),
    lambda x, a: np.amin(x),
    lambda x, a: np.var(x, axis=0, ddof=1),
    lambda x, a: np.std(x),
    lambda x, a: np.clip(x, -0.6, 0.6),
    lambda x, a: np.where(x > 0, x, 0.0),
    lambda x, a: np.concatenate([x, a]),
    lambda x, a: np.stack([x, x], axis=1),
    lambda x, a: np.reshape(x, (3, 2)),
    lambda x, a: np.transpose(x),
    lambda x, a: np.swapaxes(x, 0, 1),
    lambda x, a: np.expand_dims(x, 1),
    lambda x, a: np.squeeze(np.expand_dims(x, 0)),
    lambda x, a: np.broadcast_to(x, (2, 2, 3)),
    lambda x, a: np.flip(x, axis=1),
    lambda x, a: np.cumsum(x, axis=1),
    lambda x, a: np.einsum("ij,kj->ik", x, a),
    lambda x, a: np.take(x, [0, 2], axis=1),
    lambda x, a: np.outer(x[0], a[1]),
    lambda x, a: a - x,
    lambda x, a: a @ x.T,
    lambda x, a: np.float64(2.0) ** x,
]  # fmt: skip


@pytest.mark.parametrize("f", DIFFERENTIABLE)
def test_numpy_functions_stay_differentiable(f: Callable[[Any, Any], Any]) -> None:
    x = leaf(X)
    y = f(x, array(X))
    assert isinstance(y, tg.Tensor)
    assert_close(y, np.asarray(f(X, X)), 1e-14)
    g = np.random.default_rng(0).standard_normal(y.shape)
    (found,) = tg.grad(y, x, const(g))
    h = 1e-6
    columns = [np.asarray(f(X + h * e, X)) - np.asarray(f(X - h * e, X)) for e in _units()]
    assert_close(
        found, np.array([np.sum(g * c) / (2 * h) for c in columns]).reshape(2, 3), 1e-8, floor=1.0
    )


def test_a_mask_may_be_an_array() -> None:
    x = leaf(X)
    y = np.where(array(X > 0), x, 0.0)
    assert isinstance(y, tg.Tensor)
    assert_close(y, np.where(X > 0, X, 0.0), 0.0)
    assert_close(tg.grad(y.sum(), x)[0], np.where(X > 0, 1.0, 0.0), 0.0)


def _units() -> Any:
    return np.eye(6).reshape(6, 2, 3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, a: np.greater(a, x),
        lambda x, a: np.less(x, a),
        lambda x, a: np.isnan(x),
        lambda x, a: np.argmax(x, axis=1),
        lambda x, a: np.sign(x),
        lambda x, a: np.equal(a, x),
    ],
)
def test_functions_without_a_derivative_give_plain_tensors(f: Callable[[Any, Any], Any]) -> None:
    y = f(leaf(X), array(X))
    assert isinstance(y, tg.Tensor)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), f(X, X))


@pytest.mark.parametrize(
    "f", [lambda m, a: a & m, lambda m, a: m | a, lambda m, a: np.logical_and(a, m)]
)
def test_masks_of_arrays_and_tensors_combine(f: Callable[[Any, Any], Any]) -> None:
    m = f(const(X < 1), array(X > 0))
    assert isinstance(m, tg.Tensor)
    np.testing.assert_array_equal(m.numpy(), f(X < 1, X > 0))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.fft.fft(x),
        lambda x: np.linalg.pinv(x),
        lambda x: np.cov(x),
        np.logaddexp.accumulate,
    ],
)
def test_what_has_no_derivative_here_says_so(f: Callable[[Any], Any]) -> None:
    with pytest.raises(tg.DTypeError, match=r"np\..*x\.detach\(\)"):
        f(leaf(X))
    np.testing.assert_allclose(np.asarray(f(const(X))), f(X))  # without a graph NumPy may have it


@pytest.mark.parametrize("f", [lambda x, o: np.sin(x, out=o), lambda x, o: np.sum(x, out=o)])
def test_out_is_refused(f: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(tg.ArgumentError, match="out="):
        f(leaf(X), np.zeros(()))


def test_arguments_we_do_not_have_are_named() -> None:
    with pytest.raises(tg.ArgumentError, match=r"np\.sum on a Tensor is tg\.sum: .*'where'"):
        np.sum(leaf(X), where=X > 0)


def test_numpy_asserts_and_predicates_take_tensors() -> None:
    np.testing.assert_allclose(const(X), X)
    assert np.allclose(leaf(X), X)
    assert np.array_equal(leaf(X), X)
    assert np.shape(leaf(X)) == (2, 3)
    x = const(X.astype(np.float32))
    assert np.result_type(x, np.float64) == np.float64
    assert np.can_cast(x.dtype, np.float64)
    assert (np.ndim(leaf(X)), np.size(leaf(X))) == (2, 6)
    assert np.isrealobj(leaf(X))
    assert not np.iscomplexobj(leaf(X))
    assert np.count_nonzero(leaf(X)) == 6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((), ()), ((), (2, 3)), ((2, 3), ()), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)),
        ((4, 2, 3), (3,)), ((4, 2, 3), (3, 5)), ((3,), (4, 3, 5)), ((2, 3), (4, 3, 5)),
        ((3, 2, 2), (3, 2, 2)), ((0, 3), (2, 3, 1)),
    ],
)  # fmt: skip
def test_dot_is_that_of_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=a), rng.normal(size=b)
    found = np.dot(leaf(x), leaf(y))
    assert isinstance(found, tg.Tensor)
    assert found.requires_grad
    assert_close(found, np.asarray(np.dot(x, y)), 1e-14)
    assert_close(np.dot(array(x), leaf(y)), np.asarray(np.dot(x, y)), 1e-14)


def test_dot_is_differentiated() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    assert tg.testing.check_gradients(lambda x, y: np.dot(x, y), x, y)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(
    ("f", "remedy"),
    [
        (lambda x: np.multiply(np.matrix(X), x), r"np\.multiply: a matrix .*np\.asarray"),
        (lambda x: np.concatenate([np.matrix(X), x]), r"np\.concatenate: a matrix"),
        (lambda x: np.add(x, np.ma.masked_less(X, 0)), r"np\.add: a MaskedArray .*tg\.where"),
    ],
)
def test_arrays_with_operators_of_their_own_are_refused(
    f: Callable[[Any], Any], remedy: str
) -> None:
    for x in (leaf(X), const(X)):
        with pytest.raises(tg.DTypeError, match=remedy):
            f(x)


@pytest.mark.parametrize("f", [np.sum, np.mean, np.max, np.cumsum, np.transpose])
def test_lists_of_tensors_are_to_be_stacked(f: Callable[[Any], Any]) -> None:
    with pytest.raises(tg.GraphError, match=r"tg\.stack"):
        f([leaf(X), leaf(X)])


# what the hint of a name is to give, if not np.name(x)
CALLS = {
    "block": "np.block([[x, y], [y, x]])",
    "copysign": "np.copysign(x, y)",
    "divmod": "np.divmod(x, y)",
    "insert": "np.insert(x, n, y[:1], axis=0)",
    "meshgrid": "np.meshgrid(v, w)",
    "polyval": "np.polyval(v, x)",
    "resize": "np.resize(x, (4, 3))",
    "vander": "np.vander(v)",
}

ARRAYS = {
    "x": np.array([[1.7, 2.6, 1.2], [2.2, 1.4, 2.9]]),
    "y": np.array([[0.9, 1.1, 2.3], [0.4, 3.0, 0.7]]),
    "v": np.array([2.5, -1.0, 0.5]),
    "w": np.array([1.5, 2.0, 4.0]),
}
OTHERS = {"np": np, "tg": tg, "n": 1}
WITH_NAN = np.array([[1.7, np.nan, -1.2], [2.2, 1.4, np.nan]])


def evaluated(expression: str, names: dict[str, Any]) -> Any:
    """The result of a hint; each name after "with" is computed from those after it."""
    body, *definitions = expression.split(" with ")
    names = dict(names)
    for definition in reversed(definitions):
        name, value = definition.split(" = ")
        names[name] = eval(value, names)
    return eval(body, names)


@pytest.mark.parametrize("name", sorted(HINTS))
def test_what_to_use_gives_what_numpy_would(name: str) -> None:
    arrays = dict(ARRAYS)
    if name.startswith("nan"):
        arrays["x"] = WITH_NAN
    call = CALLS.get(name, f"np.{name}(x)")
    tensors = OTHERS | {k: leaf(v) for k, v in arrays.items()}
    with pytest.raises(tg.DTypeError) as caught:
        eval(call, tensors)
    assert f"np.{name}: " in str(caught.value)
    assert HINTS[name] in str(caught.value)
    found = evaluated(HINTS[name], tensors)
    expected = eval(call, OTHERS | arrays)
    if not isinstance(expected, (list, tuple)):
        found, expected = [found], [expected]
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, tg.Tensor)
        assert_close(a, np.asarray(b), 1e-14)
        assert a.requires_grad or name in ("divmod", "modf")


def test_the_hint_of_a_fourier_transform_is_right() -> None:
    x, n = ARRAYS["x"], 3
    w = 2 * np.pi / n * np.outer(np.arange(n), np.arange(n))
    with pytest.raises(
        tg.DTypeError, match=r"np\.fft\.fft: .*x @ np\.cos\(w\).*-\(x @ np\.sin\(w\)\)"
    ):
        np.fft.fft(leaf(x))
    tensor = leaf(x)
    expected = np.fft.fft(x)
    assert_close(tensor @ array(np.cos(w)), expected.real, 1e-14)
    assert_close(-(tensor @ array(np.sin(w))), expected.imag, 1e-14, floor=1.0)


@pytest.mark.parametrize("f", [np.linalg.inv, np.linalg.svd, np.linalg.det, np.linalg.cholesky])
def test_decompositions_are_refused_with_a_way_out(f: Callable[[Any], Any]) -> None:
    with pytest.raises(
        tg.DTypeError, match=r"decompositions of matrices .*tg\.define.*x\.detach\(\)"
    ):
        f(leaf(np.eye(2)))


@pytest.mark.parametrize("ord", [2, -2, "nuc"])
def test_norms_of_singular_values_are_refused(ord: Any) -> None:
    with pytest.raises(tg.ArgumentError, match=r"norm: ord=.* singular values"):
        np.linalg.norm(leaf(np.eye(2)), ord)


def test_pad_takes_numpys_mode() -> None:
    x = leaf(X)
    assert_close(np.pad(x, 1, "constant"), np.pad(X, 1), 0.0)
    with pytest.raises(tg.ArgumentError, match=r"mode='edge'.*tg\.take\(x, np\.pad"):
        np.pad(x, 1, "edge")
    assert_close(
        tg.take(x, np.pad(np.arange(3), 2, "reflect"), 1),
        np.pad(X, ((0, 0), (2, 2)), "reflect"),
        0.0,
    )


def test_every_call_is_of_a_hint() -> None:
    assert set(CALLS) <= set(HINTS)


@pytest.mark.parametrize(
    "other", [np.ones((1, 2)).view(np.matrix), np.ma.masked_array([1.0, 2.0], [1, 0])]
)
def test_subclasses_with_operators_of_their_own_are_refused(other: Any) -> None:
    x = tg.tensor([1.0, 2.0])
    for call in (lambda: x * other, lambda: tg.add(x, other), lambda: np.multiply(x, other)):
        with pytest.raises(tg.DTypeError, match=type(other).__name__):
            call()


@host_only("NumPy has such classes")
def test_an_array_of_a_class_of_its_own_is_taken_for_its_numbers() -> None:
    class Own(np.ndarray):  # type: ignore[type-arg]
        pass

    x = leaf([1.0, 2.0])
    for own in (np.array([3.0, 4.0]).view(Own), np.ma.masked_array([3.0, 4.0])):
        assert (x * own).tolist() == [3.0, 8.0]
