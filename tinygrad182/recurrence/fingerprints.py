"""What tells values apart by what they do: functions by their code, and by what they read around them.

A fingerprint holds numbers, names and code. What is remembered under it keeps nothing else alive.
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..primitives import Primitive

_WRITTEN = (bool, int, float, complex, str, tuple, list, dict, np.generic, type(None))
"""Types of values that are told apart by how they are written."""

_OURS = __name__.partition(".")[0]


def fingerprint(value: Any) -> Any:
    """What tells a value, as it is now, from others.

    A number, a string, a tuple, a list or a dict is told by how it is written. A function is told by its
    code and by the fingerprints of what it reads: defaults, global names and variables of enclosing
    functions, also inside the functions that it calls by their names. A primitive is told by its rules.
    Any other object is told by its identity and its attributes, and an object in an attribute by its
    identity alone.
    """
    return _seen(value, {})


def _seen(value: Any, met: dict[int, int], is_attribute: bool = False) -> Any:
    """The fingerprint; what was met before is only numbered, for functions may read each other."""
    kind = type(value)
    if isinstance(value, _WRITTEN):
        return kind, repr(value)
    if kind is FunctionType and not value.__closure__ and _is_ours(value):
        return value  # it reads nothing that changes
    if id(value) in met:
        return met[id(value)]
    met[id(value)] = len(met)
    if kind is FunctionType:
        return value.__code__, _all(_read_by(value), met)
    if kind is MethodType:
        return kind, _all((value.__func__, value.__self__), met)
    if kind is partial:
        names = value.keywords
        return kind, _all((value.func, *value.args, *names, *names.values()), met)
    if isinstance(value, Primitive):
        rules = value.vjp if isinstance(value.vjp, tuple) else (value.vjp,)
        return kind, value.name, _all((value.forward, *rules), met)
    if is_attribute or isinstance(value, (type, ModuleType)):
        return kind, _stand_in(value)
    return kind, _stand_in(value), _all(_attributes(value), met, are_attributes=True)


def _all(
    values: Iterable[Any], met: dict[int, int], are_attributes: bool = False
) -> tuple[Any, ...]:
    return tuple([_seen(value, met, are_attributes) for value in values])


def _is_ours(function: FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] == _OURS


def _read_by(function: FunctionType) -> Iterator[Any]:
    """What a function reads from around it."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if not _is_ours(function):
        yield from map(function.__globals__.get, _global_names(function.__code__))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # there is nothing in it yet
            yield None


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """The global names that a function reads, and those inside it; there may be nothing behind them yet."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names += _global_names(inner)
    return tuple(dict.fromkeys(names))


def _attributes(value: Any) -> Iterator[Any]:
    """The names and values of an object's own attributes."""
    try:
        state = object.__getstate__(value)  # what copies are made from
    except TypeError:  # an array, or another type that is not written in Python
        return
    for part in state if isinstance(state, tuple) else (state,):
        yield from part or ()
        yield from (part or {}).values()


_STAND_INS: dict[int, tuple[object, Any]] = {}
"""By the ids of objects, what stands for each while it is alive."""


def _stand_in(value: Any) -> object:
    """Something that is one for one object, and does not keep it alive."""
    key = id(value)
    if key not in _STAND_INS:
        try:
            keeper: Any = weakref.ref(value, lambda _: _STAND_INS.pop(key, None))
        except TypeError:  # nobody is told when it goes: it stays, so that none has its id
            keeper = value
        _STAND_INS.setdefault(key, (object(), keeper))
    return _STAND_INS[key][0]
