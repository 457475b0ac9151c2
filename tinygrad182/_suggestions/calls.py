"""Error messages for unknown names and arguments: the nearest name, or the replacement of PyTorch's."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from ..errors import CallError, UnknownNameError
from .numpy_names import HINTS
from .torch_names import ARGUMENTS, IN_PLACE, KEYWORDS, NOT_THE_SAME

# --- names --------------------------------------------------------------------------------------


def unknown_name(owner: object, name: str, remedies: Mapping[str, str], shown: str) -> NoReturn:
    """Raise for an attribute that ``owner`` does not have; the message is made when it is read.

    ``remedies`` says for a known name what to write instead, and ``shown`` is what the message calls owner.
    """
    raise UnknownNameError(functools.partial(_describe, owner, name, remedies, shown), name)


def _describe(owner: object, name: str, remedies: Mapping[str, str], shown: str) -> str:
    message = f"{shown} has no {name!r}"
    if name.startswith("_"):
        return message
    if name in remedies:
        return f"{message}; {remedies[name]}"
    if name.endswith("_") and shown == "a Tensor":
        return f"{message}; {IN_PLACE}"
    if name in HINTS and shown in ("a Tensor", "tg"):
        return f"{message}; write {HINTS[name]}"
    return message + nearest(name, [known for known in dir(owner) if not known.startswith("_")])


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is likely meant, if any."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.7)
    near += [k for k in known if k.startswith(f"{name}_")]
    return f"; did you mean {near[0]!r}?" if near else ""


def names_of(module: str, shown: str, remedies: Mapping[str, str]) -> Callable[[str], NoReturn]:
    """Make the ``__getattr__`` of the module whose ``__name__`` is given."""

    def missing(name: str) -> NoReturn:
        unknown_name(sys.modules[module], name, remedies, shown)

    return missing


# --- arguments ----------------------------------------------------------------------------------


_OTHER_NAMES = frozenset(KEYWORDS)
_CORRECTIONS = ("correction", "unbiased")
_F = TypeVar("_F", bound=Callable[..., Any])


def explains_calls(f: _F) -> _F:
    """Make a function take PyTorch's ``dim=`` for ``axis=``, and explain wrong arguments."""

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not _OTHER_NAMES.isdisjoint(kwargs):
            kwargs = _in_our_names(f, kwargs)
        try:
            return f(*args, **kwargs) if kwargs else f(*args)  # the second is quicker
        except TypeError as error:
            explain_call(f, args, kwargs, error)
            raise

    return call  # type: ignore[return-value]


def explain_calls_in(names: dict[str, Any]) -> None:
    """Apply :func:`explains_calls` to all functions of this framework among a package's names.

    A function with two names stays one function.
    """
    wrapped: dict[Any, Any] = {}
    for name, f in list(names.items()):
        if inspect.isfunction(f) and _is_ours(f) and not name.startswith("_"):
            if f not in wrapped:
                wrapped[f] = explains_calls(f)
                wrapped[f].__module__ = names["__name__"]  # pickle looks it up there
                own = f.__name__
                wrapped[f].__qualname__ = own if names.get(own) is f else name
            names[name] = wrapped[f]


def explain_calls_of(cls: type) -> None:
    """Apply :func:`explains_calls` to the public methods of a class of this framework.

    It skips ``forward``, because a module's call explains its arguments, and static methods such as a
    cell's ``step``, which users do not call.
    """
    for name, f in list(vars(cls).items()):
        public = not name.startswith("_") and name != "forward"
        if public and inspect.isfunction(f) and _is_ours(f):
            setattr(cls, name, explains_calls(f))


def _is_ours(f: Any) -> bool:
    return bool(f.__module__.partition(".")[0] == __name__.partition(".")[0])


class ExplainsCalls:
    """Base of classes whose constructors and methods explain wrong arguments.

    The methods of a user's subclass are left as they are.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = explains_calls(cls.__init__)  # type: ignore[method-assign]
        explain_calls_of(cls)


def _in_our_names(f: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(f).parameters
    theirs = [name for name in ("dim", "keepdim") if name in kwargs]
    if theirs and f.__name__ in NOT_THE_SAME and kwargs.keys().isdisjoint(_CORRECTIONS):
        axis = kwargs.get("dim", kwargs.get("axis", "..."))
        remedy = NOT_THE_SAME[f.__name__].format(axis=axis, name=f.__name__)
        raise CallError(f"{f.__name__}: {theirs[0]}= is PyTorch's; ours {remedy}")
    renamed = {}
    for name, value in kwargs.items():
        ours = KEYWORDS.get(name, ()) if name not in taken else ()
        new = next((n for n in ours if n in taken), ours[0] if ours and _is_open(taken) else name)
        if new in renamed or (new != name and new in kwargs):
            raise CallError(f"{f.__name__}: {name}= and {new}= mean the same; pass one of them")
        renamed[new] = value
    return renamed


def _is_open(taken: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in taken.values())


def explain_call(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], error: TypeError
) -> None:
    """Raise CallError if ``f`` raised ``error`` because it does not take these arguments."""
    try:
        signature = inspect.signature(f)
    except ValueError:  # a function that is not written in Python, such as a ufunc for a forward
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as problem:
        shown = _shown(f, args)
        named = {n: p for n, p in signature.parameters.items() if n != "self"}
        taken = [n for n, p in named.items() if p.kind is not p.POSITIONAL_ONLY]
        unknown = [] if _is_open(signature.parameters) else [k for k in kwargs if k not in taken]
        if not unknown:
            raise CallError(f"{shown}: {problem}; it takes ({', '.join(named)})") from None
        _no_argument(shown, unknown[0], taken)
    found = _UNEXPECTED.search(str(error))
    if found and found[1] in kwargs and _is_open(signature.parameters):  # f passed it on
        _no_argument(_shown(f, args), found[1], [])


_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def _shown(f: Callable[..., Any], args: tuple[Any, ...]) -> str:
    if f.__name__ == "__init__" and args:  # the class may inherit it
        return type(args[0]).__name__
    if inspect.ismethod(f) and not isinstance(f.__self__, type):
        return f"{type(f.__self__).__name__}.{f.__name__}"
    name = f.__qualname__.rpartition("<locals>.")[2]
    return name.removesuffix(".__init__").removesuffix(".__new__")


def _no_argument(shown: str, name: str, taken: list[str]) -> NoReturn:
    hint = f"; {ARGUMENTS[name]}" if name in ARGUMENTS else _nearest_argument(name, taken)
    raise CallError(f"{shown}: there is no argument {name!r}{hint}") from None


def _nearest_argument(name: str, taken: list[str]) -> str:
    if not taken:
        return "; pass tensors by position"
    near = [known for known in taken if name in known or known in name]
    hint = nearest(name, taken) or (f"; did you mean {near[0]!r}?" if near else "")
    return hint or f"; it takes ({', '.join(taken)})"
