"""no_grad, enable_grad, devices: restored whatever happens, isolated between threads and tasks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_same_bits, const, leaf
from tinygrad182.engine import modes


def _records() -> bool:
    return (leaf([1.0]) * 2).requires_grad


def test_no_grad_records_nothing() -> None:
    with tg.no_grad():
        y = leaf([1.0]) * 2
        assert not y.requires_grad
        assert y.is_leaf
        with tg.enable_grad():
            assert _records()
        assert not _records()
    assert _records()


def test_a_graph_recorded_before_can_be_run_inside() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    with tg.no_grad():
        y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]


def _raise_in(context: Any) -> None:
    with context:
        raise KeyError("from inside")


CONTEXTS: list[Callable[[], Any]] = [
    tg.no_grad,
    tg.enable_grad,
    lambda: tg.use_device("cpu"),
    lambda: modes.scope("module"),
    lambda: modes.at_time(3),
]


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_exception_restores_the_modes(context: Callable[[], Any]) -> None:
    before = modes.MODES.get()
    with pytest.raises(KeyError):
        _raise_in(context())
    assert modes.MODES.get() is before


@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts_nest_and_come_apart_in_order(context: Callable[[], Any]) -> None:
    outside = modes.MODES.get()
    with context():
        first = modes.MODES.get()
        with context(), tg.no_grad():
            assert not modes.MODES.get().grad
        assert modes.MODES.get() is first
    assert modes.MODES.get() is outside


def test_a_failing_operation_or_backward_restores_the_modes() -> None:
    before = modes.MODES.get()
    x = leaf([1.0, 2.0])
    with pytest.raises(tg.ShapeError):
        x + tg.ones(3)
    with pytest.raises(tg.ShapeError):
        (x * x).backward()
    y = (x * x).sum()
    x.assign(0)
    with pytest.raises(tg.InPlaceError):
        y.backward(create_graph=True)
    for transform in (tg.vjp, tg.jacobian, tg.hessian):
        with tg.no_grad(), pytest.raises(KeyError):
            transform(lambda x: {}["missing"], x)
    with pytest.raises(KeyError):
        tg.jvp(lambda x: {}["missing"], x, x)
    assert modes.MODES.get() is before


def test_use_device_as_a_statement_and_as_a_context() -> None:
    def as_statement() -> str:
        tg.use_device("cpu")
        return tg.zeros(1).device

    assert contextvars.copy_context().run(as_statement) == "cpu"
    with tg.use_device("cpu"):
        assert tg.zeros(1).device == "cpu"


# --- threads and tasks --------------------------------------------------------------------------


def test_new_threads_start_from_the_defaults() -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(
            (modes.MODES.get().grad, modes.MODES.get().device, modes.MODES.get().scope.module)
        )

    with tg.no_grad(), modes.scope("outside"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [(True, "cpu", "")]


def test_threads_do_not_disturb_each_other() -> None:
    """Eight threads, half of them under no_grad, all with the same bits."""
    values = np.random.default_rng(0).standard_normal((4, 4))
    w = leaf(values)  # a leaf shared by all

    def gradient() -> Any:
        x = leaf(values)
        h = x
        for _ in range(5):
            h = tg.tanh(h @ w)
        (g,) = tg.grad(h.sum(), x)
        assert g is not None
        return g.numpy()

    expected = gradient()

    def work(k: int) -> None:
        for _ in range(20):
            if k % 2:
                with tg.no_grad():
                    assert not (w * 2).requires_grad
            assert_same_bits(gradient(), expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_tasks_do_not_disturb_each_other() -> None:
    async def off() -> None:
        with tg.no_grad():
            for _ in range(5):
                await asyncio.sleep(0)
                assert not _records()

    async def on() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            assert _records()

    async def both() -> None:
        await asyncio.gather(off(), on(), off(), on())

    asyncio.run(both())


def test_const_is_not_recorded() -> None:
    assert (const([1.0]) * 2).is_leaf


def test_a_context_may_be_entered_again() -> None:
    w = tg.ones(2, requires_grad=True)
    for context in (tg.no_grad(), tg.use_device("cpu")):
        with context:
            with context:
                pass
            inside = (w * 2).requires_grad
        assert inside is isinstance(context, tg.use_device)
        with context:
            pass
        assert (w * 2).requires_grad


def test_no_grad_decorates_a_function() -> None:
    w = tg.ones(1, requires_grad=True)

    @tg.no_grad()
    def twice(n: int) -> list[bool]:
        return [(w * 2).requires_grad, *(twice(n - 1) if n else [])]

    assert twice(2) == [False] * 3
    assert (w * 2).requires_grad
