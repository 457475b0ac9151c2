"""Many threads, many steps, deep graphs: properties that hold once hold the thousandth time."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_same_bits, const, device, leaf
from tinygrad182.engine import modes

from .test_memory import assert_nothing_is_left, in_thread

SMALL_STACK = 256 * 1024
DEEP = 20_000 if device() == "cpu" else 5_000  # deeper than any recursion

# --- threads and tasks --------------------------------------------------------------------------


def test_threads_share_parameters() -> None:
    """Eight threads, 300 gradients each through one layer's parameters: the bits of one thread."""
    rnn = tg.nn.RNN(2, 4, rng=0, dtype="float64")
    inputs = np.random.default_rng(0).standard_normal((8, 3, 1, 2))
    weights = list(rnn.parameters())

    def gradients(k: int) -> list[Any]:
        x = leaf(inputs[k])
        output, h_n = rnn(x)
        found = tg.grad((output * output).sum() + h_n.sum(), [x, *weights])
        return [g.numpy() for g in found if g is not None]

    expected = [gradients(k) for k in range(8)]
    assert len(expected[0]) == 1 + len(weights)

    def work(k: int) -> None:
        for _ in range(300):
            for g, e in zip(gradients(k), expected[k], strict=True):
                assert_same_bits(g, e)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert all(w.grad is None for w in weights)


class _Slow(tg.nn.Module):
    """A module whose forward other tasks run in the middle of."""

    def __init__(self, name: str, seen: list[tuple[str, str, int | None]]) -> None:
        self.name = name
        self.seen = seen
        self.inner = tg.nn.Linear(1, 1, rng=0)

    async def forward_in_steps(self, x: tg.Tensor, start: int) -> None:
        for t in range(start, start + 5):
            with modes.at_time(t):
                await asyncio.sleep(0)
                h = tg.inspect.mark(tg.tanh(self.inner(x)), "h")
                await asyncio.sleep(0)
            assert h._node is not None
            place = h._node.marks[-1].scope
            self.seen.append((self.name, place.module, place.time))
            assert h._node.inputs is not None
            assert h._node.inputs[0].scope.module == f"{self.name}.linear"  # type: ignore[union-attr]


def test_tasks_keep_their_scopes_and_times() -> None:
    seen: list[tuple[str, str, int | None]] = []

    async def run(name: str, start: int) -> None:
        with modes.scope(name):
            await _Slow(name, seen).forward_in_steps(leaf(np.ones((1, 1), np.float32)), start)

    async def all_at_once() -> None:
        await asyncio.gather(*(run(f"m{k}", 10 * k) for k in range(4)))
        assert modes.MODES.get() is outside

    outside = modes.MODES.get()
    asyncio.run(all_at_once())
    assert sorted(seen) == [(f"m{k}", f"m{k}", 10 * k + t) for k in range(4) for t in range(5)]
    assert [name for name, _, _ in seen[:4]] == ["m0", "m1", "m2", "m3"]  # they did take turns


# --- modes after exceptions ---------------------------------------------------------------------


class Broken(Exception):  # noqa: N818 - raised on purpose
    pass


def _broken(*_: Any) -> Any:
    with modes.at_time(3), tg.no_grad(), modes.scope("inside"):
        raise Broken


def _once_then_broken() -> Callable[[tg.Tensor], tg.Tensor]:
    """A function that fails when it is run again."""
    calls = iter([lambda x: tg.tanh(x * x), _broken])
    return lambda x: next(calls)(x)


def _remat_backward(x: tg.Tensor) -> None:
    tg.remat(_once_then_broken())(x).sum().backward()


def _in_module(x: tg.Tensor) -> None:
    tg.nn.Sequential(tg.nn.Linear(2, 2, rng=0, dtype="float64"), _broken)(x)


def _anomaly(x: tg.Tensor) -> None:
    with tg.detect_anomaly():
        tg.exp(x * math.nan)


def _anomaly_backward(x: tg.Tensor) -> None:
    with tg.detect_anomaly(), np.errstate(divide="ignore"):
        tg.sqrt(x * 0.0).sum().backward()


def _changed(look: Callable[[tg.Tensor], Any]) -> Callable[[tg.Tensor], Any]:
    def use(x: tg.Tensor) -> None:
        h = tg.inspect.mark(tg.tanh(x * x), "h", time=0)
        y = (h * x).sum()
        x.assign(0.5)
        look(y)

    return use


@pytest.mark.parametrize(
    "use",
    [
        _anomaly,
        _anomaly_backward,
        _in_module,
        _remat_backward,
        lambda x: tg.remat(_broken)(x),
        lambda x: tg.vjp(_broken, x),
        lambda x: tg.vjp(lambda x: x * x, x)[1](tg.ones(5)),
        lambda x: tg.jvp(_broken, x, x),
        lambda x: tg.jvp(lambda x: x * x, x, tg.ones(5)),
        lambda x: tg.jacobian(_broken, x),
        lambda x: tg.hessian(_broken, x),
        lambda x: tg.hessian(lambda x: x * x, x),
        lambda x: tg.jacobian(tg.remat(_once_then_broken()), x),
        _changed(tg.inspect.trace),
        _changed(tg.inspect.gradient_flow),
        _changed(lambda y: y.backward(create_graph=True)),
        _changed(tg.Tensor.backward),
    ],
)
def test_an_exception_on_the_way_restores_the_modes(use: Callable[[tg.Tensor], Any]) -> None:
    x = leaf([1.0, 2.0])
    with tg.no_grad(), modes.scope("outside"), modes.at_time(7), tg.enable_grad():
        before = modes.MODES.get()
        with pytest.raises((Broken, tg.TinygradError)):
            use(x)
        assert modes.MODES.get() is before
    assert x.grad is None


# --- a thousand steps ---------------------------------------------------------------------------


class _Training:
    """A small recurrent model, its optimizer, and ways to use it."""

    def __init__(self) -> None:
        self.rnn = tg.nn.RNN(1, 2, rng=0, dtype="float64")
        self.optimizer = tg.optim.Adam(self.rnn.parameters(), lr=1e-3)
        self.x = const(np.ones((2, 1, 1)))

    def loss(self) -> tg.Tensor:
        output, _ = self.rnn(self.x)
        return (output[-1] ** 2).sum()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def abandoned(self) -> None:
        self.loss()

    def fails_forward(self) -> None:
        with contextlib.suppress(tg.ShapeError):
            self.loss() + tg.ones(5) @ tg.ones(4)

    def fails_backward(self) -> None:
        loss = self.loss()
        self.optimizer.step()
        with contextlib.suppress(tg.InPlaceError):
            loss.backward()

    def fails_twice(self) -> None:
        loss = self.loss()
        loss.backward()
        with contextlib.suppress(tg.FreedGraphError):
            loss.backward()

    def traced(self) -> None:
        graph = tg.inspect.trace(self.loss())
        assert graph.nodes[-1].inputs[0].edges
        assert tg.inspect.first_anomaly(graph) is None
        graph.table()

    def flow(self) -> None:
        repr(tg.inspect.gradient_flow(self.loss())["rnn.l0"].h)

    def rematerialized(self) -> None:
        tg.remat(lambda x: self.rnn(x)[0])(self.x).sum().backward()

    def twice(self) -> None:
        found = tg.grad(self.loss(), list(self.rnn.parameters()), create_graph=True)
        sum((g * g).sum() for g in found if g is not None).backward()  # type: ignore[union-attr]

    def watched(self) -> None:
        with tg.detect_anomaly():
            self.loss().backward()

    def fails_watched(self) -> None:
        with contextlib.suppress(tg.AnomalyError), tg.detect_anomaly():
            (self.loss() * math.inf).backward()


_USES = [name for name in vars(_Training) if not name.startswith("_") and name != "loss"]


@pytest.mark.parametrize("use", _USES)
def test_a_thousand_steps_leave_nothing(use: str) -> None:
    """1,000 training steps in all, with every other use of the framework in between."""
    training = _Training()

    def run(_: int) -> None:
        getattr(training, use)()
        training.step()

    long = use == "step" and device() == "cpu"  # an object a step would show in 100 as well
    assert_nothing_is_left(run, 1000 if long else 100)


# --- deep graphs on a small stack ---------------------------------------------------------------


def _deep(x: tg.Tensor) -> tg.Tensor:
    """A marked loop in which the gradient stays 1."""
    h = x * 1
    for t in range(DEEP):
        h = tg.inspect.mark(h + 0.5, "h", time=t)
    return h


def _copied(x: tg.Tensor) -> None:
    """Copies of results are refused; copies of a leaf and of a detached tensor leave out the graph."""
    h = _deep(x)
    with pytest.raises(tg.GraphError, match=r"detach\(\) or clone\(\)"):
        copy.deepcopy(h)
    assert copy.deepcopy(h.detach()).item() == h.item()
    h.backward()
    twin = copy.deepcopy(x)
    assert twin.grad is not None
    assert (twin.item(), twin.grad.item()) == (x.item(), 1.0)


def _copied_module(x: tg.Tensor) -> None:
    """A module's values of a forward pass go neither into its copy nor into a pickle."""
    module = tg.nn.Linear(1, 1, rng=0, dtype="float64")
    h = _deep(module(tg.reshape(x, (1, 1))))
    twin = copy.deepcopy(module)
    assert_same_bits(twin.weight, module.weight)
    assert twin.weight is not module.weight
    h.sum().backward()
    assert module.weight.grad is not None
    assert twin.weight.grad is None


def _pickled(x: tg.Tensor) -> None:
    module = tg.nn.Linear(1, 1, rng=0)
    for thing in (_deep(x), x, module):
        with pytest.raises(tg.TinygradError, match=r"not pickled.*state_dict"):
            pickle.dumps(thing)


def _traced(x: tg.Tensor) -> None:
    graph = tg.inspect.trace(_deep(x))
    assert len(graph) == DEEP + 2
    assert f"{DEEP + 2} nodes" in repr(graph)
    assert len(graph.table(max_rows=None).splitlines()) > DEEP
    assert len(graph.table().splitlines()) < 100
    assert {float(node.grad) for node in graph.nodes} == {1.0}
    assert float(graph.nodes[0].edges[0].cotangent) == 1.0
    assert tg.inspect.first_anomaly(graph) is None
    assert graph.select(name="h", time=DEEP - 1) == [graph.nodes[-1]]
    repr(graph.nodes[-1])


def _copied_graph(x: tg.Tensor) -> None:
    """Copying node by node would recurse as deep as the graph is."""
    graph = tg.inspect.trace(_deep(x))
    for thing in (graph, graph.nodes[-1], graph.nodes[0].edges):
        for use in (copy.deepcopy, pickle.dumps):
            with pytest.raises(tg.GraphError, match=r"cannot be copied or pickled.*table"):
                use(thing)  # type: ignore[operator]


def _flow(x: tg.Tensor) -> None:
    h = tg.inspect.gradient_flow(_deep(x))[""].h
    assert h.time.tolist() == list(range(DEEP))
    assert set(h.grad_norm.tolist()) == {1.0}
    repr(h)
    again = pickle.loads(pickle.dumps(h))
    assert_same_bits(again.grad, copy.deepcopy(h).grad)


def _rematerialized(x: tg.Tensor) -> None:
    tg.remat(_deep)(x).backward()
    assert x.grad is not None
    assert x.grad.item() == 1.0


def _watched(x: tg.Tensor) -> None:
    with tg.detect_anomaly():
        _deep(x).backward()


@pytest.mark.parametrize(
    "use",
    [_copied, _copied_module, _pickled, _traced, _copied_graph, _flow, _rematerialized, _watched],
)
def test_deep_graphs(use: Callable[[tg.Tensor], None]) -> None:
    in_thread(lambda: use(leaf(0.5)), SMALL_STACK)
