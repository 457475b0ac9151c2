"""Dropout, LayerNorm, ModuleList and ModuleDict, and what a module is asked from PyTorch's habit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, assert_same_bits, const, host, leaf, needs_torch

nn = tg.nn
X = np.random.default_rng(0).normal(size=(4, 3, 5))

# --- Dropout ------------------------------------------------------------------------------------


def test_dropout_is_its_formula() -> None:
    x = leaf(X)
    y = nn.Dropout(0.3, rng=1)(x)
    kept = np.random.default_rng(1).random(X.shape) >= 0.3
    assert_close(y, np.where(kept, X / 0.7, 0.0), 1e-14)
    y.sum().backward()
    assert_close(x.grad, kept / 0.7, 1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_keeps_dtype_mean_and_seed(dtype: str) -> None:
    x = const(np.ones(100_000, dtype))
    first, second, other = (nn.Dropout(0.25, rng=seed)(x) for seed in (3, 3, 4))
    assert_same_bits(first, second)
    assert (host(first) != host(other)).any()
    assert first.dtype == np.dtype(dtype)
    assert (host(first) == 0).mean() == pytest.approx(0.25, abs=5e-3)
    assert host(first).astype(float).mean() == pytest.approx(1, abs=1e-2)


def test_every_call_draws_another_mask() -> None:
    dropout = nn.Dropout(0.5, rng=0)
    twin = copy.deepcopy(dropout)
    x = const(np.ones(50))
    first, second = dropout(x), dropout(x)
    assert (host(first) != host(second)).any()
    assert_same_bits(twin(x), first)
    assert_same_bits(twin(x), second)


def test_dropout_that_does_nothing() -> None:
    x = const(X)
    dropout = nn.Dropout(0.5, rng=0)
    assert dropout.eval()(x) is x
    assert (host(dropout.train()(x)) == 0).any()
    assert nn.Dropout(0.0)(x) is x
    gone = leaf([np.inf, 1.0])  # what is left out has no say, not even infinity
    y = nn.Dropout(1)(gone)
    y.sum().backward()
    assert_same_bits(y, np.zeros(2))
    assert_same_bits(gone.grad, np.zeros(2))
    for p in (-0.1, 1.5, True, "0.5", float("nan")):
        with pytest.raises(tg.ArgumentError, match=r"Dropout: p .*finite number from 0 to 1"):
            nn.Dropout(p)  # type: ignore[arg-type]


def test_what_remat_runs_again_draws_the_same() -> None:
    """Also inside another remat, and where two functions draw from one generator."""
    found = []
    for wrapped in (lambda f: f, tg.remat, lambda f: tg.remat(lambda z: tg.remat(f)(z) * 1.0)):
        dropout, layer = nn.Dropout(0.5, rng=0), nn.Linear(5, 5, rng=0, dtype="float64")
        x = leaf(X)
        step = wrapped(nn.Sequential(layer, tg.tanh, dropout))
        y = step(step(x)) + dropout(x)
        (y * y).sum().backward()
        found.append((y, x.grad, layer.weight.grad, dropout(const(X))))
    for others in found[1:]:
        for mine, plain in zip(others, found[0], strict=True):
            assert_close(mine, plain, 1e-13)


# --- LayerNorm ----------------------------------------------------------------------------------


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


# --- containers ---------------------------------------------------------------------------------


def layers(n: int = 3) -> list[Any]:
    return [nn.Linear(2, 2, rng=i) for i in range(n)]


def test_a_list_of_modules() -> None:
    items = layers()
    found = nn.ModuleList(items[:1]).append(items[1]).extend(items[2:])
    assert list(found) == items
    assert found[-1] is items[2]
    assert len(found) == 3
    assert list(found[1:]) == items[1:]
    found[0] = items[2]
    found.insert(0, items[0])
    assert list(found) == [items[0], items[2], items[1], items[2]]
    names = [name for name, _ in nn.Sequential(found, *layers(1)).named_parameters()]
    assert names[:2] == ["0.0.weight", "0.0.bias"]
    assert len(names) == 8  # a layer that is there twice is named once
    with pytest.raises(tg.ArgumentError, match="ModuleList: a function is not a Module"):
        found.append(tg.tanh)  # type: ignore[arg-type]


def test_a_dict_of_modules() -> None:
    a, b = layers(2)
    found = nn.ModuleDict({"a": a})
    found["b"] = b
    assert found["b"] is b
    assert list(found) == list(found.keys()) == ["a", "b"]
    assert list(found.values()) == [a, b]
    assert list(found.items()) == [("a", a), ("b", b)]
    assert "a" in found
    assert [name for name, _ in found.named_parameters()][::2] == ["a.weight", "b.weight"]
    del found["a"]
    assert len(found) == 1
    for name in ("", "a.b", 3):
        with pytest.raises(tg.ArgumentError, match=r"ModuleDict: the name .* without a dot"):
            found[name] = a


def test_containers_save_as_pytorchs() -> None:
    torch = needs_torch()

    class Both:
        def __init__(self, room: Any) -> None:
            self.items = room.ModuleList([room.Linear(2, 2), room.LayerNorm(2), room.Dropout()])
            self.named = room.ModuleDict({"head": room.Linear(2, 1)})

    class Ours(Both, nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            Both.__init__(self, nn)

    class Theirs(Both, torch.nn.Module):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            Both.__init__(self, torch.nn)

    ours, theirs = Ours(), Theirs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_same_bits(ours.items[0].weight, theirs.items[0].weight.detach().numpy())
    theirs.load_state_dict({k: torch.tensor(host(v)) for k, v in ours.state_dict().items()})


# --- modules ------------------------------------------------------------------------------------


def test_walks_over_modules() -> None:
    inner, last = nn.Sequential(*layers(1)), nn.Linear(2, 1, rng=0)
    model = nn.Sequential(inner, last)
    assert [name for name, _ in model.named_modules()] == ["", "0", "0.0", "1"]
    assert list(model.modules()) == [model, inner, inner[0], last]
    assert list(model.children()) == [inner, last]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    seen: list[Any] = []
    assert model.apply(seen.append) is model
    assert seen == [last, inner[0], inner, model]


def test_freezing_and_thawing() -> None:
    model = nn.Sequential(*layers(2))
    assert model[0].requires_grad_(False) is model[0]  # type: ignore[attr-defined]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    model.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())


def test_functional_computes_what_the_layers_do() -> None:
    f, x = nn.functional, const(X)
    layer = nn.Linear(5, 2, rng=0, dtype="float64")
    assert_same_bits(f.linear(x, layer.weight, layer.bias), layer(x))
    assert_same_bits(f.linear(x, layer.weight), x @ layer.weight.T)
    for name in ("relu", "tanh", "sigmoid", "softmax", "log_softmax"):
        assert_same_bits(getattr(f, name)(x), getattr(tg, name)(x))
    assert f.cross_entropy is nn.cross_entropy
    assert f.mse_loss is nn.mse_loss
