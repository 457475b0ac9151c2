"""Modes: everything that changes how an operation is recorded, in one immutable value.

The value lives in one ContextVar. Threads and asyncio tasks are isolated, and new threads start from the
defaults. Every change is a context manager, which restores the modes after an exception too. Several
threads may enter one context at once, and a context may be entered inside itself. No ``with`` block may
span a ``yield``. A context as a decorator may be on a generator or coroutine; it is in force only while
that runs.

A signal can interrupt Python while it leaves a ``with`` block, before the block restores the modes. A
program that goes on after a ``KeyboardInterrupt`` should change the modes with a decorator, which restores
them at any interrupt. All functions of the framework do so too.

Threads may record and differentiate at once, also with the same parameters: ``.grad`` is the sum of all
contributions. No thread may write to a tensor's elements, step an optimizer or set ``requires_grad`` while
others use the tensor.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, overload

from .._suggestions.calls import explains_calls
from ..arrays import backend
from ..arrays.namespaces import Array
from ..errors import GraphError
from .decorating import decorated

F = TypeVar("F", bound=Callable[..., Any])

_CALLS = count(1)


@dataclass(slots=True, eq=False, repr=False)
class Scope:
    """The place in a model at which operations are recorded.

    Attributes
    ----------
    module : str
        Dotted path of the module being called; ``""`` outside any module.
    time : int or None
        The time step, counted from 0; ``-1`` is the state before the first input.
    call : int
        Number of the module call. It is unique in the process, so two calls of one module differ.
    names : dict
        ``id`` of each submodule of the outermost module → its dotted path.
    source : str
        The line of user code, under :func:`detect_anomaly`.
    step : in_step_of or None
        The step of a recurrence that is being computed; a new object each time.
    """

    module: str
    time: int | None
    call: int
    names: dict[int, str]
    source: str = ""
    step: in_step_of | None = None

    def place(self) -> str:
        """The place as text for messages: ``", in rnn.l0 at t = 3"``."""
        parts = [f"in {self.module}"] if self.module else []
        if self.time is not None:
            parts.append(f"at t = {self.time}")
        return ", " + " ".join(parts) if parts else ""

    def at(self, time: int | None) -> Scope:
        """Return this place at another time step."""
        return Scope(self.module, time, self.call, self.names, step=self.step)

    def called_from(self, source: str) -> Scope:
        """Return this place, called from a line of user code."""
        return Scope(self.module, self.time, self.call, self.names, source, self.step)


class PendingCheck(NamedTuple):
    """A check of numbers on a device that the host has not read yet.

    Attributes
    ----------
    values : sequence of arrays
        The arrays to read.
    judge : callable
        It takes these on the host and raises if they are wrong.
    """

    values: Sequence[Array]
    judge: Callable[[Sequence[Any]], None]


class Modes:
    """Everything that changes how an operation is recorded: one immutable value in one ContextVar.

    ``context`` is the context manager that made these modes, and ``outer`` are the modes outside it.
    ``running`` is the number of the backward pass that is running; 0 if there is none. ``interventions``
    are the gates of recurrent layers that are set, see :mod:`..recurrence.intervening`.
    """

    # fmt: off
    __slots__ = (
        "anomaly", "context", "device", "grad", "interventions", "outer", "pending", "running", "scope",
    )
    # fmt: on

    def __init__(self, grad: bool, device: str, scope: Scope, anomaly: bool = False) -> None:
        self.anomaly = anomaly
        self.pending: list[PendingCheck] | None = None
        self.grad = grad
        self.device = device
        self.scope = scope
        self.context: ModeContext | None = None
        self.outer: Modes | None = None
        self.running = 0
        self.interventions: tuple[Any, ...] = ()

    def twin(self) -> Modes:
        """A copy of the modes, which a context changes before it is in force."""
        twin = Modes.__new__(Modes)  # every pass and every call of a module makes one: keep it fast
        twin.grad = self.grad
        twin.device = self.device
        twin.scope = self.scope
        twin.anomaly = self.anomaly
        twin.pending = self.pending
        twin.context = self.context
        twin.outer = self.outer
        twin.running = self.running
        twin.interventions = self.interventions
        return twin


MODES: ContextVar[Modes] = ContextVar(
    "tinygrad182.engine.modes",
    default=Modes(True, "cpu", Scope("", None, 0, {})),  # noqa: B039 - immutable
)


def modes_kept(function: F) -> F:
    """Decorate a function that enters contexts, so that the modes are restored after every exception.

    That includes an interrupt that comes while a ``with`` block is left, before the block restores them.
    """

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        before = MODES.get()
        try:
            return function(*args, **kwargs)
        except BaseException:
            MODES.set(before)
            raise

    return inside  # type: ignore[return-value]


class ModeContext(ABC):
    """A context manager that changes the modes and restores them, whatever happens inside.

    It stores nothing itself. The modes to restore are in the modes inside, which each thread and task has
    for itself.
    """

    __slots__ = ()

    @abstractmethod
    def change(self, modes: Modes) -> None:
        """Set what differs inside, in a copy of the modes outside."""

    def __enter__(self) -> Self:
        outer = MODES.get()
        inner = outer.twin()
        self.change(inner)
        inner.context, inner.outer = self, outer
        try:
            MODES.set(inner)
            return self
        except BaseException:  # an interrupt, after which no ``with`` block would undo it
            MODES.set(outer)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        modes = MODES.get()
        while modes.context is not self:
            if modes.outer is None:
                raise GraphError(
                    f"{type(self).__name__}: left where it was not entered; a with block must not span a "
                    "yield, nor be left in another thread or task (a decorator may be on a generator)"
                )
            modes = modes.outer
        MODES.set(modes.outer)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Its name in ``tg``."""
        return type(self).__name__

    @modes_kept
    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function inside; the modes are restored at any interrupt."""
        with self:
            return function(*args, **kwargs)

    def __call__(self, function: F) -> F:
        """Decorate a function, generator or coroutine, so that it runs inside."""
        return decorated(self, function)


class grad_mode(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside (True) or not (False); see :func:`no_grad`."""

    __slots__ = ("_grad",)

    def __init__(self, grad: bool) -> None:
        self._grad = grad

    @property
    def name(self) -> str:
        """Its name in ``tg``."""
        return "enable_grad" if self._grad else "no_grad"

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.grad = self._grad


@overload
def no_grad() -> grad_mode: ...
@overload
def no_grad(function: F) -> F: ...
def no_grad(function: Any = None) -> Any:
    """Context, or decorator, in which nothing is recorded: results do not require grad.

    Parameters
    ----------
    function : callable, optional
        The function, generator or coroutine, where ``@tg.no_grad`` is written without parentheses.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.ones(2, requires_grad=True)
    >>> with tg.no_grad():
    ...     (w * 2).requires_grad
    False
    >>> @tg.no_grad
    ... def predict(x):
    ...     return x * w
    >>> predict(tg.ones(2)).requires_grad
    False
    """
    context = grad_mode(False)
    return context if function is None else context(function)


@overload
def enable_grad() -> grad_mode: ...
@overload
def enable_grad(function: F) -> F: ...
def enable_grad(function: Any = None) -> Any:
    """Context, or decorator, in which operations are recorded again, inside :func:`no_grad`."""
    context = grad_mode(True)
    return context if function is None else context(function)


def default_device(device: str | None = None) -> str:
    """``device``, or the default device if it is None."""
    return MODES.get().device if device is None else device


class detect_anomaly(ModeContext):  # noqa: N801 - used like a keyword
    """Context in which the first NaN, or infinity made from finite numbers, raises, forward or backward.

    It is a decorator too, with or without parentheses.

    An infinity that an operand already holds (in backward: the cotangent) is passed on: a score of −∞
    means "impossible", and ``softmax`` takes it. The error names the operation, its place in the model
    and time step, the shapes and the line of user code. The context is slow, because it reads every
    result and every cotangent, and stores the line of every call.

    Raises
    ------
    AnomalyError
        Inside the context, at the operation that first gives NaN, or infinity from what is finite.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> with tg.detect_anomaly():
    ...     tg.exp(tg.tensor([float("nan")]))
    Traceback (most recent call last):
        ...
    tinygrad182.errors.AnomalyError: forward of exp: nan in the result of shape (1,), which an operand ...
    """

    __slots__ = ()

    @explains_calls
    def __new__(cls, function: Any = None) -> Any:
        """Make the context, or decorate a function."""
        context = super().__new__(cls)
        return context if function is None else context(function)

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.anomaly = True


class use_device(ModeContext):  # noqa: N801 - used like a keyword
    """Make ``device`` the one that new tensors are created on.

    It takes effect at once. As a context manager it also restores the previous device.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    DeviceError
        There is no such device; the message says what is missing.
    MissingDependencyError
        CuPy is not installed; the message names the command that installs it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> with tg.use_device("cpu"):
    ...     tg.zeros(3).device
    'cpu'
    """

    __slots__ = ("_before", "_begun", "_device")

    @explains_calls
    def __init__(self, device: str) -> None:
        self._device = backend.check_device(device)
        self._before = MODES.get()
        self._begun = self._before.twin()  # in force from here on; a ``with`` only undoes it
        self.change(self._begun)
        MODES.set(self._begun)

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.device = self._device

    def __enter__(self) -> Self:
        if MODES.get() is self._begun:
            MODES.set(self._before)
        return super().__enter__()


def record_at(scope: Scope) -> None:
    """Record at another place until the running backward pass ends, which restores the modes.

    The record of a derivative is not part of a recurrence's step.
    """
    modes = MODES.get().twin()
    modes.scope = Scope(scope.module, scope.time, scope.call, scope.names, scope.source)
    MODES.set(modes)


class recording_as(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside at the place, time step and device of ``modes``."""

    __slots__ = ("_modes",)

    def __init__(self, modes: Modes) -> None:
        self._modes = modes

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.grad, modes.device, modes.scope = True, self._modes.device, self._modes.scope
        modes.interventions = self._modes.interventions


class unwatched(ModeContext):  # noqa: N801 - used like a keyword
    """Do not look for anomalies inside, where symbols without numbers are in the place of arrays."""

    __slots__ = ()

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.anomaly = False


class scope(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside as made by the module at ``path`` (relative to the module outside)."""

    __slots__ = ("_names", "_path")

    def __init__(self, path: str, names: dict[int, str] | None = None) -> None:
        self._path = path
        self._names = names

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        outer = modes.scope
        if self._names is None:  # a part of the module being called: the same call
            path = f"{outer.module}.{self._path}" if outer.module else self._path
            modes.scope = Scope(path, outer.time, outer.call, outer.names)
        else:
            modes.scope = Scope(self._path, outer.time, next(_CALLS), self._names)


class at_time(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside as belonging to time step ``time``."""

    __slots__ = ("_time",)

    def __init__(self, time: int) -> None:
        self._time = operator.index(time)  # an int: a narrower type would wrap around

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.scope = modes.scope.at(self._time)


class in_step_of(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside as those of one step of ``recurrence``."""

    __slots__ = ("recurrence",)

    def __init__(self, recurrence: Any) -> None:
        self.recurrence = recurrence

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        at = modes.scope
        modes.scope = Scope(at.module, at.time, at.call, at.names, at.source, self)


class deferred_checks(ModeContext):  # noqa: N801 - used like a keyword
    """Append the checks of indices on a device to a list, instead of waiting for each of them.

    CuPy wraps an index that is out of range, so nothing breaks before the checks are read. The code that
    opens the context must read them, all in one transfer, and call their ``judge``.
    """

    __slots__ = ("_pending",)

    def __init__(self, pending: list[PendingCheck]) -> None:
        self._pending = pending

    def change(self, modes: Modes) -> None:  # noqa: D102 - documented by the base
        modes.pending = self._pending
