"""Initial values: their distribution, their bits, and the spectral radius."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, assert_close, assert_same_bits, const

init = tg.nn.init


def parameter(*shape: int, dtype: str = "float64") -> tg.nn.Parameter:
    return tg.nn.Parameter(np.zeros(shape, dtype))


def test_layers_draw_in_float64_and_round() -> None:
    """The documented recipe, drawn again by hand: uniform in ±1/√H, in the order of the names."""
    rnn = tg.nn.RNN(2, 5, 2, rng=11)
    draw, bound = np.random.default_rng(11), 1 / np.sqrt(5)
    for p in rnn.parameters():
        assert_same_bits(p, draw.uniform(-bound, bound, p.shape).astype(np.float32))
    linear = tg.nn.Linear(7, 3, rng=12)
    draw, bound = np.random.default_rng(12), 1 / np.sqrt(7)
    for p in linear.parameters():
        assert_same_bits(p, draw.uniform(-bound, bound, p.shape).astype(np.float32))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 0.5, 3.0]))
def test_orthogonal(rows: int, columns: int, gain: float) -> None:
    p = parameter(rows, columns)
    assert init.orthogonal_(p, gain, rng=3) is p
    w = p.numpy()
    gram = w @ w.T if rows <= columns else w.T @ w
    assert_close(gram, gain**2 * np.eye(min(rows, columns)), 1e-14)
    if rows == columns:
        assert init.spectral_radius(p) == pytest.approx(gain, rel=1e-13)


def test_orthogonal_is_uniform() -> None:
    """Without the signs of R's diagonal, the mean of Q's diagonal would not be 0."""
    rng = np.random.default_rng(0)
    diagonals = [init.orthogonal_(parameter(2, 2), rng=rng).numpy().diagonal() for _ in range(3000)]
    assert np.abs(np.mean(diagonals, axis=0)).max() < 5 * np.sqrt(0.5 / 3000)


@given(st.integers(1, 8), st.sampled_from([1e-3, 0.5, 1.0, 1.2, 40.0]), st.integers(0, 99))
def test_scaling_to_a_spectral_radius(n: int, radius: float, seed: int) -> None:
    p = parameter(n, n)
    init.normal_(p, rng=seed)
    before = p.numpy().copy()
    assert init.scale_to_spectral_radius_(p, radius) is p
    assert np.abs(np.linalg.eigvals(p.numpy())).max() == pytest.approx(radius, rel=1e-12)
    assert_close(p.numpy() / np.abs(p.numpy()).max(), before / np.abs(before).max(), 1e-14)


def test_spectral_radius_of_a_rotation_and_of_a_triangle() -> None:
    rotation = np.array([[0.0, -2.0], [2.0, 0.0]])  # a complex pair
    assert init.spectral_radius(rotation) == pytest.approx(2.0, rel=1e-15)
    assert init.spectral_radius(const(np.array([[0.5, 1e6], [0.0, -0.7]]))) == pytest.approx(0.7)
    assert np.isnan(init.spectral_radius([[np.nan, 0.0], [0.0, 1.0]]))


def test_scaling_a_float32_matrix_is_as_good_as_its_type() -> None:
    p = parameter(20, 20, dtype="float32")
    init.normal_(p, rng=0)
    init.scale_to_spectral_radius_(p, 1.0)
    assert init.spectral_radius(p) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_filling(dtype: str) -> None:
    def bits(p: tg.Tensor) -> Array:
        assert p.dtype == np.dtype(dtype)
        assert p.requires_grad
        return p.numpy().copy()

    p = parameter(30, 40, dtype=dtype)
    uniform = bits(init.uniform_(p, -2.0, 3.0, rng=5))
    assert_same_bits(uniform, np.random.default_rng(5).uniform(-2, 3, (30, 40)).astype(dtype))
    normal = bits(init.normal_(p, 1.0, 0.5, rng=5))
    assert_same_bits(normal, np.random.default_rng(5).normal(1, 0.5, (30, 40)).astype(dtype))
    assert (bits(init.constant_(p, 0.25)) == 0.25).all()


def test_filling_goes_through_the_framework() -> None:
    """A graph recorded before then refuses backward, instead of giving a wrong gradient."""
    p = tg.nn.Parameter([[2.0]])
    loss = (p * p).sum()
    init.constant_(p, 1.0)
    with pytest.raises(tg.InPlaceError):
        loss.backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: init.orthogonal_(parameter(3)),
            tg.ShapeError,
            r"orthogonal_: shape \(3,\).*matrix",
        ),
        (lambda: init.spectral_radius(np.ones((2, 3))), tg.ShapeError, r"\(2, 3\) is not a square"),
        (lambda: init.spectral_radius(np.ones((0, 0))), tg.ShapeError, r"\(0, 0\)"),
        (lambda: init.scale_to_spectral_radius_(parameter(2, 3), 1.0), tg.ShapeError, "square"),
        (lambda: init.scale_to_spectral_radius_(parameter(2, 2), 1.0), tg.ArgumentError, "another"),
        (lambda: init.scale_to_spectral_radius_(parameter(2, 2), -1.0), tg.ArgumentError, "-1"),
        (lambda: init.scale_to_spectral_radius_(parameter(2, 2), np.inf), tg.ArgumentError, "inf"),
        (lambda: init.scale_to_spectral_radius_(parameter(2, 2), np.nan), tg.ArgumentError, "nan"),
        (lambda: tg.nn.Linear(1, 1, rng=-1), tg.ArgumentError, "rng -1"),
        (lambda: tg.nn.RNN(1, 1, rng="seed"), tg.ArgumentError, "rng 'seed'"),
    ],
)
def test_errors(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
