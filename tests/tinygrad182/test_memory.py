"""Depth, time and memory: a million operations, no recursion, no cycles."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, device, host_only, leaf

MILLION = 1_000_000


@contextmanager
def no_collector() -> Iterator[None]:
    """Turn the cyclic garbage collector off: objects in cycles are then not freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def assert_nothing_is_left(run: Callable[[int], Any], times: int) -> None:
    """Check that repeated ``run(i)`` leaves no objects behind, nor cycles for the collector."""
    for i in range(8):
        run(i)
    with no_collector():
        for i in range(8):  # classes of ctypes that the collector took are made again
            run(i)
        before = len(gc.get_objects())
        for i in range(times):
            run(i)
        assert len(gc.get_objects()) - before < 10
        assert gc.collect() == 0 or device() != "cpu"  # those classes are cycles, but no others


def in_thread(work: Callable[[], None], stack: int) -> None:
    """Run ``work`` on a small stack, where any recursion in C dies."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with tg.use_device(device()):  # a new thread has the default
                work()
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(stack)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    if errors:
        raise errors[0]


def _chain(x: Any, length: int) -> Any:
    for _ in range(length):
        x = x + 1.0
    return x


@host_only("a million launches, three times, take minutes")
def test_a_million_operations() -> None:
    """Forward, backward and freeing, under the default recursion limit, on a stack of 256 KB."""
    times: dict[str, float] = {}

    def work() -> None:
        x = leaf(np.zeros(2))
        start = time.thread_time()
        y = _chain(x, MILLION)
        times["forward"] = time.thread_time() - start
        start = time.thread_time()
        y.sum().backward()
        times["backward"] = time.thread_time() - start
        assert x.grad is not None
        assert x.grad.tolist() == [1.0, 1.0]
        y = _chain(x, MILLION // 4)  # one that no backward pass takes apart
        start = time.thread_time()
        del y
        times["free"] = time.thread_time() - start

    in_thread(work, 256 * 1024)
    logging.getLogger(__name__).info("seconds: %s", times)  # pytest --log-cli-level=info
    assert sum(times.values()) < 60, times  # about 5 s here: only a change of order would show


def test_deep_graphs_elsewhere() -> None:
    """Recorded backward passes and forward mode walk the graph without recursion too."""

    def work() -> None:
        x = leaf(0.5)
        (g,) = tg.grad(_chain(x * x, 20_000), x, create_graph=True)
        assert g is not None
        assert tg.grad(g, x)[0].item() == 2.0  # type: ignore[union-attr]
        _, tangent = tg.jvp(lambda x: _chain(x * x, 20_000), x, 1.0)
        assert tangent.item() == 1.0  # type: ignore[union-attr]
        assert tg.jacobian(lambda x: _chain(x * x, 20_000), x).item() == 1.0
        repr(_chain(x, 20_000))

    in_thread(work, 256 * 1024)


def test_backward_of_steps_is_linear_in_their_number() -> None:
    """Ten times the steps take about ten times as long; dense zeros would take a hundred times."""

    def seconds(steps: int) -> float:
        best = float("inf")
        for _ in range(3):
            x = leaf(np.ones((steps, 64)))
            total: Any = 0.0
            for t in range(steps):
                total = total + x[t]
            start = time.thread_time()
            total.backward(tg.ones(64))
            best = min(best, time.thread_time() - start)
        return best

    with no_collector():
        assert seconds(3_000) < 30 * seconds(300)


def test_a_chain_of_views_is_linear_in_its_length() -> None:
    """The origin of a view is known without a walk back along the chain."""

    def seconds(length: int) -> float:
        y = x = leaf(np.ones(4))
        for _ in range(length):
            y = tg.flip(y)
        start = time.thread_time()
        (y * x).sum().backward()
        return time.thread_time() - start

    with no_collector():
        assert seconds(20_000) < 30 * min(seconds(2_000) for _ in range(3))


# --- no cycles ----------------------------------------------------------------------------------


def _training_step(model: tg.nn.Module, optimizer: tg.optim.Optimizer, x: tg.Tensor) -> None:
    optimizer.zero_grad()
    h = model(x)
    parts = tg.unstack(tg.softmax(h[:, ::2]) + tg.logsumexp(h, -1, keepdims=True))
    loss = tg.mean(tg.stack(parts) ** 2) + h[[0, 1], [1, 0]].sum()
    loss.backward()
    optimizer.step()


def test_training_leaves_nothing_for_the_collector() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(3, 4, rng=0), tg.nn.Linear(4, 4, rng=1))
    optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)
    x = tg.ones((5, 3))
    assert_nothing_is_left(lambda _: _training_step(model, optimizer, x), 50)


def _fails(x: tg.Tensor) -> None:
    with contextlib.suppress(tg.ShapeError):
        x + tg.ones(5)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: (x * x).sum().backward(),
        lambda x: (x * x).sum().backward(retain_graph=True),
        lambda x: tg.grad((x * x).sum(), x, create_graph=True),
        lambda x: tg.vjp(lambda x: x * x, x)[1](tg.ones(2)),
        lambda x: tg.jvp(lambda x: x * x, x, tg.ones(2)),
        lambda x: tg.jacobian(lambda x: x * x, x),
        lambda x: tg.hessian(lambda x: (x * x).sum(), x),
        lambda x: _fails(x),
        lambda x: x[0] + x[[0, 1]].sum() + sum(x),
    ],
)
def test_nothing_makes_a_cycle(use: Callable[[tg.Tensor], Any]) -> None:
    x = leaf(np.ones(2))
    use(x)
    x.grad = None
    with no_collector():
        for _ in range(3):
            use(x)
            x.grad = None
        assert gc.collect() == 0


@host_only("looks at the array through NumPy")
def test_backward_frees_arrays_as_it_goes() -> None:
    """After backward the graph holds no array, though the loss itself is still held."""
    x = leaf(np.ones(4))
    h = tg.exp(x)
    loss = (h * h).sum()
    array = weakref.ref(h.numpy().base)
    with no_collector():
        del h
        assert array() is not None
        loss.backward()
        assert array() is None
        assert loss.item() > 0


def test_results_die_with_their_last_user() -> None:
    x = leaf(np.ones(4))
    with no_collector():
        y = x * 2
        ref = weakref.ref(y)
        z = y + 1
        del y
        assert ref() is None  # a node does not hold on to its Tensor
        z.sum().backward()
    assert_close(x.grad, np.full(4, 2.0), 0.0)
