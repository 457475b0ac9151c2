"""The optimizers SGD, Adam and AdamW: how each computes the next value of a parameter.

Groups, settings and state dicts are in :mod:`.optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from .._numbers import real_number
from ..errors import ArgumentError, brief
from ..tensors.tensor import Tensor
from .optimizer import GroupSetting, Optimizer

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class SGD(Optimizer):
    """Stochastic gradient descent: p ← p − lr · v, with v ← momentum · v + g.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dicts
        See :class:`Optimizer`.
    lr : float
        Learning rate.
    momentum : float
        0 for gradient descent without momentum.
    weight_decay : float
        This number times the parameter is added to the gradient.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> optimizer = tg.optim.SGD([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.5], requires_grad=True)
    """

    settings = ("lr", "momentum", "weight_decay")
    arrays = ("momentum_buffer",)
    momentum: Any = GroupSetting()

    def __init__(
        self, parameters: Parameters, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def _updated(self, value: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> Any:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * value
        if momentum := group["momentum"]:
            g = state["momentum_buffer"] = momentum * state.get("momentum_buffer", 0.0) + g
        return value - group["lr"] * g


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with PyTorch's defaults.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dicts
        See :class:`Optimizer`.
    lr : float
        Learning rate.
    betas : (float, float)
        Decay of the running means of the gradient and of its square.
    eps : float
        Added to the root of the second mean.
    weight_decay : float
        This number times the parameter is added to the gradient; :class:`AdamW` subtracts it from the
        parameter instead.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> optimizer = tg.optim.Adam([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.5], requires_grad=True)
    """

    settings = ("lr", "betas", "eps", "weight_decay")
    arrays = ("exp_avg", "exp_avg_sq")
    counts = ("step",)
    betas: Any = GroupSetting()
    eps: Any = GroupSetting()

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _checked(self, name: str, value: Any) -> Any:
        if name != "betas":
            return super()._checked(name, value)
        is_sequence = isinstance(value, (tuple, list, np.ndarray))
        betas = tuple(map(real_number, value)) if is_sequence else ()
        if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
            raise ArgumentError(
                f"{type(self).__name__}: betas {brief(value)} must be two numbers in [0, 1)"
            )
        return betas

    def _updated(self, value: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> Any:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * value
        return value - group["lr"] * self._direction(g, state, group)

    def _direction(self, g: Any, state: dict[str, Any], group: dict[str, Any]) -> Any:
        """The running mean over the root of the running mean square, both corrected for starting at 0."""
        b1, b2 = group["betas"]
        if not state:
            state.update(step=0, exp_avg=0.0, exp_avg_sq=0.0)
        n = state["step"] = state["step"] + 1
        mean = state["exp_avg"] = b1 * state["exp_avg"] + (1 - b1) * g
        square = state["exp_avg_sq"] = b2 * state["exp_avg_sq"] + (1 - b2) * (g * g)
        return mean / (1 - b1**n) / ((square / (1 - b2**n)) ** 0.5 + group["eps"])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    The decay lr · weight_decay · p is subtracted from the parameter; the running means do not include it.

    Parameters
    ----------
    parameters, lr, betas, eps
        See :class:`Adam`.
    weight_decay : float
        0.01, as in PyTorch.

    Raises
    ------
    ArgumentError
        Parameters or groups are not valid, a beta is outside [0, 1), or another number is below 0.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> optimizer = tg.optim.AdamW([w], lr=0.5, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.25], requires_grad=True)
    """

    implied: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _updated(self, value: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> Any:
        if group["weight_decay"]:
            value = value * (1 - group["lr"] * group["weight_decay"])
        return value - group["lr"] * self._direction(g, state, group)
