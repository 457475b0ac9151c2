"""The base of optimizers: groups of parameters with their settings, remembered arrays, state dicts.

:mod:`.algorithms` has the formulas of SGD, Adam and AdamW; :mod:`.lr_scheduler` changes ``lr``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from .._numbers import check_number
from .._suggestions.calls import ExplainsCalls, unknown_name
from .._suggestions.torch_names import OPTIMIZER
from ..arrays import backend
from ..engine.host import convert
from ..engine.recording import is_tensor, wrap
from ..errors import ArgumentError, StateDictError, TinygradError, brief
from ..nn.module import clear_gradients
from ..tensors.tensor import Tensor


class GroupSetting:
    """An attribute of an optimizer that reads and writes a setting of all groups, such as ``lr``."""

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer | None, owner: type[Optimizer]) -> Any:
        if optimizer is None:
            return self
        values = [group[self.name] for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise ArgumentError(
                f"{type(optimizer).__name__}: the groups differ in {self.name}; "
                f"read optimizer.param_groups[0][{self.name!r}]"
            )
        return values[0]

    def __set__(self, optimizer: Optimizer, value: Any) -> None:
        checked = optimizer._checked(self.name, value)
        for group in optimizer.param_groups:
            group[self.name] = checked


def in_groups(groups: Sequence[Mapping[str, Any]], name: str) -> str:
    """Text of a setting for a repr: one value if the groups agree, otherwise the value of each group.

    >>> in_groups([{"lr": 0.1}, {"lr": 0.01}], "lr")
    '0.1 | 0.01'
    """
    given = [group.get(name) for group in groups]
    values = [f"{value:.6g}" if isinstance(value, float) else brief(value) for value in given]
    if len(set(values)) == 1:
        return values[0]
    return " | ".join(values if len(values) <= 4 else [*values[:3], "…"])


class Optimizer(ExplainsCalls, ABC):
    """Base of all optimizers: the parameters, and a state for each, made from past gradients.

    A state follows its parameter: if the model has moved to another device or changed its dtype, the next
    step converts the state. For a parameter in half precision, the state and the computation are in
    ``float32``; only the result is rounded. A subclass defines ``_updated``, and names its settings and the
    arrays and counts of a state, so that they are saved.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dicts
        The leaves to update, such as ``model.parameters()``. A dict has ``"params"``, one or several
        leaves, and the settings that differ for them.
    **settings
        Numbers such as ``lr``, one for each name in ``settings``.

    Attributes
    ----------
    param_groups : list of dict
        The groups, each with ``"params"`` and its settings, which you may change between steps. If all
        groups agree, a setting is also an attribute: ``optimizer.lr``.
    parameters : list of Tensor
        The parameters of all groups.
    """

    settings: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    arrays: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[Mapping[str, Any]] = {}
    """Settings of PyTorch that are fixed here, and their values."""

    lr: Any = GroupSetting()
    weight_decay: Any = GroupSetting()

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], **settings: Any
    ) -> None:
        name = type(self).__name__
        if is_tensor(parameters) or not isinstance(parameters, Iterable):
            raise ArgumentError(
                f"{name}: parameters must be a list of tensors; pass model.parameters() or [tensor]"
            )
        given: list[Any] = list(parameters)
        if not given:
            raise ArgumentError(
                f"{name}: no parameters to optimize (an iterator can be read only once)"
            )
        self._defaults = {name: self._checked(name, settings[name]) for name in self.settings}
        self.param_groups: list[dict[str, Any]] = []
        self.state: list[dict[str, Any]] = []
        grouped = all(isinstance(group, Mapping) for group in given)
        for group in given if grouped else [{"params": given}]:
            self.add_param_group(group)

    def __repr__(self) -> str:
        groups = self.param_groups
        settings = [f"{name}={in_groups(groups, name)}" for name in self.settings]
        count, several = len(self.parameters), "s" * (len(groups) > 1)
        size = f"{count} parameter{'s' * (count > 1)} in {len(groups)} group{several}"
        return f"{type(self).__name__}({', '.join([*settings, size])})"

    def add_param_group(self, group: Any) -> None:
        """Add more parameters, with the settings in the dict.

        Parameters
        ----------
        group : mapping
            ``"params"``, one or several leaves, and settings. A missing setting is the optimizer's.

        Examples
        --------
        >>> import tinygrad182 as tg
        >>> body, head = tg.nn.Linear(2, 2, rng=0), tg.nn.Linear(2, 1, rng=1)
        >>> optimizer = tg.optim.SGD(body.parameters(), lr=0.1)
        >>> optimizer.add_param_group({"params": head.parameters(), "lr": 0.01})
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.01]
        """
        name = type(self).__name__
        params = group.get("params", ()) if isinstance(group, Mapping) else ()
        several = params if isinstance(params, Iterable) else ()
        new = [params] if is_tensor(params) else list(several)
        if not new:
            raise ArgumentError(
                f"{name}: a group is a dict with 'params', at least one tensor "
                "(an iterator can be read only once)"
            )
        if not all(is_tensor(p) and p.is_leaf for p in new):
            raise ArgumentError(f"{name}: parameters must be leaf tensors; pass model.parameters()")
        every = [*self.parameters, *new]
        if len({id(p) for p in every}) < len(every):
            raise ArgumentError(
                f"{name}: a parameter is given twice and would be updated twice in a step; "
                "pass it once (model.parameters() yields a shared parameter once)"
            )
        for setting in group:
            if setting != "params" and setting not in self.settings:
                known = ", ".join(self.settings)
                raise ArgumentError(f"{name}: a group has no setting {setting!r}; use {known}")
        own = {key: self._checked(key, value) for key, value in group.items() if key != "params"}
        self.param_groups.append({"params": new, **self._defaults, **own})
        self.state += [{} for _ in new]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def _checked(self, name: str, value: Any) -> Any:
        """Return a setting after a check; it must be a finite number from 0."""
        return check_number(self, name, value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters; with ``set_to_none=False`` they become zeros."""
        clear_gradients(self.parameters, set_to_none)

    def step(self) -> None:
        """Update every parameter that has a gradient, one after the other.

        After an interrupt some parameters are updated and the others are not; to avoid this, every step
        would have to copy all parameters.

        Raises
        ------
        ArgumentError
            A setting in a group is not a number, or parameters were appended to a group.
        """
        groups = self.param_groups
        if len(self.state) != sum([len(group["params"]) for group in groups]):
            raise ArgumentError(
                f"{type(self).__name__}: param_groups have {len(self.parameters)} parameters, but only "
                f"{len(self.state)} were added; call optimizer.add_param_group({{'params': [p]}})"
            )
        states, updated = iter(self.state), self._updated
        try:
            for group in groups:
                for p in group["params"]:
                    state, gradient, array = next(states), p.grad, p._data
                    if gradient is not None:
                        with backend.on(array):
                            value = backend.widened(array)
                            if state:
                                self._move_state(p, value, state)
                            g = _as_dtype_of(value, gradient._data)
                            p.assign(updated(value, g, state, group))
        except TypeError:
            for group in groups:
                for name in self.settings:
                    self._checked(name, group[name])
            raise

    def _move_state(self, p: Tensor, value: Any, state: dict[str, Any]) -> None:
        """Move the state of a parameter to its device and dtype, if the model has changed them."""
        for name in self.arrays:
            old = state.get(name)
            if type(old) is type(value) is np.ndarray and old.dtype is value.dtype:
                continue
            if isinstance(old, np.generic):  # 0-d arithmetic leaves NumPy's scalars
                old = np.asarray(old)
            if backend.is_array(old):
                if backend.namespace(old).device(old) != p.device:
                    old = backend.move(old, p.device)
                state[name] = _as_dtype_of(value, old)

    @abstractmethod
    def _updated(self, value: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> Any:
        """Return a parameter's next value from its gradient, its state and its group's settings."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            unknown_name(self, name, OPTIMIZER, type(self).__name__)

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copy everything that the next step depends on besides parameters and gradients.

        Returns
        -------
        dict
            The keys are PyTorch's: ``"state"`` maps the position of each parameter that has been updated to
            its state, on the parameter's device; ``"param_groups"`` lists the settings of each group.

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
        parameters = self.parameters
        for p, state in zip(parameters, self.state, strict=True):
            with backend.on(p._data):
                self._move_state(p, backend.widened(p._data), state)
        groups, positions = [], iter(range(len(parameters)))
        for group in self.param_groups:
            settings = {
                name: self._checked(name, group[name])
                for name in (*self.settings, *_OF_SCHEDULES)
                if name in group
            }
            groups.append({**settings, "params": [next(positions) for _ in group["params"]]})
        return {
            "state": {
                i: {
                    name: _copy_of(value, p) if name in self.arrays else value
                    for name, value in state.items()
                }
                for i, (p, state) in enumerate(zip(parameters, self.state, strict=True))
                if state
            },
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state dict, settings included; nothing is changed if anything is wrong.

        Parameters
        ----------
        state_dict : mapping
            From :meth:`state_dict`, or from PyTorch's optimizer of this name. Parameters are identified by
            their positions. Arrays may be on any device; they go to the device of their parameter.

        Raises
        ------
        StateDictError
            The state belongs to another kind of optimizer, or to other numbers or shapes of parameters. The
            message lists everything that is wrong.
        """
        where = f"load_state_dict of {type(self).__name__}"
        try:
            entries = {i: dict(entry) for i, entry in state_dict["state"].items()}
            groups = [dict(group) for group in state_dict["param_groups"]]
            positions = [list(dict.fromkeys(group["params"])) for group in groups]
            _first, *_ = groups
        except (TypeError, KeyError, ValueError, AttributeError):
            raise StateDictError(
                f"{where}: this is not an optimizer's state, which has 'state' and at least one group in "
                "'param_groups'; pass an optimizer's state_dict() (the .optimizer of a file saved without "
                "an optimizer is None)"
            ) from None
        sizes = [len(group["params"]) for group in self.param_groups]
        if (found := list(map(len, positions))) != sizes:
            raise StateDictError(
                f"{where}: the state has {_sizes(found)}, the optimizer {_sizes(sizes)}"
            )
        problems: list[str] = []
        settings = [self._read_settings(group, problems) for group in groups]
        state = [
            self._read_state(i, p, entries.pop(position, {}), problems)
            for i, (p, position) in enumerate(
                zip(self.parameters, sum(positions, []), strict=True)  # noqa: RUF017 - few groups
            )
        ]
        problems += [f"state of an unknown parameter {position!r}" for position in entries]
        if problems:
            raise StateDictError(f"{where}: " + "; ".join(problems))
        for group, values in zip(self.param_groups, settings, strict=True):
            group.update(values)
        self.state = state

    def _read_settings(self, group: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """Return the settings in a state dict; what is wrong with them goes to ``problems``."""
        settings = {}
        for name in (*self.settings, *(name for name in _OF_SCHEDULES if name in group)):
            try:
                settings[name] = self._checked(name, group[name])
            except KeyError:
                problems.append(f"missing {name}")
            except TinygradError as error:
                problems.append(str(error))
        for name, value in group.items():
            is_off = isinstance(value, (int, float, type(None))) and not value
            known = (*self.settings, *_OF_SCHEDULES, "params")
            if name not in known and not is_off and self.implied.get(name) != value:
                problems.append(f"unexpected {name} = {brief(value)}")
        return settings

    def _read_state(
        self, i: int, p: Tensor, entry: Mapping[str, Any], problems: list[str]
    ) -> dict[str, Any]:
        """Return the state of parameter ``i``: it must be complete or empty."""
        state: dict[str, Any] = {}
        given = {name: value for name, value in entry.items() if value is not None}
        for name, value in given.items():
            try:
                if name in self.counts:
                    state[name] = _count(value)
                elif name in self.arrays:
                    state[name] = _array_like(value, p)
                else:
                    problems.append(f"unexpected {name} of parameter {i}")
            except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
                problems.append(f"{name} of parameter {i}: {error}")
        if given:
            names = (*self.counts, *self.arrays)
            problems += [f"missing {name} of parameter {i}" for name in names if name not in given]
        return state


_OF_SCHEDULES = ("initial_lr",)
"""Settings that schedules add to a group."""


def _sizes(groups: list[int]) -> str:
    """Text with the numbers of parameters in the groups."""
    return f"{groups[0]} parameters" if len(groups) == 1 else f"groups of {groups} parameters"


def _as_dtype_of(value: Any, array: Any) -> Any:
    """Return an array in the dtype of a parameter's value, if that is floating."""
    if array.dtype is value.dtype:
        return array
    xp = backend.namespace(value)
    return xp.astype(array, value.dtype) if xp.is_floating(value) else array


def _copy_of(array: Any, p: Tensor) -> Tensor:
    """Copy an array of a parameter's state as a Tensor (0-d arithmetic leaves NumPy's scalars)."""
    with backend.on(p._data):
        return wrap(backend.copy(backend.namespace(p._data).asarray(array)))


def _array_like(value: Any, p: Tensor) -> Any:
    """Copy a value from a state dict as an array on the device and in the dtype of a parameter."""
    with backend.on(p._data):
        like = backend.widened(p._data)
    array = convert(value, like, move=True)
    if tuple(array.shape) != p.shape:
        raise ValueError(f"shape {tuple(array.shape)}, the parameter has {p.shape}")
    with backend.on(p._data):
        return backend.copy(array)


def _count(value: Any) -> int:
    """Return a number of steps as an int; PyTorch saves it as a floating tensor."""
    count = int(value)
    if count != float(value) or count < 0:
        raise ValueError(f"{brief(value)} is not a number of steps")
    return count
