"""``tg.optim.lr_scheduler``: schedules of the learning rate, under PyTorch's names.

A schedule sets ``lr`` of every group when it is made, and again at each ``step()``; call it after the
optimizer's ``step()``. Most schedules multiply the current rate, as PyTorch's do. So several schedules of
one optimizer work together, and a rate that you set by hand is the new start. The groups keep the first
rates as ``"initial_lr"``. Optimizers and their groups are in :mod:`.optimizer`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .._numbers import check_number, check_whole
from .._suggestions import torch_names
from .._suggestions.calls import ExplainsCalls, names_of, unknown_name
from ..errors import ArgumentError, StateDictError, brief
from .optimizer import Optimizer, in_groups


class LRScheduler(ExplainsCalls, ABC):
    """Base of all schedules: counts the steps and sets the rates.

    A subclass defines ``_next``, and names in ``settings`` the attributes that it saves.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        −1 for a new start. To continue, the number of the last step; the optimizer must have the state from
        that step. Its rate is not changed, except by a :class:`StepLR` whose step is due.

    Raises
    ------
    ArgumentError
        An argument is out of range, or ``last_epoch`` is not −1 and the optimizer never had a schedule.
    """

    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(
                f"{name}: a {type(optimizer).__name__} is not an optimizer, such as tg.optim.Adam"
            )
        self.optimizer = optimizer
        self.last_epoch = check_whole(name, "last_epoch", last_epoch, -1)
        if self.last_epoch >= 0 and any("initial_lr" not in g for g in optimizer.param_groups):
            raise ArgumentError(
                f"{name}: last_epoch={last_epoch} continues a schedule, but this optimizer never had one; "
                "call optimizer.load_state_dict(...) first, or leave last_epoch out"
            )
        self._begin()

    def __repr__(self) -> str:
        settings = [f"{name.lstrip('_')}={getattr(self, name)!r}" for name in self.settings]
        rate = in_groups(self.optimizer.param_groups, "lr")
        steps = f"{self.last_epoch} step{'s' * (self.last_epoch != 1)}"
        return f"{type(self).__name__}({', '.join([*settings, f'lr={rate} after {steps}'])})"

    def _first(self, rate: float, base: float, group: int) -> float:
        """Return the rate of a group when the schedule is made, given its current rate."""
        return rate

    @abstractmethod
    def _next(self, rate: float, base: float, group: int) -> float:
        """Return the rate of a group after a step, given the rate before it and the first rate."""

    def _begin(self) -> None:
        self.last_epoch += 1
        self._set(self._first)

    def _set(self, rule: Callable[[float, float, int], float]) -> None:
        groups = self.optimizer.param_groups
        bases = [group.setdefault("initial_lr", group["lr"]) for group in groups]
        rates = [
            rule(g["lr"], base, i) for i, (g, base) in enumerate(zip(groups, bases, strict=True))
        ]
        checked = [check_number(self, "the rate", rate) for rate in rates]
        for group, rate in zip(groups, checked, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """Count one more step and set the rates."""
        self.last_epoch += 1
        self._set(self._next)

    @property
    def base_lrs(self) -> list[float]:
        """The first rate of each group."""
        return [group["initial_lr"] for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """Return the current rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            unknown_name(self, name, torch_names.SCHEDULE, type(self).__name__)

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as numbers; functions are not saved."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": self.base_lrs,
            "_last_lr": self.get_last_lr(),
            **{name: getattr(self, name) for name in self.settings},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state dict of this class, or of PyTorch's class with its name; set the rates.

        Raises
        ------
        StateDictError
            A value is missing, or the number of groups differs. Nothing is changed then.
        """
        self._apply_state(self._read_state(state_dict))

    def _read_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the checked values of a state dict."""
        groups = self.optimizer.param_groups
        where = f"load_state_dict of {type(self).__name__}"
        try:
            read = {name: state_dict[name] for name in ("last_epoch", *self.settings)}
            for name in ("base_lrs", "_last_lr"):
                read[name] = [self.optimizer._checked("lr", rate) for rate in state_dict[name]]
        except (KeyError, TypeError, ArgumentError) as error:
            raise _not_its_state(self, error) from None
        for rates in (read["base_lrs"], read["_last_lr"]):
            if len(rates) != len(groups):
                raise StateDictError(
                    f"{where}: the state has rates of {len(rates)} groups, the optimizer {len(groups)}"
                )
        return read

    def _apply_state(self, read: dict[str, Any]) -> None:
        rates = zip(read.pop("base_lrs"), read.pop("_last_lr"), strict=True)
        for group, (base, rate) in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = base, rate
        vars(self).update(read)


def _not_its_state(schedule: LRScheduler, problem: Exception) -> StateDictError:
    name = type(schedule).__name__
    return StateDictError(
        f"load_state_dict of {name}: this is not its state: {problem}; pass its state_dict()"
    )


class LambdaLR(LRScheduler):
    """lr · f(steps), where lr is the first rate; the current rate is not used.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or a sequence of one for each group
        Takes the number of steps and returns a factor; no rate may be below 0.
    last_epoch : int

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = tg.optim.lr_scheduler.LambdaLR(optimizer, lambda steps: 1 / (1 + steps))
    >>> schedule.step()
    >>> optimizer.lr
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        several: list[Any] = list(lr_lambda) if isinstance(lr_lambda, Sequence) else [lr_lambda]
        if not all(map(callable, several)):
            raise ArgumentError(
                f"LambdaLR: lr_lambda {brief(lr_lambda)} must be a function of the steps"
            )
        self._functions = several
        groups = len(getattr(optimizer, "param_groups", several))
        if len(several) not in (1, groups):
            raise ArgumentError(
                f"LambdaLR: {len(several)} functions for {groups} groups; pass one, or one for each group"
            )
        super().__init__(optimizer, last_epoch)

    def _next(self, rate: float, base: float, group: int) -> float:
        f = self._functions[group] if len(self._functions) > 1 else self._functions[0]
        return base * f(self.last_epoch)

    _first = _next


class StepLR(LRScheduler):
    """lr · gammaᵏ, where k grows by 1 every ``step_size`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        From 1.
    gamma : float
        From 0.
    last_epoch : int

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = tg.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     optimizer.step()
    ...     schedule.step()
    >>> optimizer.lr
    0.25
    """

    settings = ("step_size", "gamma")

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = check_whole("StepLR", "step_size", step_size, 1)
        self.gamma = check_number("StepLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _next(self, rate: float, base: float, group: int) -> float:
        due = self.last_epoch and self.last_epoch % self.step_size == 0
        return rate * self.gamma if due else rate

    _first = _next


class ExponentialLR(LRScheduler):
    """lr · gammaˢ after s steps.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
        From 0.
    last_epoch : int

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = tg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     schedule.step()
    >>> optimizer.lr
    0.125
    """

    settings = ("gamma",)

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = check_number("ExponentialLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _next(self, rate: float, base: float, group: int) -> float:
        return rate * self.gamma


class LinearLR(LRScheduler):
    """A warm-up: lr times a factor from ``start_factor`` to ``end_factor`` in ``total_iters`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor, end_factor : float
        The first must be more than 0, the second at least 0. It stays at ``end_factor`` afterwards.
    total_iters : int
        From 1.
    last_epoch : int

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> warm_up = tg.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    >>> optimizer.lr
    0.25
    >>> warm_up.step()
    >>> optimizer.lr
    0.5
    """

    settings = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = check_number("LinearLR", "start_factor", start_factor)
        self.end_factor = check_number("LinearLR", "end_factor", end_factor)
        if not self.start_factor:
            raise ArgumentError(
                "LinearLR: start_factor must be more than 0, because rates are multiplied by it"
            )
        self.total_iters = check_whole("LinearLR", "total_iters", total_iters, 1)
        super().__init__(optimizer, last_epoch)

    def _first(self, rate: float, base: float, group: int) -> float:
        return rate * self.start_factor if self.last_epoch == 0 else rate

    def _next(self, rate: float, base: float, group: int) -> float:
        if self.last_epoch > self.total_iters:
            return rate
        return rate * self._factor(self.last_epoch) / self._factor(self.last_epoch - 1)

    def _factor(self, steps: int) -> float:
        done = steps / self.total_iters
        return self.start_factor * (1 - done) + self.end_factor * done


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from lr down to ``eta_min`` in ``T_max`` steps (Loshchilov and Hutter 2017).

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        From 1. After so many steps the rate rises again, as the cosine does.
    eta_min : float
        From 0.
    last_epoch : int

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    >>> schedule.step()
    >>> round(optimizer.lr, 12)
    0.5
    """

    settings = ("T_max", "eta_min")

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = check_whole("CosineAnnealingLR", "T_max", T_max, 1)
        self.eta_min = check_number("CosineAnnealingLR", "eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _next(self, rate: float, base: float, group: int) -> float:
        if (self.last_epoch - 1) % (2 * self.T_max) == self.T_max:  # up from the smallest rate
            return rate + (base - self.eta_min) * self._wave(self.T_max - 1)
        ratio = self._wave(self.last_epoch) / self._wave(self.last_epoch - 1)
        return self.eta_min + (rate - self.eta_min) * ratio

    def _wave(self, steps: int) -> float:
        """(1 + cos) / 2, computed without cancellation where it is small."""
        return math.cos(math.pi * steps / self.T_max / 2) ** 2


class SequentialLR(LRScheduler):
    """Several schedules, one after the other; each begins at the first rates and counts its own steps.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : sequence of LRScheduler
        Schedules of this optimizer.
    milestones : sequence of int
        The step at which the second schedule begins, then the third …; they must not fall.
    last_epoch : int
        The schedules repeat their steps up to it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> schedules = tg.optim.lr_scheduler
    >>> optimizer = tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0)
    >>> parts = [
    ...     schedules.LinearLR(optimizer, start_factor=0.5, total_iters=2),
    ...     schedules.CosineAnnealingLR(optimizer, T_max=100),
    ... ]
    >>> schedule = schedules.SequentialLR(optimizer, parts, milestones=[2])
    >>> optimizer.lr
    0.5
    """

    settings = ("_milestones",)

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[Any],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self._schedulers = list(schedulers)
        self._milestones = [check_whole("SequentialLR", "milestone", m, 1) for m in milestones]
        same = all(
            isinstance(s, LRScheduler) and s.optimizer is optimizer for s in self._schedulers
        )
        if not same or len(self._milestones) != len(self._schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: {len(self._schedulers)} schedules and {len(self._milestones)} milestones; "
                "pass schedules of this optimizer, and one milestone fewer than schedules"
            )
        if self._milestones != sorted(self._milestones):
            raise ArgumentError(f"SequentialLR: milestones {self._milestones} must be in order")
        super().__init__(optimizer, last_epoch)

    def _begin(self) -> None:
        made, self.last_epoch = self.last_epoch + 1, 0
        self._start(self._schedulers[0])
        for _ in range(made):
            self.step()

    def step(self) -> None:
        """Count one more step, and let the current schedule set the rates."""
        self.last_epoch += 1
        k = bisect_right(self._milestones, self.last_epoch)
        if k and self._milestones[k - 1] == self.last_epoch:
            self._start(self._schedulers[k])
        else:
            self._schedulers[k].step()

    def _start(self, part: LRScheduler) -> None:
        """Begin a schedule, at the first rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"])
        part.last_epoch = -1
        part._begin()

    def _next(self, rate: float, base: float, group: int) -> float:
        raise NotImplementedError  # never called: the schedules inside set the rates

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, with the states of the schedules inside."""
        return {**super().state_dict(), "_schedulers": [p.state_dict() for p in self._schedulers]}

    def _read_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        try:
            states = list(state_dict["_schedulers"])
            given = {"base_lrs": states[0]["base_lrs"], **state_dict}  # PyTorch saves them inside
        except (KeyError, TypeError, IndexError) as error:
            raise _not_its_state(self, error) from None
        if len(states) != len(self._schedulers):
            raise StateDictError(
                f"load_state_dict of SequentialLR: the state has {len(states)} schedules, this one "
                f"{len(self._schedulers)}"
            )
        parts = [p._read_state(state) for p, state in zip(self._schedulers, states, strict=True)]
        return {**super()._read_state(given), "parts": parts}

    def _apply_state(self, read: dict[str, Any]) -> None:
        for part, state in zip(self._schedulers, read.pop("parts"), strict=True):
            part._apply_state(state)
        super()._apply_state(read)  # last: each part has set the rates too


__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "SequentialLR",
    "StepLR",
]

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__, "tg.optim.lr_scheduler", torch_names.LR_SCHEDULER)
