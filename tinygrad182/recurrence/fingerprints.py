"""Fingerprints of values: those of two functions are equal if their code and all that they read is equal.

:mod:`.scans` keeps the program of a step under the fingerprints of the step and its options, so that a
step that changes is derived again. A fingerprint holds numbers, names and code, and keeps no array or model
alive.
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
"""Types whose values are compared by their ``repr``."""

_OURS = __name__.partition(".")[0]


def fingerprint(value: Any) -> Any:
    """Return the fingerprint of a value as it is now.

    That of a number, string, tuple, list or dict is its ``repr``. That of a function is its code, and the
    fingerprints of what it reads: defaults, global names and variables of enclosing functions, also inside
    the functions that it calls by name. That of a primitive is its rules. That of any other object is its
    identity and its attributes, and an object in an attribute counts by its identity alone.
    """
    return _fingerprint(value, {})


def _fingerprint(value: Any, met: dict[int, int], is_attribute: bool = False) -> Any:
    """The fingerprint. A value that was met before is only numbered: functions may read each other."""
    kind = type(value)
    if isinstance(value, _WRITTEN):
        return kind, repr(value)
    if kind is FunctionType and not value.__closure__ and _is_ours(value):
        return value  # our own functions read nothing that changes
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
        return kind, _unique(value)
    return kind, _unique(value), _all(_attributes(value), met, are_attributes=True)


def _all(
    values: Iterable[Any], met: dict[int, int], are_attributes: bool = False
) -> tuple[Any, ...]:
    return tuple([_fingerprint(value, met, are_attributes) for value in values])


def _is_ours(function: FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] == _OURS


def _read_by(function: FunctionType) -> Iterator[Any]:
    """The values that a function reads from outside."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if not _is_ours(function):
        yield from map(function.__globals__.get, _global_names(function.__code__))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the variable has no value yet
            yield None


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """The global names that a function and those inside it read. A name may have no value yet."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names += _global_names(inner)
    return tuple(dict.fromkeys(names))


def _attributes(value: Any) -> Iterator[Any]:
    """The names and values of an object's own attributes."""
    try:
        state = object.__getstate__(value)  # as copy does
    except TypeError:  # an array, or another type that is written in C
        return
    for part in state if isinstance(state, tuple) else (state,):
        yield from part or ()
        yield from (part or {}).values()


_UNIQUE: dict[int, tuple[object, Any]] = {}
"""A unique object for each id, while the value with that id is alive."""


def _unique(value: Any) -> object:
    """A unique object for a value, which does not keep the value alive."""
    key = id(value)
    if key not in _UNIQUE:
        try:
            keeper: Any = weakref.ref(value, lambda _: _UNIQUE.pop(key, None))
        except TypeError:  # without weak references it is kept alive, so that its id stays its own
            keeper = value
        _UNIQUE.setdefault(key, (object(), keeper))
    return _UNIQUE[key][0]
