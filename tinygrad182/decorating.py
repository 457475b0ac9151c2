"""A context manager as a decorator, also of what runs in parts: generators and coroutines.

The context is in force only while the decorated function runs, and not while it waits at a ``yield`` or
an ``await``: what runs meanwhile in the same thread is left alone.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

Context = AbstractContextManager[Any]


def decorated(context: Context, function: Any) -> Any:
    """``function`` run inside ``context``, which may be entered again and by several threads at once."""
    if inspect.isgeneratorfunction(function):
        make = _generator
    elif inspect.iscoroutinefunction(function):
        make = _coroutine
    elif inspect.isasyncgenfunction(function):
        make = _async_generator
    else:
        make = _function
    return functools.wraps(function)(make(context, function))


def _function(context: Context, function: Any) -> Any:
    def inside(*args: Any, **kwargs: Any) -> Any:
        with context:
            return function(*args, **kwargs)

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
    """Run a generator or coroutine, each of its parts inside the context."""
    resume, value = running.send, None
    while True:
        try:
            with context:
                item = resume(value)
        except StopIteration as end:
            return end.value
        try:
            resume, value = running.send, (yield item)
        except GeneratorExit:
            with context:
                running.close()
            raise
        except BaseException as error:
            resume, value = running.throw, error


_awaited = types.coroutine(_driven)
