"""The exceptions of the framework; each is also the built-in exception that a caller would expect."""

from __future__ import annotations

from collections.abc import Callable
from reprlib import Repr
from typing import Any

_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 60, 60
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 4


def brief(value: Any) -> str:
    """The repr of a value for a message: on one line, and shortened if it is long."""
    return " ".join(_REPR.repr(value).splitlines())


def type_of(value: Any) -> str:
    """The type of a value for a message; of a tuple or list also the length: ``"tuple of 2"``."""
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")


class TinygradError(Exception):
    """The base class of all errors that the framework raises on purpose."""


class ShapeError(TinygradError, ValueError):
    """Shapes, axes or sizes that do not fit the operation."""


class DTypeError(TinygradError, TypeError):
    """A data type that the operation cannot take."""


class ArgumentError(TinygradError, ValueError):
    """An argument outside the values it may take."""


class CallError(TinygradError, TypeError):
    """A call with an unknown argument, or without a required one."""


class UnknownNameError(TinygradError, AttributeError):
    """A name that does not exist; the message says what to write.

    ``hasattr`` raises this error often and nobody reads its message, so the message may be a function
    that makes it when it is read.
    """

    def __init__(self, message: str | Callable[[], str], name: str) -> None:
        super().__init__(message)
        self.name = name  # without .obj, from which Python would add its own suggestion

    def __str__(self) -> str:
        message = self.args[0]
        return message if isinstance(message, str) else str(message())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.name)


class IndexOutOfRangeError(TinygradError, IndexError):
    """An index outside the axis it selects from."""


class DeviceError(TinygradError, RuntimeError):
    """Operands on different devices or of different libraries, or a device that does not exist."""


class MissingDependencyError(TinygradError, ImportError):
    """An optional package is missing; the message names the command that installs it."""


class GraphError(TinygradError, RuntimeError):
    """A backward pass that cannot run on this graph."""


class FreedGraphError(GraphError):
    """An earlier backward pass has freed the graph."""


class AnomalyError(TinygradError, ArithmeticError):
    """NaN or infinity under ``detect_anomaly``."""


class InPlaceError(GraphError):
    """An array that the backward pass needs was changed in place after it was recorded."""


class GradientCheckError(TinygradError, AssertionError):
    """A wrong derivative, found by ``check_gradients``."""


class NotDifferentiableError(GradientCheckError):
    """A point without a derivative to check: a kink or a jump."""


class DecodingError(TinygradError, ValueError):
    """A step function whose log-probabilities or state cannot be used for decoding."""


class FileError(TinygradError, OSError):
    """A file that cannot be written."""


class CheckpointError(FileError):
    """A file that cannot be written, or cannot be read as a checkpoint."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no file of that name."""


class _NameError(TinygradError, KeyError):
    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])


class StateDictError(_NameError):
    """A state dict whose names or shapes differ from those of the module or optimizer."""


class UnknownPathError(_NameError):
    """A module path, or the name of a state or gate, that does not exist."""
