"""The exceptions this framework raises; each is also the built-in type a caller would expect."""

from __future__ import annotations

from collections.abc import Callable
from reprlib import Repr
from typing import Any

_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 60, 60
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 4


def brief(value: Any) -> str:
    """What somebody gave, for a message: its repr on one line, shortened where it is long."""
    return " ".join(_REPR.repr(value).splitlines())


class TinygradError(Exception):
    """Base of every error raised on purpose by the framework."""


class ShapeError(TinygradError, ValueError):
    """Shapes, axes or sizes that do not fit the operation."""


class DTypeError(TinygradError, TypeError):
    """A data type the operation has no meaning for."""


class ArgumentError(TinygradError, ValueError):
    """An argument outside the values it may take."""


class CallError(TinygradError, TypeError):
    """A call with an argument that does not exist, or without one that is needed."""


class UnknownNameError(TinygradError, AttributeError):
    """A name that is not here; the message says what to write.

    Whether something has an attribute is asked often and the answer is seldom read, so the message may
    be a function that makes it.
    """

    def __init__(self, message: str | Callable[[], str], name: str) -> None:
        super().__init__(message)
        self.name = name  # and no .obj, by which Python would add a guess of its own

    def __str__(self) -> str:
        message = self.args[0]
        return message if isinstance(message, str) else str(message())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.name)


class IndexOutOfRangeError(TinygradError, IndexError):
    """An index outside the axis it selects from."""


class DeviceError(TinygradError, RuntimeError):
    """Operands on different devices or libraries, or a device that is not there."""


class MissingDependencyError(TinygradError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


class GraphError(TinygradError, RuntimeError):
    """A backward pass that cannot be run on this graph."""


class FreedGraphError(GraphError):
    """The part of the graph asked for was freed by an earlier backward pass."""


class AnomalyError(TinygradError, ArithmeticError):
    """NaN or infinity, where ``detect_anomaly`` was told to look for it."""


class InPlaceError(GraphError):
    """An array needed by the backward pass was changed after it was recorded."""


class GradientCheckError(TinygradError, AssertionError):
    """A derivative that ``check_gradients`` found to be wrong."""


class NotDifferentiableError(GradientCheckError):
    """A point at which there is no derivative to check: a kink or a jump."""


class DecodingError(TinygradError, ValueError):
    """A step function whose log-probabilities or state cannot be decoded with."""


class FileError(TinygradError, OSError):
    """A file that cannot be written."""


class CheckpointError(FileError):
    """A file that cannot be written, or cannot be read as a checkpoint."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No file of that name."""


class _NameError(TinygradError, KeyError):
    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])


class StateDictError(_NameError):
    """A state dict whose names or shapes are not those of the module or optimizer."""


class UnknownPathError(_NameError):
    """A module path, or the name of a state or a gate, that is not there."""
