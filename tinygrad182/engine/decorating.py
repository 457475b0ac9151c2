"""Context managers as decorators of functions, generators and coroutines.

The context is in force only while the decorated function runs. While it waits at a ``yield`` or an
``await``, other code of the thread runs outside the context.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Generator
from typing import Any, Protocol

from ..errors import ArgumentError, brief

AWAITED = inspect.CO_ITERABLE_COROUTINE
"""The flag with which ``types.coroutine`` marks a generator that can be awaited."""


class Context(Protocol):
    """A context that may be entered again, and by several threads at once."""

    @property
    def name(self) -> str:
        """Its name in ``tg``."""

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function inside."""


def decorated(context: Context, function: Any) -> Any:
    """Return a function that runs ``function`` inside ``context``; it may be a class or static method.

    Raises
    ------
    ArgumentError
        ``function`` is a class, whose methods would not run inside, or cannot be called.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(decorated(context, function.__func__))
    if isinstance(function, type):
        raise ArgumentError(
            f"{context.name}: {brief(function)} is a class; decorate its methods, such as forward"
        )
    if not callable(function):
        raise ArgumentError(
            f"{context.name}: {brief(function)} is not a function to decorate; "
            f"write with tg.{context.name}(): ..."
        )
    return functools.wraps(function)(_same_kind(context, function))


def _same_kind(context: Context, function: Any) -> Any:
    """A function, generator or coroutine, as ``function`` is one."""
    runs = function
    if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
        runs = type(function).__call__
    if inspect.isgeneratorfunction(runs):
        inside = _generator(context, function)
        awaited = getattr(runs, "__code__", None) and runs.__code__.co_flags & AWAITED
        return types.coroutine(inside) if awaited else inside
    if inspect.iscoroutinefunction(runs):
        return _coroutine(context, function)
    if inspect.isasyncgenfunction(runs):
        return _async_generator(context, function)
    return _function(context, function)


def _function(context: Context, function: Any) -> Any:
    def inside(*args: Any, **kwargs: Any) -> Any:
        return context.run(function, *args, **kwargs)

    return inside


def _generator(context: Context, function: Any) -> Any:
    def inside(*args: Any, **kwargs: Any) -> Any:
        return (yield from _driven(context, function(*args, **kwargs)))

    return inside


def _coroutine(context: Context, function: Any) -> Any:
    async def inside(*args: Any, **kwargs: Any) -> Any:
        return await _awaited(context, function(*args, **kwargs))

    return inside


def _async_generator(context: Context, function: Any) -> Any:
    async def inside(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        part = generator.asend(None)
        while True:
            try:
                item = await _awaited(context, part)
            except StopAsyncIteration:
                return
            try:
                part = generator.asend((yield item))
            except GeneratorExit:
                await _awaited(context, generator.aclose())
                raise
            except BaseException as error:
                part = generator.athrow(error)

    return inside


def _driven(context: Context, running: Any) -> Generator[Any, Any, Any]:
    """Run a generator or coroutine; each part between two waits runs inside the context."""
    resume, value = running.send, None
    while True:
        try:
            item = context.run(resume, value)
        except StopIteration as end:
            return end.value
        try:
            resume, value = running.send, (yield item)
        except GeneratorExit:
            context.run(running.close)
            raise
        except BaseException as error:
            resume, value = running.throw, error


_awaited = types.coroutine(_driven)
