"""A layer of ours beside PyTorch's with equal weights, and comparisons of the two."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import Array, assert_close, draw, leaf

try:
    import torch
except ImportError:  # tests that use this file call needs_torch(), which skips them
    torch = None

TOLERANCE = 1e-12


def twins(ours: tg.nn.Module, theirs: Any) -> tuple[tg.nn.Module, Any]:
    """Give PyTorch's module the weights of ours, by its own strict loading."""
    state = {
        name: torch.tensor(np.array(value.numpy())) for name, value in ours.state_dict().items()
    }
    theirs.double().load_state_dict(state, strict=True)
    return ours, theirs


def pair(array: Array) -> tuple[tg.Tensor, Any]:
    """One array as a leaf of both libraries."""
    return leaf(array), torch.tensor(array, requires_grad=True)


def host(tensor: Any) -> Array:
    """The values of a PyTorch tensor."""
    return tensor.detach().numpy()


def assert_equal_gradients(
    ours: tg.nn.Module, theirs: Any, tolerance: float = TOLERANCE, dense: bool = True
) -> None:
    """Each of PyTorch's two biases has the gradient of our one; those of a GRU are two here as well."""
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    found = {name: p.grad for name, p in ours.named_parameters()}
    apart = "GRU" in type(ours).__name__
    assert set(found) == {name for name in expected if apart or "bias_hh" not in name}
    for name, gradient in expected.items():
        mine = found[name if apart else name.replace("bias_hh", "bias_ih")]
        assert_close(mine, gradient.numpy(), tolerance, name)
        assert not dense or gradient.abs().max() > 0, f"{name}: nothing was compared"


def flat(results: Any) -> list[Any]:
    """The tensors of a layer's results, states one after the other."""
    if isinstance(results, (tuple, list)):
        return [tensor for part in results for tensor in flat(part)]
    return [results]


def assert_equal_results(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """Output, h_n and c_n."""
    a, b = flat(ours), flat(theirs)
    for name, mine, other in zip(("output", "h_n", "c_n")[: len(b)], a, b, strict=True):
        assert_close(mine, host(other), tolerance, name)


def backward(ours: Any, theirs: Any, seed: int) -> None:
    """Backward through the same loss on both sides, which every result has a part in."""
    a, b = flat(ours), flat(theirs)
    weights = draw(seed, *(tuple(tensor.shape) for tensor in b))
    weights = [w.astype(host(tensor).dtype) for w, tensor in zip(weights, b, strict=True)]
    terms = [(leaf(w).detach() * y**2 + y).sum() for w, y in zip(weights, a, strict=True)]
    sum(terms[1:], terms[0]).backward()
    sum((torch.tensor(w) * y**2 + y).sum() for w, y in zip(weights, b, strict=True)).backward()


def layers_of(kind: str) -> tuple[Any, Any]:
    """The class of that name in both libraries."""
    return getattr(tg.nn, kind), getattr(torch.nn, kind)


def initial_states(
    kind: str, seed: int, *shape: int, dtype: str = "float64"
) -> tuple[Any, Any, list[tuple[Any, Any]]]:
    """Random states in the form each library takes them, and their leaves."""
    parts = draw(seed + 1, *[shape] * (2 if "LSTM" in kind else 1))
    leaves = [pair(a.astype(dtype)) for a in parts]
    if len(leaves) == 1:
        return *leaves[0], leaves
    return tuple(a for a, _ in leaves), tuple(b for _, b in leaves), leaves
