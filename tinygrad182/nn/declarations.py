"""The declaration of a cell: gates, state, step and weights of a class are read and checked here.

:func:`scan_of` makes a recurrence of them for :mod:`.recurrent`. :func:`try_step` runs the step once when a
layer is made, so that mistakes show before training.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

from ..engine.modes import modes_kept, no_grad
from ..errors import ArgumentError, brief, type_of
from ..recurrence.scans import RESERVED, Scan
from ..tensors import functions
from ..tensors.tensor import Tensor
from .nonlinearity import sample_of

if TYPE_CHECKING:
    from .recurrent import Recurrent

DECLARED = ("gates", "state", "step", "weights")
"""The class attributes that declare a cell; ``weights`` may be missing."""

_STEP_ARGUMENTS = ("xp", "x", "h", "state")

_PARAMETER_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# fmt: off
_ATTRIBUTES = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
    "return_states", "fused", "training",
)
# fmt: on


def scan_of(cls: type[Recurrent]) -> Scan | None:
    """Return the recurrence that a class declares, or None while the declaration is not complete."""
    if missing_in(cls):
        return None
    gates = cls.gates
    if isinstance(gates, int) and not isinstance(gates, bool) and gates > 0:
        gates = tuple([f"gate {i}" for i in range(gates)])
    gates = _checked_names(cls, "gates", gates, " or their number")
    parts = _checked_names(cls, "state", cls.state)
    weights = _checked_weights(cls)
    _refuse_clashes(cls, parts, weights)
    arguments = _step_arguments(cls)
    for name in weights:
        if name not in arguments:
            _refuse(cls, f"step takes no {name!r}", "it needs an argument for each name in weights")
    for name in [*arguments][len(_STEP_ARGUMENTS) :]:
        if name in (*RESERVED, "scan") and name not in weights:
            _refuse(cls, f"step takes {name!r}, a reserved name", "choose another")
    return Scan.of(f"{cls.__name__.lower()}_scan", cls.step, gates, parts, weights)


def missing_in(cls: type[Recurrent]) -> list[str]:
    """The names of the attributes that a class must still declare."""
    return [name for name in DECLARED[:3] if not hasattr(cls, name)]


def states_type(cls: type[Recurrent]) -> Any:
    """Make the named tuple of a layer's states."""
    States = namedtuple("States", cls.scan.parts, module=cls.__module__)  # type: ignore[misc]
    States.__qualname__ = f"{cls.__qualname__}.States"  # where pickle finds it
    return States


def options_of(scan: Scan) -> dict[str, Any]:
    """The step's arguments beyond x, h, state and weights, with their defaults."""
    further = list(inspect.signature(scan.step).parameters.values())[len(_STEP_ARGUMENTS) :]
    return {
        p.name: p.default
        for p in further
        if p.name not in scan.weights and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def set_options(layer: Recurrent) -> None:
    """Make every option of the step an attribute of the layer, unless it has that attribute already."""
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
            hash(value)  # compiled loops are stored by the values of options
        except TypeError:
            if callable(value):  # its attributes are compared before every run
                continue
            found = f"{name} = {brief(value)}, which may change"
            _refuse(type(layer), found, "pass a number, a string or a tuple of these")


@modes_kept
def try_step(layer: Any, device: str | None, params: dict[str, Any]) -> None:
    """Run the step of a layer or cell once on small arrays, and check the state that it returns."""
    cls, scan, batch, n = type(layer), layer.scan, 2, layer.hidden_size
    sums = (batch, len(scan.gates) * n)
    shapes = sums, sums, *[(batch, n)] * len(scan.parts)
    x, h, *state = [sample_of(shape, device) for shape in shapes]
    weights = {name: sample_of((blocks * n,), device) for name, blocks in scan.weights.items()}
    try:
        with no_grad():
            new = scan.step(functions, x, h, tuple(state), **weights, **params)
    except Exception as error:
        found = f"step fails on sums x and h of shape {sums}: {type(error).__name__}: {error}"
        raise ArgumentError(f"{cls.__name__}: {found}") from error
    parts = ", ".join(scan.parts) + ("," if len(scan.parts) == 1 else "")
    if not isinstance(new, (tuple, list)) or len(new) != len(scan.parts):
        _refuse(cls, f"step returns a {type_of(new)}", f"return ({parts})")
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


def _refuse(cls: type, found: str, remedy: str) -> NoReturn:
    raise ArgumentError(f"{cls.__name__}: {found}; {remedy}")


def _checked_names(cls: type, what: str, given: Any, otherwise: str = "") -> tuple[str, ...]:
    """Return a tuple of names, which must all differ."""
    good = isinstance(given, (tuple, list)) and bool(given)
    if not good or not all(isinstance(name, str) for name in given) or len({*given}) < len(given):
        example = f"({given!r},)" if isinstance(given, str) else "('h', 'c')"
        _refuse(
            cls,
            f"{what} = {brief(given)}",
            f"it must be a tuple of different names such as {example}{otherwise}",
        )
    return tuple(given)


def _checked_weights(cls: type[Recurrent]) -> dict[str, int]:
    """Return the further weights, and how many blocks of H numbers each has."""
    given: Any = cls.weights
    if not isinstance(given, Mapping):
        return dict.fromkeys(_checked_names(cls, "weights", given), 1) if given != () else {}
    for name, blocks in given.items():
        if not isinstance(name, str) or type(blocks) is not int or blocks < 1:
            _refuse(
                cls,
                f"weights has {brief(name)}: {brief(blocks)}",
                "it must map each name to a whole number n, for a parameter of n times H numbers",
            )
    return dict(given)


def _refuse_clashes(cls: type, parts: tuple[str, ...], weights: Mapping[str, int]) -> None:
    for name in parts:
        if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
            _refuse(cls, f"state has {name!r}, which cannot name a part", "use letters and digits")
    for name in weights:
        taken = name.startswith(_PARAMETER_NAMES) or name in (*_STEP_ARGUMENTS, *_ATTRIBUTES)
        if taken or hasattr(cls, name):
            _refuse(cls, f"weights has {name!r}, a name that is taken", "choose another")


def _step_arguments(cls: type[Recurrent]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a step, which must begin with xp, x, h and state."""
    step: Callable[..., Any] = cls.step
    if not callable(step):
        _refuse(
            cls, f"step is a {type(step).__name__}", "define a static method step(xp, x, h, state)"
        )
    arguments = inspect.signature(step).parameters
    by_position = [
        p for p in arguments.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(by_position) < len(_STEP_ARGUMENTS) or by_position[0].name in ("self", "cls"):
        _refuse(
            cls,
            f"step takes ({', '.join(arguments)})",
            "it must be a static method whose arguments begin with (xp, x, h, state)",
        )
    return arguments
