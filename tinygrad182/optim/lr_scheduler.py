"""Schedules: the learning rate as a function of the number of steps, under PyTorch's names.

A schedule sets ``lr`` of every group when it is made, and again at each ``step()``, which is called after
the optimizer's. Each is a formula of the group's first rate and the number of calls, so a rate that is set
by hand in between does not last.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _habits
from .._calls import Told, names_of
from ..errors import ArgumentError, StateDictError, brief
from ..host import real_number
from .optimizer import Optimizer


class LRScheduler(Told):
    """Base: counts the steps and sets the rates.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        The number of steps made before, −1 for a new start.
    """

    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(
                f"{name}: a {type(optimizer).__name__} is not an optimizer, such as tg.optim.Adam"
            )
        self.optimizer = optimizer
        self.last_epoch = _whole(name, "last_epoch", last_epoch, -1)
        self.step()

    @abstractmethod
    def _rate(self, base: float, epoch: int, group: int) -> float:
        """The rate of a group after ``epoch`` steps, given its first one."""

    def _rates(self, epoch: int) -> list[float]:
        groups = self.optimizer.param_groups
        bases = [group.setdefault("initial_lr", group["lr"]) for group in groups]
        return [self._rate(base, epoch, i) for i, base in enumerate(bases)]

    def _set(self) -> None:
        rates = self._rates(self.last_epoch)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        """Count one more step and set the rates."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, in numbers; functions are not saved."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": [group["initial_lr"] for group in self.optimizer.param_groups],
            **{name: getattr(self, name) for name in self.settings},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state dict, of this class or of PyTorch's of the same name; set the rates.

        Raises
        ------
        StateDictError
            Something that is missing, or another number of groups.
        """
        groups = self.optimizer.param_groups
        where = f"load_state_dict of {type(self).__name__}"
        try:
            read = {name: state_dict[name] for name in ("last_epoch", *self.settings)}
            bases = list(state_dict["base_lrs"])
        except (KeyError, TypeError) as error:
            raise StateDictError(f"{where}: this is not the state of one: {error}") from None
        if len(bases) != len(groups):
            raise StateDictError(
                f"{where}: the state is of {len(bases)} groups, the optimizer has {len(groups)}"
            )
        for group, base in zip(groups, bases, strict=True):
            group["initial_lr"] = base
        vars(self).update(read)
        self._set()


class LambdaLR(LRScheduler):
    """lr · f(steps).

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or a sequence of one for each group
        Takes the number of steps and returns a factor.
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
            raise ArgumentError(f"LambdaLR: lr_lambda {brief(lr_lambda)} must be a function")
        self._functions = several
        groups = len(getattr(optimizer, "param_groups", several))
        if len(several) not in (1, groups):
            raise ArgumentError(f"LambdaLR: {len(several)} functions for {groups} groups")
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        f = self._functions[group] if len(self._functions) > 1 else self._functions[0]
        return base * f(epoch)


class StepLR(LRScheduler):
    """lr · gammaᵏ, where k grows by 1 every ``step_size`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
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
        self.step_size = _whole("StepLR", "step_size", step_size, 1)
        self.gamma = _real("StepLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        return base * self.gamma ** (epoch // self.step_size)


class ExponentialLR(LRScheduler):
    """lr · gammaˢ after s steps.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    last_epoch : int
    """

    settings = ("gamma",)

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = _real("ExponentialLR", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        return float(base * self.gamma**epoch)


class LinearLR(LRScheduler):
    """A factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` steps: a warm-up.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor, end_factor : float
        The factor is ``end_factor`` from there on.
    total_iters : int
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
        self.start_factor = _real("LinearLR", "start_factor", start_factor)
        self.end_factor = _real("LinearLR", "end_factor", end_factor)
        self.total_iters = _whole("LinearLR", "total_iters", total_iters, 1)
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        done = min(epoch / self.total_iters, 1.0)
        return base * (self.start_factor * (1 - done) + self.end_factor * done)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from lr down to ``eta_min`` in ``T_max`` steps (Loshchilov and Hutter 2017).

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        After it the rate rises again, as the cosine does.
    eta_min : float
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
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = _whole("CosineAnnealingLR", "T_max", T_max, 1)
        self.eta_min = _real("CosineAnnealingLR", "eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        wave = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return self.eta_min + (base - self.eta_min) * wave


class SequentialLR(LRScheduler):
    """Several schedules, one after the other, each counted from where it begins.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : sequence of LRScheduler
        Of this optimizer.
    milestones : sequence of int
        The numbers of steps at which the second, the third … begins.
    last_epoch : int

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

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[Any],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self._schedulers = list(schedulers)
        self._milestones = [_whole("SequentialLR", "milestone", m, 1) for m in milestones]
        same = all(
            isinstance(s, LRScheduler) and s.optimizer is optimizer for s in self._schedulers
        )
        if not same or len(self._milestones) != len(self._schedulers) - 1:
            raise ArgumentError(
                "SequentialLR: pass schedules of this optimizer, and one milestone fewer than these"
            )
        if self._milestones != sorted(self._milestones):
            raise ArgumentError(f"SequentialLR: milestones {self._milestones} must grow")
        super().__init__(optimizer, last_epoch)

    def _rate(self, base: float, epoch: int, group: int) -> float:
        k = bisect_right(self._milestones, epoch)
        begun = self._milestones[k - 1] if k else 0
        return self._schedulers[k]._rate(base, epoch - begun, group)


def _whole(name: str, what: str, value: Any, least: int) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ArgumentError(f"{name}: {what} {brief(value)} must be a whole number from {least}")
    return int(value)


def _real(name: str, what: str, value: Any) -> float:
    number = real_number(value)
    if not 0 <= number < math.inf:
        raise ArgumentError(f"{name}: {what} {brief(value)} must be a finite number from 0")
    return number


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
    __getattr__ = names_of(__name__, "tg.optim.lr_scheduler", _habits.LR_SCHEDULER)
