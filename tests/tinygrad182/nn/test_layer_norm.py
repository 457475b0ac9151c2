"""LayerNorm: its formula, PyTorch's names, half precision and wrong shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, host, leaf, needs_torch

nn = tg.nn


X = np.random.default_rng(0).normal(size=(4, 3, 5))


@pytest.mark.parametrize("shape", [5, (5,), (3, 5), [4, 3, 5]])
def test_layer_norm_is_its_formula(shape: Any) -> None:
    layer = nn.LayerNorm(shape, eps=1e-3, dtype="float64")
    sizes = np.broadcast_shapes(shape if isinstance(shape, int) else tuple(shape))
    axes = tuple(range(-len(sizes), 0))
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=sizes), rng.normal(size=sizes)
    layer.weight.assign(w)
    layer.bias.assign(b)
    mean, var = X.mean(axes, keepdims=True), X.var(axes, keepdims=True)
    assert_close(layer(const(X)), (X - mean) / np.sqrt(var + 1e-3) * w + b, 1e-13)
    tg.testing.check_gradients(layer, leaf(X))


def test_layer_norm_goes_as_pytorchs() -> None:
    torch = needs_torch()
    for options in ({}, {"elementwise_affine": False}, {"bias": False}):
        ours = nn.LayerNorm((3, 5), dtype="float64", **options)  # type: ignore[arg-type]
        theirs = torch.nn.LayerNorm((3, 5), dtype=torch.float64, **options)
        x, z = leaf(X), torch.tensor(X, requires_grad=True)
        y, y_2 = ours(x), theirs(z)
        (y * y * y).sum().backward()
        (y_2 * y_2 * y_2).sum().backward()
        assert_close(y, y_2.detach().numpy(), 1e-12)
        assert_close(x.grad, z.grad.numpy(), 1e-11)
        for name, p in theirs.named_parameters():
            assert_close(dict(ours.named_parameters())[name].grad, p.grad.numpy(), 1e-11)


def test_layer_norm_in_half_precision() -> None:
    """Elements of 1,000 have squares, and 1,000 of them a sum, beyond float16."""
    x = leaf(np.float16(1000) + np.arange(1000, dtype=np.float16))
    y = nn.LayerNorm(1000, dtype="float16")(x)
    values = host(x).astype(np.float64)
    exact = (values - values.mean()) / values.std()
    np.testing.assert_allclose(host(y), exact, rtol=2e-3, atol=1e-3)
    assert y.dtype == np.float16
    y.sum().backward()
    assert np.isfinite(host(x.grad)).all()


def test_layer_norm_refuses() -> None:
    for shape in ((), (0,), -1, 2.5):
        with pytest.raises(tg.ArgumentError, match="LayerNorm: normalized_shape"):
            nn.LayerNorm(shape)  # type: ignore[arg-type]
    with pytest.raises(tg.ArgumentError, match="LayerNorm: eps -1"):
        nn.LayerNorm(2, eps=-1)
    with pytest.raises(tg.ShapeError, match=r"LayerNorm: .*\(2, 4\).*last axes.*\(5,\)"):
        nn.LayerNorm(5)(np.ones((2, 4), np.float32))
