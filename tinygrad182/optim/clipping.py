"""Clipping of gradients: by their joint norm, or each element by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .._numbers import check_number
from .._suggestions.calls import explains_calls
from ..arrays import backend
from ..engine.recording import Leaf, is_tensor, wrap
from ..errors import ArgumentError, GraphError
from ..tensors.tensor import Tensor


@explains_calls
def clip_grad_norm_(
    parameters: Any, max_norm: Any, norm_type: Any = 2.0, error_if_nonfinite: bool = True
) -> float:
    """Scale all gradients together so that their joint norm is at most ``max_norm``.

    Gradients are divided by their largest element before they are squared, and the norm is a float64. So it
    is right even if squares, or the norm itself, are beyond the dtype of the gradients.

    Parameters
    ----------
    parameters : iterable of Tensor
        Parameters without a gradient are skipped.
    max_norm : float
    norm_type : float
        The p of the p-norm: 2, 1, another number from 1, or ``inf`` for the largest magnitude.
    error_if_nonfinite : bool
        Whether a gradient with infinity or NaN raises. If not, no gradient is changed, and the returned
        norm is infinite or NaN.

    Returns
    -------
    float
        The norm before clipping. The host waits for a device once for all parameters.

    Raises
    ------
    GraphError
        A gradient is not finite; the message names its parameter.
    ArgumentError
        There are no parameters (an iterator can be read only once), or a number is out of range.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> tg.optim.clip_grad_norm_([w], 1.0)
    5.0
    """
    op = "clip_grad_norm_"
    given = _listed(parameters, op)
    largest = check_number(op, "max_norm", max_norm, infinite=True)
    power = check_number(op, "norm_type", norm_type, least=1, infinite=True)
    clipped = [p for p in given if p.grad is not None]
    parts = backend.tops_and_sums(
        [p.grad._data for p in clipped],  # type: ignore[union-attr]
        1.0 if power == math.inf else power,
    )
    tops = [top for top, _ in parts]
    if not all(map(math.isfinite, tops)):
        if error_if_nonfinite:
            raise GraphError(_not_finite(op, given, clipped, tops))
        return math.nan if any(map(math.isnan, tops)) else math.inf
    top = max(tops, default=0.0)
    rest = 1.0  # the norm divided by the largest element
    if power < math.inf and top:
        rest = math.fsum(total * (t / top) ** power for t, total in parts) ** (1 / power)
    if largest < top * rest + 1e-6:
        # in two steps, because the whole factor may be too small for a dtype
        root = 1 / math.sqrt(top) if top > 1 else 1.0
        second = largest / (rest * (top * root * root) + 1e-6 * root * root)
        for p in clipped:
            _scale(p, root, second)
    return top * rest


@explains_calls
def clip_grad_value_(parameters: Any, clip_value: Any) -> None:
    """Limit every element of all gradients to [−``clip_value``, ``clip_value``]; NaN stays NaN.

    Parameters
    ----------
    parameters : iterable of Tensor
        Parameters without a gradient are skipped.
    clip_value : float

    Raises
    ------
    ArgumentError
        There are no parameters (an iterator can be read only once), or the limit is not a number from 0.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([3.0, -4.0], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> tg.optim.clip_grad_value_([w], 3.5)
    >>> w.grad
    tensor([ 3. , -3.5])
    """
    given = _listed(parameters, "clip_grad_value_")
    limit = check_number("clip_grad_value_", "clip_value", clip_value, infinite=True)
    for p in given:
        if p.grad is not None:
            p.grad = p.grad.detach().clip(-limit, limit)


def _listed(parameters: Any, op: str) -> list[Tensor]:
    tensors = [parameters] if is_tensor(parameters) else parameters
    tensors = list(tensors) if isinstance(tensors, Iterable) else [None]
    if not all(is_tensor(p) for p in tensors):
        raise ArgumentError(f"{op}: parameters must be Tensors; pass model.parameters()")
    if not tensors:
        raise ArgumentError(f"{op}: no parameters to clip (an iterator can be read only once)")
    return tensors


def _not_finite(op: str, given: list[Tensor], clipped: list[Tensor], tops: list[float]) -> str:
    """Return a message that names the gradients that are not finite."""
    places = {id(p): i for i, p in enumerate(given)}
    bad = [(p, top) for p, top in zip(clipped, tops, strict=True) if not math.isfinite(top)]
    named = []
    for p, top in bad[:3]:
        label = p._node.name if isinstance(p._node, Leaf) else ""
        named.append(f"{label or f'parameter {places[id(p)]}'} {p.shape} holds {top}")
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    norm = math.nan if any(math.isnan(top) for _, top in bad) else math.inf
    return (
        f"{op}: the norm of the gradients is {norm}: the gradient of {', '.join(named)}{more}; find the "
        "operation with tg.detect_anomaly(), or pass error_if_nonfinite=False and skip the step"
    )


def _scale(p: Tensor, root: float, factor: float) -> None:
    """Multiply a gradient by root² · factor, in several steps if the product is too small for its dtype."""
    assert p.grad is not None
    array, whole = p.grad._data, root * root * factor
    with backend.on(array):
        wide = backend.widened(array)
        scaled = wide * whole if whole > _SMALLEST else wide * root * root * factor
        p.grad = wrap(backend.namespace(array).astype(scaled, array.dtype))


_SMALLEST = 2.0**-100
"""A factor above this is far from the smallest normal float32."""
