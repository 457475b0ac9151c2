"""Splits of gradients that float32 cannot represent agree with those of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import Array, const, host

T = 250
inspect = tg.inspect


def loss_of(layer: Any, dtype: str, scale: float) -> tg.Tensor:
    rng = np.random.default_rng(1)
    x = const((scale * rng.normal(size=(T, 2, 2))).astype(dtype))
    return layer(x)[0][-1].sum()


def twins(kind: str, layers: int = 1, radius: float = 0.4) -> list[tuple[Any, tg.Tensor]]:
    """One layer in float64 and in float32, and a loss at its last step."""
    make: Any = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM}[kind]
    options: dict[str, Any] = {} if kind == "lstm" else {"nonlinearity": "identity", "bias": False}
    first = make(2, 4, layers, rng=0, **options)
    if kind == "rnn":
        for k in range(layers):
            tg.nn.init.scale_to_spectral_radius_(getattr(first, f"weight_hh_l{k}"), radius)
    found = []
    for dtype in ("float64", "float32"):
        twin = make(2, 4, layers, dtype=dtype, rng=0, **options)
        twin.load_state_dict(first.state_dict())
        found.append((twin, loss_of(twin, dtype, float(radius < 1))))
    return found


VANISHING = [("rnn", 1, 0.4), ("rnn", 2, 0.4), ("lstm", 1, 0.4), ("lstm", 2, 0.4)]


def out_of_range(norms: Array) -> bool:
    norms = norms[norms > 0]
    return bool(norms.min() < 1e-46 or norms.max() > 1e50)


@pytest.mark.parametrize(("kind", "layers", "radius"), [*VANISHING, ("rnn", 1, 3.0)])
def test_shares(kind: str, layers: int, radius: float) -> None:
    """In the lower of two layers, the local part comes through the upper layer, and vanishes too."""
    (_, double), (_, single) = twins(kind, layers, radius)
    for path, stack in inspect.gradient_flow(double).items():
        expected, found = inspect.path_split(double, path), inspect.path_split(single, path)
        for name in stack:
            assert out_of_range(stack[name].grad_norm)
            for part, shares in found[name].shares.items():
                wanted = expected[name].shares[part]
                assert np.isfinite(shares).all()
                size = sum(np.abs(s) for s in expected[name].shares.values()).max()
                np.testing.assert_allclose(shares, wanted, atol=2e-4 * size)
                array = found[name].parts[part]
                assert array.dtype == np.float32
                held = (stack[name].grad_norm > 1e-30) & (stack[name].grad_norm < 1e30)
                assert 20 < held.sum() < T
                scale = stack[name].grad_norm[held, None, None]
                np.testing.assert_allclose(
                    host(array)[held] / scale,
                    host(expected[name].parts[part])[held] / scale,
                    atol=2e-4 * size,
                )


@pytest.mark.parametrize("layers", [1, 2])
def test_hops(layers: int) -> None:
    """The pure cell path, and paths that leave it a few times."""
    (_, double), (_, single) = twins("lstm", layers)
    expected, found = (
        inspect.grad_by_hops(loss, 4, state="c", path="lstm.l0").grad_norm
        for loss in (double, single)
    )
    assert out_of_range(expected)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(("kind", "layers", "radius"), VANISHING)
def test_weights_by_time(kind: str, layers: int, radius: float) -> None:
    """This includes W_x, which multiplies all steps in one product."""
    (a, double), (b, single) = twins(kind, layers, radius)
    names = ("weight_ih_l0", "weight_hh_l0")
    for name, weight in ((n, getattr(a, n)) for n in names):
        expected = inspect.weight_grad_by_time(double, weight, norm_only=True)
        twin = getattr(b, name)
        found = inspect.weight_grad_by_time(single, twin, norm_only=True)
        assert out_of_range(expected)
        np.testing.assert_array_equal(found > 0, expected > 0)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        whole = inspect.weight_grad_by_time(single, twin)
        assert whole.dtype == np.float32
        np.testing.assert_allclose(
            np.linalg.norm(host(whole)[-5:].reshape(5, -1), axis=1), expected[-5:], rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_an_input_before_long_silence(kind: str) -> None:
    """Only the first step has a part of W_x; the bias, on which all steps have an effect, hides none."""
    x = np.zeros((T, 2, 1))
    x[0] = 1.0
    found = []
    for dtype in ("float64", "float32"):
        layer = getattr(tg.nn, kind)(1, 16, rng=0).to(dtype=dtype)
        loss = layer(const(x.astype(dtype)))[0][-1].sum()
        for per_sample in (False, True):
            norms = inspect.weight_grad_by_time(
                loss, layer.weight_ih_l0, norm_only=True, per_sample=per_sample
            )
            assert 0 < norms[0].max() < 1e-46
            assert not norms[1:].any()
            found.append(norms[0].max())
    np.testing.assert_allclose(found[2:], found[:2], rtol=1e-2)


def test_a_gradient_of_exactly_zero_has_no_shares() -> None:
    layer = tg.nn.RNN(2, 3, rng=0)
    output, _ = layer(const(np.ones((4, 1, 2), np.float32)))
    split = inspect.path_split(output[-1].sum() * 0.0)["h"]
    assert all(np.isnan(share).all() for share in split.shares.values())


def test_what_is_not_finite_stays_beside_what_is() -> None:
    """This holds also beside gradients that float32 cannot represent."""
    w = tg.ones(3, requires_grad=True)
    h = const(np.ones((1, 3), np.float32))
    for t in range(2):
        h = inspect.mark(h * w, "h", t)
    last = const(np.float32([0.0, 0.0, 1.0]))
    loss = (h * const(np.float32([np.inf, 2.0, 0.0]))).sum() + (h * last * 1e-30 * 1e-30).sum()
    split = inspect.path_split(loss)["h"]
    np.testing.assert_array_equal(host(split.parts["local"])[1], [[np.inf, 2.0, 0.0]])
    assert np.isnan(split.shares["local"][1])
