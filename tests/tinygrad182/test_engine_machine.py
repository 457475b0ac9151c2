"""Random use of the whole engine, step by step, beside the dense engine.

Every step does the same to a Tensor and to a :class:`dense_engine.Value`. After it all values, flags and
gradients must be equal. Operations are written once, for Tensors and NumPy arrays alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import tinygrad182 as tg
from tests.oracles import dense_engine
from tests.support import assert_close, const, device, share_memory

# Sizes are 1 and 2, so that everything broadcasts against everything.
SHAPES: list[tuple[int, ...]] = [(2, 2), (2, 2), (2,), (1, 2), (2, 1), ()]
VIEWS: list[Callable[[Any], Any]] = [
    lambda x: x.T,
    lambda x: x.reshape(-1)[:2],
    lambda x: x.reshape(1, -1)[:, ::-1][:, :2],
    lambda x: x[-1:] if x.ndim else x.reshape(1),
    lambda x: x.reshape(2, 2)[::-1] if x.size == 4 else x.reshape(-1, 1),
    lambda x: np.broadcast_to(x, (2, 2)),
]
LINEAR: list[Callable[[Any], Any]] = [
    lambda x: -3 * x,
    lambda x: x - 1 * x,
    lambda x: x.sum(),
    lambda x: x.mean(axis=-1) if x.ndim else x * 1,
    lambda x: x[[-1, 0]] if x.ndim else x * 2,
    lambda x: x[..., :1] - 3 * x[..., -1:] if x.ndim else x / 2,
    lambda x: np.concatenate([x.reshape(-1), x.reshape(-1)[:1]])[-2:],
]
LINEAR_2: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - 2 * b,
    lambda a, b: np.stack([_full(a), _full(b)])[:, 0],
    lambda a, b: np.concatenate([_full(a), _full(b)], axis=1)[:, 1:3],
    lambda a, b: _rows(a)[0] - _rows(b)[1],
]
BILINEAR: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a * b,
    lambda a, b: _full(a) @ _full(b) / 2,
    lambda a, b: np.einsum("ij,kj->ki", _full(a), _full(b)) / 2,
]
ELEMENTWISE: list[tuple[Callable[[Any], Any], ...]] = [  # f, f′, f″
    (np.sin, np.cos, lambda x: -np.sin(x)),
    (np.tanh, lambda x: np.cosh(x) ** -2.0, lambda x: -2 * np.tanh(x) * np.cosh(x) ** -2.0),
    (lambda x: np.tanh(x) * np.tanh(x), lambda x: _square(x, 1), lambda x: _square(x, 2)),
]


def _full(x: Any) -> Any:
    return np.broadcast_to(x, (2, 2))


def _rows(x: Any) -> list[Any]:
    return [2 * row for row in _full(x)]


def _square(x: Any, order: int) -> Any:
    t, s = np.tanh(x), np.cosh(x) ** -2.0
    return 2 * t * s if order == 1 else 2 * s * s - 4 * t * t * s


INDEX = st.integers(0, 4) | st.integers(0, 99)  # counted from the latest, which makes graphs deep
SOME = st.lists(INDEX, min_size=1, max_size=3)
BUILDERS = 2 * ["view", "linear", "linear_2", "bilinear", "elementwise"]
BUILDERS += ["detach", "without_grad", "beside_detached"]
STEP = st.tuples(st.sampled_from(BUILDERS), st.integers(0, 6), INDEX, INDEX)


class Pair(NamedTuple):
    """One value in both engines."""

    tensor: tg.Tensor
    value: dense_engine.Value


def _equal(actual: tg.Tensor | None, expected: Any, what: str) -> None:
    assert (actual is None) == (expected is None), f"{what}: None in one engine only"
    if actual is not None:
        assert_close(actual, expected, 1e-11, what, floor=1.0)


class Engines(RuleBasedStateMachine):
    """The engine and the dense one, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.all: list[Pair] = []
        self.own: list[Pair] = []  # leaves with memory of their own

    def _array(self, shape: tuple[int, ...]) -> dense_engine.Array:
        return self.rng.uniform(-1, 1, shape)

    def _pick(self, i: int) -> Pair:
        """Pick a value by its number; the latest is number 0."""
        return self.all[-1 - i % len(self.all)]

    def _in_own_memory(self, i: int) -> Pair:
        """A leaf or a view of one, views more often."""
        memories = {x.value.memory for x in self.own}
        able = [p for p in self.all if p.value.memory in memories]
        views = [p for p in able if not p.value.is_leaf]
        several = able + 3 * views
        return several[-1 - i % len(several)]

    def _outputs(self, indices: list[int]) -> list[Pair]:
        """Mostly results that can be differentiated, and sometimes any values."""
        able = [p for p in self.all if not p.value.is_leaf and not dense_engine.is_freed([p.value])]
        several = self.all + 3 * able
        return [several[-1 - i % len(several)] for i in indices]

    # --- making values --------------------------------------------------------------------------

    @initialize(steps=st.lists(STEP, min_size=5, max_size=12))
    def start(self, steps: list[Any]) -> None:
        for shape in SHAPES[:3]:
            self.leaf(shape, True)
        # in every program: one cotangent for two leaves, and a constant in the memory of a third
        first = [("linear_2", 0, 1, 2), ("view", 2, 1, 0), ("beside_detached", 0, 0, 3)]
        self.grow([*first, *steps])

    @rule(shape=st.sampled_from(SHAPES), requires_grad=st.booleans())
    def leaf(self, shape: tuple[int, ...], requires_grad: bool) -> None:
        array = self._array(shape)
        tensor = tg.tensor(array, device=device(), requires_grad=requires_grad)
        self.own.append(Pair(tensor, dense_engine.Value(array, requires_grad)))
        self.all.append(self.own[-1])

    @rule(steps=st.lists(STEP, min_size=2, max_size=6))
    def grow(self, steps: list[Any]) -> None:
        for kind, which, i, j in steps:
            self.all.append(Pair(*self._made(kind, which, self._pick(i), self._pick(j))))

    def _made(
        self, kind: str, which: int, a: Pair, b: Pair
    ) -> tuple[tg.Tensor, dense_engine.Value]:
        def one_of(several: list[Any]) -> Any:
            return several[which % len(several)]

        if kind == "view":
            f = one_of(VIEWS)
            return f(a.tensor), dense_engine.linear(f, a.value, view=True)
        if kind == "linear":
            f = one_of(LINEAR)
            return f(a.tensor), dense_engine.linear(f, a.value)
        if kind == "linear_2":
            f = one_of(LINEAR_2)
            return f(a.tensor, b.tensor), dense_engine.linear(f, a.value, b.value)
        if kind == "bilinear":
            f = one_of(BILINEAR)
            return f(a.tensor, b.tensor), dense_engine.bilinear(f, a.value, b.value)
        if kind == "elementwise":
            f, df, ddf = one_of(ELEMENTWISE)
            return f(a.tensor), dense_engine.elementwise(f, df, ddf, a.value)
        if kind == "detach":
            return a.tensor.detach(), a.value.detach()
        if kind == "beside_detached":  # a constant in memory that may be written to
            c = self._in_own_memory(which)
            return c.tensor.detach() * b.tensor, dense_engine.bilinear(
                BILINEAR[0], c.value.detach(), b.value
            )
        f = one_of([*VIEWS, BILINEAR[0]])
        with tg.no_grad():
            if f in VIEWS:
                return f(a.tensor), dense_engine.Value(f(a.value.array), memory=a.value.memory)
            return f(a.tensor, b.tensor), dense_engine.Value(f(a.value.array, b.value.array))

    # --- changing them --------------------------------------------------------------------------

    @rule(i=INDEX)
    def toggle(self, i: int) -> None:
        x = self._pick(i)
        if x.value.is_leaf:
            used = any(x.value in p.value.operands for p in self.all)
            if x.value.requires_grad or not used:  # what it then means for old graphs is left open
                x.value.requires_grad = x.tensor.requires_grad = not x.value.requires_grad
        else:
            with pytest.raises(tg.GraphError):
                x.tensor.requires_grad = False

    @rule(i=INDEX)
    def retain_grad(self, i: int) -> None:
        x = self._pick(i)
        if x.value.requires_grad:
            x.tensor.retain_grad()
            x.value.keeps_grad = True
        else:
            with pytest.raises(tg.GraphError):
                x.tensor.retain_grad()

    @rule(i=INDEX, in_place=st.booleans())
    def drop_grad(self, i: int, in_place: bool) -> None:
        """A change in place would reveal a gradient that shares memory with another one."""
        able = [p for p in self.all if p.value.grad is not None]
        if not able:
            return
        x = able[i % len(able)]
        if in_place and x.tensor.grad is not None and x.tensor.grad.is_leaf:
            x.tensor.grad.assign(0.0)
            x.value.grad = np.zeros(x.value.array.shape)
        else:
            x.tensor.grad = x.value.grad = None

    # --- derivatives ----------------------------------------------------------------------------

    def _refused(self, outputs: list[Pair], run: Callable[[], Any]) -> Any:
        """Return ``run()``, or None if it must raise, or raises because an operand was changed."""
        values = [p.value for p in outputs]
        expected: type[Exception] | None = None
        if not all(v.requires_grad for v in values):
            expected = tg.GraphError
        elif dense_engine.is_freed(values):
            expected = tg.FreedGraphError
        if expected is not None:
            with pytest.raises(expected) as raised:
                run()
            assert raised.type is expected
            return None
        try:
            return run()
        except tg.InPlaceError:
            if dense_engine.is_changed(values):
                return None
            raise

    def _check_backward(self, output: Pair, mode: str) -> None:
        x, value = output
        seed = self._array(value.array.shape)
        free = mode == "free" and not dense_engine.is_changed([value])

        def run() -> bool:
            x.backward(const(seed), retain_graph=not free, create_graph=mode == "create")
            return True

        if self._refused([output], run):
            dense_engine.backward(value, seed)
            if free:
                dense_engine.free([value])

    @rule(i=INDEX, mode=st.sampled_from(["free", "retain", "create"]))
    def backward(self, i: int, mode: str) -> None:
        self._check_backward(*self._outputs([i]), mode)

    def _check_grad(self, outputs: list[Pair], inputs: list[Pair], free: bool) -> None:
        ys, values = [p.tensor for p in outputs], [p.value for p in outputs]
        seeds = [self._array(v.array.shape) for v in values]
        free = free and not dense_engine.is_changed(values)
        xs = [p.tensor for p in inputs]
        found = self._refused(outputs, lambda: tg.grad(ys, xs, seeds, retain_graph=not free))
        if found is None:
            return
        first, _ = dense_engine.derivatives(values, seeds)
        for p, g in zip(inputs, found, strict=True):
            _equal(g, first.get(p.value), "grad")
        if free:
            dense_engine.free(values, [p.value for p in inputs])

    @rule(of=SOME, by=SOME, free=st.booleans())
    def grad(self, of: list[int], by: list[int], free: bool) -> None:
        self._check_grad(self._outputs(of), [self._pick(i) for i in by], free)

    @rule(i=INDEX)
    def assign(self, i: int) -> None:
        """Operations that read the old elements must refuse to go back, or not need them."""
        x = self.own[i % len(self.own)]
        array = self._array(x.value.array.shape)
        x.tensor.assign(array)
        x.value.assign(array)
        for p in self.all:
            if any(v.memory is x.value.memory for v in p.value.operands):
                self._check_grad([p], self.all, free=False)

    @rule(of=SOME, by=SOME, again=SOME)
    def second_order(self, of: list[int], by: list[int], again: list[int]) -> None:
        inputs, targets = ([self._pick(i) for i in several] for several in (by, again))
        self._check_second_order(self._outputs(of), inputs, targets)

    def _check_second_order(
        self, outputs: list[Pair], inputs: list[Pair], targets: list[Pair]
    ) -> None:
        inputs = list(dict.fromkeys(inputs))
        # not by values that a rule may contain, as tanh in 1 − tanh²: that is one way to write it
        targets = [p for p in targets if not any(i == j for i, j, _ in p.value.second)]
        values = [p.value for p in outputs]
        seeds = [self._array(v.array.shape) for v in values]
        ys, xs, zs = ([p.tensor for p in pairs] for pairs in (outputs, inputs, targets))
        found = self._refused(outputs, lambda: tg.grad(ys, xs, seeds, create_graph=True))
        if found is None:
            return
        nudges = {p.value: self._array(p.value.array.shape) for p in inputs}
        first, second = dense_engine.derivatives(values, seeds, nudges)
        total: Any = const(0.0)
        for p, g in zip(inputs, found, strict=True):
            _equal(g, first.get(p.value), "grad with create_graph")
            total = total if g is None else total + (g * const(nudges[p.value])).sum()
        rows: Any = [None] * len(zs)
        if total.requires_grad:
            rows = self._refused(outputs, lambda: tg.grad(total, zs, retain_graph=True))
        for p, row in zip(targets, rows or (), strict=rows is not None):
            expected = second.get(p.value, np.zeros(p.value.array.shape))
            _equal(tg.zeros_like(p.tensor) if row is None else row, expected, "second order")

    def teardown(self) -> None:
        """Check every derivative once more, then after a write to every leaf."""
        for age, p in enumerate(reversed(self.all)):
            if p.value.requires_grad and not p.value.is_leaf:
                for q in self.all:
                    if q.value.keeps_grad:
                        q.tensor.grad = q.value.grad = None
                self._check_backward(p, "retain")
                self.gradients_share_no_memory()
                self.both_engines_agree()
                if age < 5:
                    self._check_grad([p, p], self.all, free=False)
                    self._check_second_order([p], self.all[-3:] + self.own[:3], self.own)
        for i in range(len(self.own)):
            self.assign(i)

    # --- what must hold after every step --------------------------------------------------------

    @invariant()
    def gradients_share_no_memory(self) -> None:
        """Leaf gradients share no memory; those that create_graph recorded cannot be written to."""
        grads = [p.tensor.grad for p in self.all if p.tensor.grad is not None]
        for g in grads:
            others = [x for x in grads if x is not g] + [p.tensor for p in self.all]
            if g.is_leaf:
                assert not any(share_memory(g, x) for x in others)

    @invariant()
    def both_engines_agree(self) -> None:
        for p in self.all:
            assert_close(p.tensor, p.value.array, 1e-11, floor=1.0)
            assert p.tensor.requires_grad == p.value.requires_grad
            assert p.tensor.is_leaf == p.value.is_leaf
            _equal(p.tensor.grad, p.value.grad, ".grad")


TestEngines = Engines.TestCase
TestEngines.settings = settings(stateful_step_count=20)
