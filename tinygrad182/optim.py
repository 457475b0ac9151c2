"""Optimizers and gradient clipping; updates go through ``Tensor.assign``, which backward sees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from . import backend
from ._tensor import Tensor
from .errors import ArgumentError, GraphError, StateDictError, TinygradError, brief
from .host import convert
from .recording import is_tensor, wrap


class Optimizer(ABC):
    """Base: holds the parameters, and for each a dict of what it remembers of past gradients.

    What is remembered follows its parameter: where a model was moved to another device after some steps,
    the next step moves it too. A subclass names its settings, and the arrays and counts it remembers, so
    that they are saved.

    Parameters
    ----------
    parameters : iterable of Tensor
        The leaves to update, such as ``model.parameters()``.
    lr : float
        Learning rate.
    weight_decay : float
        Added to the gradient times the parameter.
    """

    settings: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    arrays: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ()

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

    def _checked(self, name: str, value: Any) -> Any:
        """Return a setting, which must be a finite number from 0."""
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
                    self._bring_to(p, state)
                    g = _in_dtype_of(p, p.grad._data)
                    if self.weight_decay:
                        g = g + self.weight_decay * p._data
                    p.assign(self._updated(p._data, g, state))

    def _bring_to(self, p: Tensor, state: dict[str, Any]) -> None:
        """Move what is remembered of a parameter to its device, if the model has gone to another."""
        kind = type(p._data)
        for name in self.arrays:
            value = state.get(name)
            if type(value) is kind is np.ndarray:
                continue
            if isinstance(value, np.generic):  # 0-d arithmetic leaves NumPy's scalars
                value = np.asarray(value)
            if backend.is_array(value) and backend.namespace(value).device(value) != p.device:
                state[name] = backend.move(value, p.device)

    @abstractmethod
    def _updated(self, value: Any, g: Any, state: dict[str, Any]) -> Any:
        """Return the parameter's next value, given its gradient with the decay in it."""

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that the next step depends on besides parameters and gradients.

        Returns
        -------
        dict
            As in PyTorch: ``"state"`` maps the position of each parameter that was updated before to
            what is remembered of it, on the parameter's device, and ``"param_groups"`` lists one dict
            with the settings.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([w], lr=0.25, momentum=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"]
        {0: {'momentum_buffer': tensor([2.])}}
        >>> optimizer.state_dict()["param_groups"]
        [{'lr': 0.25, 'momentum': 0.5, 'weight_decay': 0.0, 'params': [0]}]
        """
        settings = {name: self._checked(name, getattr(self, name)) for name in self.settings}
        for p, state in zip(self.parameters, self.state, strict=True):
            self._bring_to(p, state)
        return {
            "state": {
                i: {
                    name: _copy_of(value, p) if name in self.arrays else value
                    for name, value in state.items()
                }
                for i, (p, state) in enumerate(zip(self.parameters, self.state, strict=True))
                if state
            },
            "param_groups": [{**settings, "params": list(range(len(self.parameters)))}],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state dict, settings included; nothing is changed if anything is wrong.

        Parameters
        ----------
        state_dict : mapping
            From :meth:`state_dict`, or from PyTorch's optimizer of the same name. The parameters are
            told apart by their positions. Arrays may be on any device: they go to their parameter's.

        Raises
        ------
        StateDictError
            The state of another kind of optimizer, of another number of parameters, or of
            parameters of other shapes; all that is wrong is listed.
        """
        where = f"load_state_dict of {type(self).__name__}"
        try:
            entries = {i: dict(entry) for i, entry in state_dict["state"].items()}
            (group,) = state_dict["param_groups"]
            positions = list(dict.fromkeys(group["params"]))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise StateDictError(
                f"{where}: this is no optimizer's state with one group of parameters; pass an "
                "optimizer's state_dict() (the .optimizer of a file saved without one is None)"
            ) from None
        if len(positions) != len(self.parameters):
            raise StateDictError(
                f"{where}: the state is of {len(positions)} parameters, the optimizer has "
                f"{len(self.parameters)}"
            )
        problems: list[str] = []
        settings = self._read_settings(group, problems)
        state = [
            self._read_state(i, entries.pop(position, {}), problems)
            for i, position in enumerate(positions)
        ]
        problems += [f"state of an unknown parameter {position!r}" for position in entries]
        if problems:
            raise StateDictError(f"{where}: " + "; ".join(problems))
        for name, value in settings.items():
            setattr(self, name, value)
        self.state = state

    def _read_settings(self, group: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """The settings of a state dict; what is wrong with them goes to ``problems``."""
        settings = {}
        for name in self.settings:
            try:
                settings[name] = self._checked(name, group[name])
            except KeyError:
                problems.append(f"missing {name}")
            except TinygradError as error:
                problems.append(str(error))
        for name, value in group.items():
            is_off = isinstance(value, (int, float, type(None))) and not value
            if name not in (*self.settings, "params") and not is_off:
                problems.append(f"unexpected {name} = {brief(value)}")
        return settings

    def _read_state(self, i: int, entry: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """What is remembered of parameter ``i``: all that is needed, or nothing."""
        state: dict[str, Any] = {}
        given = {name: value for name, value in entry.items() if value is not None}
        for name, value in given.items():
            try:
                if name in self.counts:
                    state[name] = _count(value)
                elif name in self.arrays:
                    state[name] = _array_like(value, self.parameters[i])
                else:
                    problems.append(f"unexpected {name} of parameter {i}")
            except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
                problems.append(f"{name} of parameter {i}: {error}")
        if given:
            needed = (*self.counts, *self.arrays)
            problems += [f"missing {name} of parameter {i}" for name in needed if name not in given]
        return state


def _in_dtype_of(p: Tensor, array: Any) -> Any:
    """An array beside a parameter in the parameter's dtype, if that is floating."""
    xp = backend.namespace(p._data)
    return xp.astype(array, p.dtype) if xp.is_floating(p._data) else array


def _copy_of(array: Any, p: Tensor) -> Tensor:
    """What is remembered of a parameter as a Tensor (0-d arithmetic leaves NumPy's scalars)."""
    with backend.on(p._data):
        return wrap(backend.copy(backend.namespace(p._data).asarray(array)))


def _array_like(value: Any, p: Tensor) -> Any:
    """A value from a state dict as an array of its own that goes with a parameter."""
    array = convert(value, p._data, move=True)
    if tuple(array.shape) != p.shape:
        raise ValueError(f"shape {tuple(array.shape)}, the parameter has {p.shape}")
    with backend.on(p._data):
        return backend.copy(array)


def _count(value: Any) -> int:
    """A number of steps, which PyTorch keeps in a floating tensor."""
    count = int(value)
    if count != float(value) or count < 0:
        raise ValueError(f"{brief(value)} is no number of steps")
    return count


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

    settings = ("lr", "momentum", "weight_decay")
    arrays = ("momentum_buffer",)

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
            g = state["momentum_buffer"] = self.momentum * state.get("momentum_buffer", 0.0) + g
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

    settings = ("lr", "betas", "eps", "weight_decay")
    arrays = ("exp_avg", "exp_avg_sq")
    counts = ("step",)

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.betas = self._checked("betas", betas)
        self.eps = self._checked("eps", eps)

    def _checked(self, name: str, value: Any) -> Any:
        if name != "betas":
            return super()._checked(name, value)
        if np.shape(value) != (2,) or not all(
            isinstance(b, (int, float)) and 0 <= b < 1 for b in value
        ):
            raise ArgumentError(f"Adam: betas {value!r} must be two numbers in [0, 1)")
        return tuple(map(float, value))

    def _updated(self, value: Any, g: Any, state: dict[str, Any]) -> Any:
        b1, b2 = self.betas
        if not state:
            state.update(step=0, exp_avg=0.0, exp_avg_sq=0.0)
        state["step"] += 1
        state["exp_avg"] = b1 * state["exp_avg"] + (1 - b1) * g
        state["exp_avg_sq"] = b2 * state["exp_avg_sq"] + (1 - b2) * (g * g)
        mean = state["exp_avg"] / (1 - b1 ** state["step"])
        root = (state["exp_avg_sq"] / (1 - b2 ** state["step"])) ** 0.5
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
        The norm before. On a device the host waits for it, once for all parameters.

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
    norm = math.hypot(*backend.norms([g._data for g in gradients]))
    if error_if_nonfinite and not math.isfinite(norm):
        raise GraphError(f"clip_grad_norm_: the norm of the gradients is {norm}")
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:
        for p in tensors:
            if p.grad is not None:
                p.grad = p.grad.detach() * scale
    return norm
