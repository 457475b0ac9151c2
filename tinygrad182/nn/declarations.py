"""What a class of recurrent layers or cells declares, and whether it fits together."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .. import functions
from .._tensor import Tensor
from ..creation import tensor
from ..errors import ArgumentError, brief
from ..modes import modes_kept, no_grad
from ..recurrence import RESERVED, Scan

if TYPE_CHECKING:
    from .recurrent import Recurrent

DECLARED = ("gates", "state", "step", "weights")
"""The class attributes that make a cell; the last may be missing."""

_GIVEN = ("xp", "x", "h", "state")

_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# fmt: off
_ATTRIBUTES = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
    "return_states", "fused", "training",
)
# fmt: on


def scan_of(cls: type[Recurrent]) -> Scan | None:
    """The recurrence that a class declares; None while something is missing.

    Raises
    ------
    ArgumentError
        A declaration of another type, or names that cannot be used.
    """
    if missing_in(cls):
        return None
    gates = cls.gates
    if isinstance(gates, int) and not isinstance(gates, bool) and gates > 0:
        gates = tuple([f"gate {i}" for i in range(gates)])
    gates = _names(cls, "gates", gates, " or their number")
    parts = _names(cls, "state", cls.state)
    weights = _weights(cls)
    _refuse_clashes(cls, parts, weights)
    taken = _arguments(cls)
    for name in weights:
        if name not in taken:
            _refuse(cls, f"step takes no {name!r}", "weights are handed to it by their names")
    for name in [*taken][len(_GIVEN) :]:
        if name in (*RESERVED, "scan") and name not in weights:
            _refuse(cls, f"step takes {name!r}, a name that is taken", "choose another")
    return Scan.of(f"{cls.__name__.lower()}_scan", cls.step, gates, parts, weights)


def missing_in(cls: type[Recurrent]) -> list[str]:
    """What a class has still to declare."""
    return [name for name in DECLARED[:3] if not hasattr(cls, name)]


def states_type(cls: type[Recurrent]) -> Any:
    """The named tuple of a layer's states."""
    States = namedtuple("States", cls.scan.parts, module=cls.__module__)  # type: ignore[misc]
    States.__qualname__ = f"{cls.__qualname__}.States"  # where pickle finds it
    return States


def options_of(scan: Scan) -> dict[str, Any]:
    """The arguments of a step that are no weights, and their defaults."""
    taken = list(inspect.signature(scan.step).parameters.values())[len(_GIVEN) :]
    return {
        p.name: p.default
        for p in taken
        if p.name not in scan.weights and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def set_options(layer: Recurrent) -> None:
    """Make every option of the step an attribute of the layer: a class or its constructor may have."""
    for name, default in type(layer).options.items():
        if not hasattr(layer, name):
            if default is inspect.Parameter.empty:
                _refuse(
                    type(layer),
                    f"step takes {name!r}, which is not one of its weights",
                    f"set self.{name} before super().__init__, or give the argument a default",
                )
            setattr(layer, name, default)
        value = getattr(layer, name)
        try:
            hash(value)  # loops are kept for every value
        except TypeError:
            if callable(value):  # it may have attributes, which are looked at before every run
                continue
            found = f"{name} = {brief(value)}, which may change"
            _refuse(type(layer), found, "pass a number, a name or a tuple of such")


@modes_kept
def try_step(layer: Any, device: str | None, params: dict[str, Any]) -> None:
    """Run the step of a layer or cell on numbers of its units, and compare what comes with the state.

    Raises
    ------
    ArgumentError
        The step fails, or returns something else than the next state.
    """
    cls, scan, batch, n = type(layer), layer.scan, 2, layer.hidden_size
    sums = (batch, len(scan.gates) * n)
    shapes = sums, sums, *[(batch, n)] * len(scan.parts)
    x, h, *state = [_numbers(shape, device) for shape in shapes]
    weights = {name: _numbers((blocks * n,), device) for name, blocks in scan.weights.items()}
    try:
        with no_grad():
            new = scan.step(functions, x, h, tuple(state), **weights, **params)
    except Exception as error:
        found = f"step fails on sums x and h of shape {sums}: {type(error).__name__}: {error}"
        raise ArgumentError(f"{cls.__name__}: {found}") from error
    parts = ", ".join(scan.parts) + ("," if len(scan.parts) == 1 else "")
    if not isinstance(new, (tuple, list)) or len(new) != len(scan.parts):
        count = f" of {len(new)}" if isinstance(new, (tuple, list)) else ""
        _refuse(cls, f"step returns a {type(new).__name__}{count}", f"return ({parts})")
    for name, part in zip(scan.parts, new, strict=True):
        if not isinstance(part, Tensor):
            found = f"step returns {name} as a {type(part).__name__}, not a Tensor"
            _refuse(cls, found, "compute it from x, h and state with the functions of xp")
        shape = part.shape
        if shape != (batch, n):
            _refuse(
                cls,
                f"step returns {name} of shape {shape} for {batch} sequences of {n} units",
                f"each part is (..., H), {(batch, n)} here; sums have {len(scan.gates)} blocks of H",
            )


def _numbers(shape: tuple[int, ...], device: str | None) -> Any:
    """Different small numbers, so that no variance of them is 0."""
    values = np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32)
    return tensor(values.reshape(shape), device=device)


def _refuse(cls: type, found: str, remedy: str) -> NoReturn:
    raise ArgumentError(f"{cls.__name__}: {found}; {remedy}")


def _names(cls: type, what: str, given: Any, otherwise: str = "") -> tuple[str, ...]:
    """A tuple of different names."""
    good = isinstance(given, (tuple, list)) and bool(given)
    if not good or not all(isinstance(name, str) for name in given) or len({*given}) < len(given):
        example = f"({given!r},)" if isinstance(given, str) else "('h', 'c')"
        _refuse(
            cls,
            f"{what} = {brief(given)}",
            f"it must be a tuple of different names such as {example}{otherwise}",
        )
    return tuple(given)


def _weights(cls: type[Recurrent]) -> dict[str, int]:
    """The further weights, and how many blocks of H numbers each has."""
    given: Any = cls.weights
    if not isinstance(given, Mapping):
        return dict.fromkeys(_names(cls, "weights", given), 1) if given != () else {}
    for name, blocks in given.items():
        if not isinstance(name, str) or type(blocks) is not int or blocks < 1:
            _refuse(
                cls,
                f"weights has {brief(name)}: {brief(blocks)}",
                "it must map names to how many times H numbers there are",
            )
    return dict(given)


def _refuse_clashes(cls: type, parts: tuple[str, ...], weights: Mapping[str, int]) -> None:
    for name in parts:
        if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
            _refuse(cls, f"{name!r} cannot name a part", "use letters and digits")
    for name in weights:
        if (
            name.startswith(_PARAMETERS)
            or name in _GIVEN
            or name in _ATTRIBUTES
            or hasattr(cls, name)
        ):
            _refuse(cls, f"weights has {name!r}, a name that is taken", "choose another")


def _arguments(cls: type[Recurrent]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a step."""
    step: Callable[..., Any] = cls.step
    if not callable(step):
        _refuse(
            cls, f"step is a {type(step).__name__}", "define a static method step(xp, x, h, state)"
        )
    taken = inspect.signature(step).parameters
    by_position = [
        p for p in taken.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(by_position) < len(_GIVEN) or by_position[0].name in ("self", "cls"):
        _refuse(
            cls,
            f"step takes ({', '.join(taken)})",
            "it is a static method that begins with (xp, x, h, state)",
        )
    return taken
