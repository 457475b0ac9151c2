"""Threads and tasks that share parameters and contexts, and passes that are interrupted."""

from __future__ import annotations

import ast
import asyncio
import functools
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, device, host, host_only, leaf
from tinygrad182.engine import autodiff, memory, modes, recording

THREADS, PASSES = 8, 40
SIZE = 100_000  # NumPy lets other threads run while it adds so many


def _in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Run ``work`` in threads that begin together and change over as often as can be."""
    together = threading.Barrier(THREADS)
    interval = sys.getswitchinterval()

    def begin(k: int) -> Any:
        together.wait()
        with tg.use_device(device()):
            return work(k)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(begin, range(THREADS)))
    finally:
        sys.setswitchinterval(interval)


# --- gradients ----------------------------------------------------------------------------------


def _by_backward(loss: tg.Tensor, k: int) -> None:
    loss.backward(retain_graph=True)


def _recorded(loss: tg.Tensor, k: int) -> None:
    loss.backward(retain_graph=True, create_graph=k % 2 == 0)


def _by_flow(loss: tg.Tensor, k: int) -> None:
    tg.inspect.gradient_flow(loss, backward=True)


@pytest.mark.parametrize(
    ("add", "passes"), [(_by_backward, PASSES), (_recorded, 10), (_by_flow, 5)]
)
def test_no_thread_s_contribution_is_lost(add: Any, passes: int) -> None:
    w, kept = leaf(np.zeros(SIZE)), leaf(np.zeros(SIZE)) * 1
    kept.retain_grad()

    def work(k: int) -> None:
        for _ in range(passes):  # whole numbers: their sum has no order
            h = tg.inspect.mark(w * (k + 1.0), "h", time=0)
            add((h + kept * 2.0).sum(), k)

    _in_threads(work)
    assert w.grad is not None
    assert kept.grad is not None
    assert set(host(w.grad).tolist()) == {passes * 36.0}
    assert set(host(kept.grad).tolist()) == {passes * THREADS * 2.0}


def test_a_gradient_that_was_dropped_does_not_come_back() -> None:
    """A sum that was read before ``.grad = None`` is not written after it."""
    w = leaf([0.0])
    w.grad = const([1.0])
    reading, going_on = threading.Event(), threading.Event()

    def found() -> Iterator[Any]:
        yield w._node, const([2.0]), True
        reading.set()  # the old sum has been read, the new one not yet written
        going_on.wait(0.2)

    adding = threading.Thread(target=lambda: autodiff.add_grads(found()))
    adding.start()
    reading.wait()
    w.grad = None
    going_on.set()
    adding.join()
    assert w.grad is None


def test_a_constant_gets_one_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(array: Any) -> memory.Memory:
        time.sleep(0.01)
        return memory.Memory(array)

    x, w = const([1.0, 2.0]), leaf([1.0, 1.0])
    monkeypatch.setattr(recording, "Memory", slow)
    losses = _in_threads(lambda k: (x * w).sum())
    x.assign(0)
    for loss in losses:
        with pytest.raises(tg.InPlaceError):
            loss.backward()


# --- contexts -----------------------------------------------------------------------------------

MODES = [modes.grad_mode(False), tg.detect_anomaly(), modes.at_time(3), modes.scope("a")]


def _seen() -> Any:
    now = modes.MODES.get()
    return now.grad, now.anomaly, now.scope.time, now.scope.module


@pytest.mark.parametrize("context", MODES, ids=lambda c: type(c).__name__)
def test_one_context_serves_all_threads_and_itself(context: Any) -> None:
    outside = _seen()
    with context:
        inside = _seen()

    @context
    def decorated(depth: int) -> None:
        assert _seen()[:3] == inside[:3]
        if depth:
            decorated(depth - 1)
            with context:
                assert _seen()[:3] == inside[:3]
            assert _seen()[:3] == inside[:3]

    def work(k: int) -> Any:
        before = modes.MODES.get()
        for _ in range(50):
            decorated(3)
            assert modes.MODES.get() is before
        return _seen()

    assert set(_in_threads(work)) == {outside}


def test_use_device_is_shared_too() -> None:
    def work(k: int) -> None:
        before = modes.MODES.get()
        for _ in range(50):
            with context, context:
                assert tg.zeros(1).device == device()
            assert modes.MODES.get() is before

    before = modes.MODES.get()
    context = tg.use_device(device())
    _in_threads(work)
    with context:
        assert modes.MODES.get() is not before
    assert modes.MODES.get() is before


def _records() -> bool:
    return (leaf([1.0]) * 2).requires_grad


def test_decorators_with_and_without_parentheses() -> None:
    for decorate in (tg.no_grad, tg.no_grad(), modes.grad_mode(False)):
        assert decorate(_records)() is False
        assert decorate(_records).__name__ == "_records"
    with tg.no_grad():
        assert tg.enable_grad(_records)() is True
    with pytest.raises(tg.AnomalyError):
        tg.detect_anomaly(lambda: tg.exp(const([np.nan])))()
    assert modes.MODES.get().anomaly is False
    for make in (tg.no_grad, tg.enable_grad, tg.detect_anomaly):
        with pytest.raises(tg.ArgumentError, match=r"False.*function to decorate; write with"):
            make(False)


@tg.no_grad
def _generator() -> Iterator[Any]:
    received = []
    try:
        while len(received) < 2:
            received.append((yield _records()))
    except KeyError:
        yield ("thrown", _records())
    finally:
        received.append(_records())
    return received


def test_a_decorated_generator_is_inside_only_while_it_runs() -> None:
    generator = _generator()
    assert [next(generator), _records(), generator.send("a"), _records()] == [False, True] * 2
    with pytest.raises(StopIteration) as end:
        generator.send("b")
    assert end.value.value == ["a", "b", False]
    generator = _generator()
    next(generator)
    assert generator.throw(KeyError) == ("thrown", False)
    generator.close()
    assert list(_generator())[:1] == [False]
    assert _records()


@tg.no_grad()
async def _coroutine(at: asyncio.Event, other: asyncio.Event) -> list[bool]:
    found = [_records()]
    at.set()
    await other.wait()
    return [*found, _records()]


@tg.no_grad
async def _async_generator() -> AsyncIterator[Any]:
    for _ in range(2):
        await asyncio.sleep(0)
        yield _records()


def test_decorated_coroutines() -> None:
    async def main() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        found = await asyncio.gather(_coroutine(first, second), _coroutine(second, first))
        assert found == [[False, False]] * 2
        async for inside in _async_generator():
            assert (inside, _records()) == (False, True)
        generator = _async_generator()
        await anext(generator)
        await generator.aclose()
        assert _records()

    asyncio.run(main())


def test_a_decorated_coroutine_that_waits_leaves_others_alone() -> None:
    @types.coroutine
    def wait() -> Iterator[Any]:
        yield

    @tg.no_grad
    async def waiting() -> bool:
        await wait()  # type: ignore[misc]
        return _records()

    one, other = waiting(), waiting()  # driven by hand, in one context
    one.send(None)
    other.send(None)
    assert _records()
    one.close()
    with pytest.raises(StopIteration) as end:
        other.send(None)
    assert end.value.value is False
    assert _records()


def test_a_context_left_where_it_was_not_entered_says_so() -> None:
    context = tg.no_grad()
    before = modes.MODES.get()
    with pytest.raises(tg.GraphError, match="left where it was not entered"):
        context.__exit__(None, None, None)
    assert modes.MODES.get() is before


# --- interrupts ---------------------------------------------------------------------------------

HERE = str(Path(tg.__file__).parent)


class _Interrupt:
    """Raises KeyboardInterrupt before the n-th line that the framework runs, in some functions or all."""

    def __init__(self, n: int, functions: Sequence[str] = ()) -> None:
        self.left = n
        self.functions = functions

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        if event == "line" and (not self.functions or frame.f_code.co_name in self.functions):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def _interrupted(run: Callable[[], Any], n: int, functions: Sequence[str] = ()) -> bool:
    """Whether the n-th line was reached, and interrupted."""
    before = sys.gettrace()
    sys.settrace(_Interrupt(n, functions))
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def _is_free(lock: Any) -> bool:
    """Whether another thread could take the lock."""
    found: list[bool] = []

    def take() -> None:
        found.append(lock.acquire(blocking=False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_interrupted_backward_leaves_all_gradients_or_none(create_graph: bool) -> None:
    given = modes.MODES.get()
    outcomes = set()
    n = 0
    while True:
        n += 1
        leaves = [leaf([1.0, 2.0]) for _ in range(3)]
        old = leaf([5.0, 5.0]).detach()
        leaves[1].grad = old
        loss = (tg.exp(leaves[0] * leaves[1]) + leaves[2]).sum()
        interrupted = _interrupted(lambda loss=loss: loss.backward(create_graph=create_graph), n)
        assert modes.MODES.get() is given
        found = [leaves[0].grad, leaves[1].grad, leaves[2].grad]
        written = found[0] is not None
        assert [g is not None for g in found] == [written, True, written]
        assert (found[1] is not old) == written
        outcomes.add((interrupted, written))
        assert _is_free(memory.LOCK)
        if not interrupted:
            break
    assert outcomes == {(True, False), (True, True), (False, True)}
    assert n > 100


def test_an_error_inside_two_runs_with_the_lock_frees_it_once() -> None:
    @memory.locked
    @memory.locked
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert _is_free(memory.LOCK)


def test_an_interrupted_entry_leaves_the_modes() -> None:
    given = modes.MODES.get()

    def enter() -> None:
        with tg.no_grad():
            pass

    n = 1
    while _interrupted(enter, n, ("__enter__", "change", "twin")):
        assert modes.MODES.get() is given
        n += 1
    assert n > 10


def _entries() -> dict[str, Callable[[], Any]]:
    """Functions that change the modes inside, each in a small case."""
    x, w = leaf([0.5, 2.0]), leaf([[0.3, 0.1], [0.2, 0.4]])
    rnn = tg.nn.RNN(2, 2, rng=0).to(device())

    def loss() -> tg.Tensor:
        return rnn(const(np.ones((2, 1, 2), "f4")))[0][-1].sum()

    def step(tokens: Any, state: Any) -> Any:
        return tg.log_softmax(w[tokens], axis=-1), state

    def expand() -> None:
        graph = tg.inspect.trace(loss())
        graph.expand(graph.select(op="rnn_scan")[0])

    def cube(x: tg.Tensor) -> tg.Tensor:
        return (x**3).sum()

    return {
        "vjp": lambda: tg.vjp(cube, x),
        "jvp": lambda: tg.jvp(cube, x, x),
        "jacobian": lambda: tg.jacobian(cube, x),
        "hessian": lambda: tg.hessian(cube, x),
        "check_gradients": lambda: tg.testing.check_gradients(cube, x),
        "remat": lambda: tg.remat(cube)(x).backward(),
        "forward": loss,
        "backward": lambda: loss().backward(),
        "trace": lambda: tg.inspect.trace(loss()).nodes,
        "expand": expand,
        "gradient_flow": lambda: tg.inspect.gradient_flow(loss()),
        "state_grad_matrix": lambda: tg.inspect.state_grad_matrix(loss()),
        "input_grad_matrix": lambda: tg.inspect.input_grad_matrix(loss()),
        "step_jacobians": lambda: tg.inspect.step_jacobians(loss()),
        "path_split": lambda: tg.inspect.path_split(loss()),
        "grad_by_hops": lambda: tg.inspect.grad_by_hops(loss()),
        "decode": lambda: tg.decode.beam_search(step, None, 0, 2, 2),
        "decorated": lambda: tg.no_grad(cube)(x),
        "generator": lambda: list(_generator()),
    }


@pytest.mark.parametrize("name", _entries())
def test_an_interrupt_leaves_the_modes(name: str) -> None:
    """This includes an interrupt as a context is left, before it has restored the modes."""
    given = modes.MODES.get()
    run = _entries()[name]
    run()
    for functions in ("__exit__",), ("__enter__", "change", "inside", "run"):
        n = 1
        while _interrupted(run, n, functions):
            assert modes.MODES.get() is given
            n += 1 + n // 3
        assert n > 1


CONTEXTS = {name for name, found in vars(modes).items() if isinstance(found, type)} | {
    "no_grad",
    "enable_grad",
}


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Syntax nodes of a function, without those of the functions inside it."""
    left: list[ast.AST] = list(function.body)
    while left:
        part = left.pop()
        yield part
        if not isinstance(part, (ast.FunctionDef, ast.Lambda)):
            left += ast.iter_child_nodes(part)


def _enters(function: ast.FunctionDef) -> bool:
    items = [item for part in _own(function) if isinstance(part, ast.With) for item in part.items]
    calls = [part for item in items for part in ast.walk(item.context_expr)]
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CONTEXTS
        for call in calls
    )


def test_every_function_of_the_framework_that_enters_a_context_keeps_the_modes() -> None:
    found = []
    for file in sorted(Path(HERE).rglob("*.py")):
        for part in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(part, ast.FunctionDef) and _enters(part):
                marks = [ast.unparse(mark) for mark in part.decorator_list]
                kept = "modes_kept" in marks or "MODES.set(" in ast.unparse(part)
                found.append((f"{file.name}: {part.name}", kept))
    assert len(found) > 20
    assert [name for name, kept in found if not kept] == []


def test_an_interrupted_load_leaves_all_parameters_or_none() -> None:
    model = tg.nn.LSTM(1, 2, 2, rng=0).to(device())
    old = {name: host(p) for name, p in model.state_dict().items()}
    new = {name: 2 * p for name, p in old.items()}
    outcomes, n, interrupted = set(), 1, True
    while interrupted:
        interrupted = _interrupted(lambda: model.load_state_dict(new), n, ("assign",))
        found = {name: host(p) for name, p in model.state_dict().items()}
        written = all(np.array_equal(found[name], new[name]) for name in new)
        assert written or all(np.array_equal(found[name], old[name]) for name in old)
        outcomes.add((interrupted, written))
        n += 1
    assert outcomes == {(True, False), (False, True)}


@host_only("an array that cannot be written to")
def test_a_parameter_that_cannot_be_written_to_stops_the_others() -> None:
    model = tg.nn.Linear(2, 2, rng=0)
    weight, bias = (host(p).copy() for p in (model.weight, model.bias))
    model.bias._data.flags.writeable = False
    with pytest.raises(tg.GraphError, match="assign: a graph still uses this array"):
        model.load_state_dict({"weight": weight + 1, "bias": bias + 1})
    assert np.array_equal(host(model.weight), weight)
    assert np.array_equal(host(model.bias), bias)


# --- what can be decorated ----------------------------------------------------------------------


class _Methods:
    @tg.no_grad()
    @classmethod
    def of_class(cls) -> bool:
        return _records()

    @tg.no_grad()
    @staticmethod
    def static() -> bool:
        return _records()

    @tg.no_grad
    def own(self) -> bool:
        return _records()

    def __call__(self) -> Iterator[bool]:
        yield _records()


def test_methods_of_every_kind_are_decorated() -> None:
    assert [_Methods.of_class(), _Methods().of_class(), _Methods.static()] == [False] * 3
    assert _Methods().own() is False
    assert list(tg.no_grad(_Methods())()) == [False]
    assert list(tg.no_grad(functools.partial(_Methods.__call__, _Methods()))()) == [False]


def test_a_generator_that_can_be_awaited_still_can() -> None:
    @tg.no_grad
    @types.coroutine
    def old() -> Iterator[Any]:
        yield
        return _records()

    async def waits() -> Any:
        return await old()  # type: ignore[misc]

    running = waits()
    running.send(None)
    with pytest.raises(StopIteration) as end:
        running.send(None)
    assert end.value.value is False


@pytest.mark.parametrize("make", [tg.no_grad, tg.enable_grad, tg.detect_anomaly])
def test_a_class_is_not_decorated(make: Any) -> None:
    for decorate in (make, make()):
        with pytest.raises(
            tg.ArgumentError, match=rf"^{make.__name__}: .*_Methods.* is.*class; decorate its"
        ):
            decorate(_Methods)
    with pytest.raises(tg.ArgumentError, match=r"3.*function to decorate"):
        make()(3)
