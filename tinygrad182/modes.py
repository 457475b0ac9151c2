"""Modes: everything that changes how an operation is recorded, in one immutable value.

The value lives in one ContextVar: threads and asyncio tasks are isolated, new threads start from the
defaults, and every change is a context manager that is undone when an exception flies through. No mode
may span a ``yield``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

from . import backend
from .backend import Array

_CALLS = count(1)


class Scope:
    """Where in a model operations are recorded.

    Attributes
    ----------
    module : str
        Dotted path of the module being called; ``""`` outside any module.
    time : int or None
        The time step, counted from 0; ``-1`` is the state before the first input.
    call : int
        Number of the module call, unique in the process: tells two calls of one module apart.
    names : dict
        ``id`` of each submodule of the outermost module → its dotted path.
    source : str
        The line of user code, under :func:`detect_anomaly`.
    """

    __slots__ = ("call", "module", "names", "source", "time")

    def __init__(
        self, module: str, time: int | None, call: int, names: dict[int, str], source: str = ""
    ) -> None:
        self.source = source
        self.module = module
        self.time = time
        self.call = call
        self.names = names

    def at(self, time: int | None) -> Scope:
        """The same place at another time step."""
        return Scope(self.module, time, self.call, self.names)

    def called_from(self, source: str) -> Scope:
        """The same place, called from a line of user code."""
        return Scope(self.module, self.time, self.call, self.names, source)


class PendingCheck(NamedTuple):
    """A check of numbers on a device, which the host has not looked at yet.

    Attributes
    ----------
    values : sequence of arrays
        What has to be read.
    judge : callable
        Given these on the host, it raises what is wrong.
    """

    values: Sequence[Array]
    judge: Callable[[Sequence[Any]], None]


class Modes:
    """Everything that changes how an operation is recorded: one immutable value in one ContextVar."""

    __slots__ = ("anomaly", "device", "grad", "pending", "scope")

    def __init__(
        self,
        grad: bool,
        device: str,
        scope: Scope,
        anomaly: bool = False,
        pending: list[PendingCheck] | None = None,
    ) -> None:
        self.anomaly = anomaly
        self.pending = pending
        self.grad = grad
        self.device = device
        self.scope = scope


MODES: ContextVar[Modes] = ContextVar(
    "tinygrad182.modes",
    default=Modes(True, "cpu", Scope("", None, 0, {})),  # noqa: B039 - immutable
)


class ModeContext(ABC):
    """A context manager that changes the modes and puts them back, whatever happens inside."""

    _tokens: list[Token[Modes]]

    __slots__ = ("_tokens",)

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make the context, entered by nobody yet; it may be entered again, also inside itself."""
        context = super().__new__(cls)
        context._tokens = []
        return context

    @abstractmethod
    def enter(self, modes: Modes) -> Modes:
        """Return the modes inside, given those outside."""

    def __enter__(self) -> Self:
        self._tokens.append(MODES.set(self.enter(MODES.get())))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        MODES.reset(self._tokens.pop())


class grad_mode(ContextDecorator, ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside (True) or not (False); see :func:`no_grad`."""

    __slots__ = ("_grad",)

    def __init__(self, grad: bool) -> None:
        self._grad = grad

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(self._grad, modes.device, modes.scope, modes.anomaly, modes.pending)


def no_grad() -> grad_mode:
    """Context (or decorator) in which nothing is recorded: results do not require grad.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> w = tg.ones(2, requires_grad=True)
    >>> with tg.no_grad():
    ...     (w * 2).requires_grad
    False
    """
    return grad_mode(False)


def enable_grad() -> grad_mode:
    """Context in which operations are recorded again, inside :func:`no_grad`."""
    return grad_mode(True)


def default_device(device: str | None = None) -> str:
    """``device`` itself, or the one in force if it is None."""
    return MODES.get().device if device is None else device


class detect_anomaly(ContextDecorator, ModeContext):  # noqa: N801 - used like a keyword
    """Context in which the first NaN, or infinity made from finite numbers, raises, forward or backward.

    An infinity that an operand (backward: the cotangent) already holds is passed on without complaint:
    a score of −∞ means "impossible", and ``softmax`` takes it. The error names the operation, its
    place in the model and time step, the shapes and the line of user code. Slow: every result and every
    cotangent is looked at, and every call's line is kept.

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

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(modes.grad, modes.device, modes.scope, True, modes.pending)


class use_device(ModeContext):  # noqa: N801 - used like a keyword
    """Make ``device`` the one that new tensors are created on.

    Takes effect at once; as a context manager it also puts the previous device back.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    DeviceError
        No such device; the message says what is missing.
    MissingDependencyError
        A CUDA device without CuPy; the message names the command that installs it.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> with tg.use_device("cpu"):
    ...     tg.zeros(3).device
    'cpu'
    """

    __slots__ = ("_device", "_in_effect")

    def __init__(self, device: str) -> None:
        self._device = backend.check_device(device)
        super().__enter__()
        self._in_effect = True  # from here on; the first ``with`` only promises to undo it

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(modes.grad, self._device, modes.scope, modes.anomaly, modes.pending)

    def __enter__(self) -> Self:
        if not self._in_effect:
            return super().__enter__()
        self._in_effect = False
        return self


class recording_as(ModeContext):  # noqa: N801 - used like a keyword
    """Record what runs inside where and when ``modes`` were in force."""

    def __init__(self, modes: Modes) -> None:
        self._modes = modes

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(True, self._modes.device, self._modes.scope, modes.anomaly, modes.pending)


class scope(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside as made by the module at ``path`` (relative to the module outside)."""

    __slots__ = ("_names", "_path")

    def __init__(self, path: str, names: dict[int, str] | None = None) -> None:
        self._path = path
        self._names = names

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        outer = modes.scope
        if self._names is None:  # a part of the module being called: the same call
            path = f"{outer.module}.{self._path}" if outer.module else self._path
            inner = Scope(path, outer.time, outer.call, outer.names)
        else:
            inner = Scope(self._path, outer.time, next(_CALLS), self._names)
        return Modes(modes.grad, modes.device, inner, modes.anomaly, modes.pending)


class at_time(ModeContext):  # noqa: N801 - used like a keyword
    """Record operations inside as belonging to time step ``time``."""

    __slots__ = ("_time",)

    def __init__(self, time: int) -> None:
        self._time = time

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(
            modes.grad, modes.device, modes.scope.at(self._time), modes.anomaly, modes.pending
        )


class deferred_checks(ModeContext):  # noqa: N801 - used like a keyword
    """Append the checks of indices on a device to a list, instead of waiting for each of them.

    CuPy wraps an index out of range around, so nothing is harmed before the checks are read. Whoever opens
    the context has to read them, all in one transfer, and to let them judge.
    """

    __slots__ = ("_pending",)

    def __init__(self, pending: list[PendingCheck]) -> None:
        self._pending = pending

    def enter(self, modes: Modes) -> Modes:  # noqa: D102 - documented by the base
        return Modes(modes.grad, modes.device, modes.scope, modes.anomaly, self._pending)
