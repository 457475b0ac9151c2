"""Optimizers and gradient clipping; updates go through ``Tensor.assign``, which backward sees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import backend
from ._tensor import Tensor
from .errors import ArgumentError, GraphError
from .recording import is_tensor


class Optimizer(ABC):
    """Base: holds the parameters, and one dict of state arrays per parameter.

    Parameters
    ----------
    parameters : iterable of Tensor
        The leaves to update, such as ``model.parameters()``.
    lr : float
        Learning rate.
    weight_decay : float
        Added to the gradient times the parameter.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        name = type(self).__name__
        if is_tensor(parameters) or not isinstance(parameters, Iterable):
            raise ArgumentError(
                f"{name}: parameters must be a list of tensors; pass model.parameters() or [tensor]"
            )
        self.parameters = list(parameters)
        if not self.parameters:
            raise ArgumentError(
                f"{name}: no parameters to optimize (an iterator can be read only once)"
            )
        if not all(is_tensor(p) and p.is_leaf for p in self.parameters):
            raise ArgumentError(f"{name}: parameters must be leaf tensors; pass model.parameters()")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ArgumentError(
                f"{name}: a parameter is given twice and would be updated twice in a step; "
                "leave the second out (model.parameters() names a shared one once)"
            )
        self.lr = self._checked("lr", lr)
        self.weight_decay = self._checked("weight_decay", weight_decay)
        self.state: list[dict[str, Any]] = [{} for _ in self.parameters]

    def _checked(self, name: str, value: Any) -> float:
        """Return a hyperparameter, which must be a finite number from 0."""
        if (
            not isinstance(value, (int, float, np.integer, np.floating))
            or not 0 <= value < math.inf
        ):
            raise ArgumentError(
                f"{type(self).__name__}: {name} {value!r} must be a finite number from 0"
            )
        return float(value)

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for p, state in zip(self.parameters, self.state, strict=True):
            if p.grad is not None:
                with backend.on(p._data):
                    g = p.grad._data
                    if self.weight_decay:
                        g = g + self.weight_decay * p._data
                    p.assign(self._updated(p._data, g, state))

    @abstractmethod
    def _updated(self, value: Any, g: Any, state: dict[str, Any]) -> Any:
        """Return the parameter's next value, given its gradient with the decay in it."""


class SGD(Optimizer):
    """Stochastic gradient descent: p ← p − lr · v, with v ← momentum · v + g.

    Parameters
    ----------
    parameters, lr, weight_decay
        As for :class:`Optimizer`.
    momentum : float
        0 for plain descent.

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

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.momentum = self._checked("momentum", momentum)

    def _updated(self, value: Any, g: Any, state: dict[str, Any]) -> Any:
        if self.momentum:
            g = state["velocity"] = self.momentum * state.get("velocity", 0.0) + g
        return value - self.lr * g


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with PyTorch's defaults.

    Parameters
    ----------
    parameters, lr, weight_decay
        As for :class:`Optimizer`.
    betas : (float, float)
        Decay of the running means of the gradient and of its square.
    eps : float
        Added to the root of the second.

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

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        if np.shape(betas) != (2,) or not all(
            isinstance(b, (int, float)) and 0 <= b < 1 for b in betas
        ):
            raise ArgumentError(f"Adam: betas {betas!r} must be two numbers in [0, 1)")
        self.betas = betas
        self.eps = self._checked("eps", eps)

    def _updated(self, value: Any, g: Any, state: dict[str, Any]) -> Any:
        b1, b2 = self.betas
        if not state:
            state.update(step=0, mean=0.0, square=0.0)
        state["step"] += 1
        state["mean"] = b1 * state["mean"] + (1 - b1) * g
        state["square"] = b2 * state["square"] + (1 - b2) * (g * g)
        mean = state["mean"] / (1 - b1 ** state["step"])
        root = (state["square"] / (1 - b2 ** state["step"])) ** 0.5
        return value - self.lr * (mean / (root + self.eps))


def clip_grad_norm_(parameters: Any, max_norm: Any, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients together so that their joint 2-norm is at most ``max_norm``.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
    error_if_nonfinite : bool
        Raise when the norm is infinite or NaN, instead of scaling by it.

    Returns
    -------
    float
        The norm before.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w / 2).sum().backward()
    >>> tg.optim.clip_grad_norm_([w], 1.0)
    5.0
    """
    tensors = [parameters] if is_tensor(parameters) else parameters
    tensors = list(tensors) if isinstance(tensors, Iterable) else [None]
    if not all(is_tensor(p) for p in tensors):
        raise ArgumentError("clip_grad_norm_: parameters must be Tensors; pass model.parameters()")
    if not isinstance(max_norm, (int, float)) or not max_norm >= 0:
        raise ArgumentError(f"clip_grad_norm_: max_norm {max_norm!r} must be a number from 0")
    gradients = [p.grad for p in tensors if p.grad is not None]
    norm = math.hypot(*(backend.norm(g._data) for g in gradients))
    if error_if_nonfinite and not math.isfinite(norm):
        raise GraphError(f"clip_grad_norm_: the norm of the gradients is {norm}")
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:
        for p in tensors:
            if p.grad is not None:
                p.grad = p.grad.detach() * scale
    return norm
