"""A fused layer is the unrolled one: results, gradients of any order, tangents, cotangents side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, array, assert_close, const, leaf, moved
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import node_of
from tinygrad182.tensors import functions

KINDS = ("tanh", "relu", "identity", "lstm", "gru")
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def make(kind: str, *sizes: int, **options: Any) -> Any:
    """A layer: I, H, number of layers."""
    if kind in ("lstm", "gru"):
        return getattr(tg.nn, kind.upper())(*sizes, **options)
    return tg.nn.RNN(*sizes, nonlinearity=kind, **options)  # type: ignore[arg-type, misc]


@dataclass(frozen=True)
class Case:
    """A layer, fused and not, and what both are called with."""

    kind: str
    sizes: tuple[int, int, int, int]
    layers: int
    seed: int
    dtype: str
    bias: bool
    batch_first: bool
    lengths: bool
    window: int | None
    states: bool

    @property
    def parts(self) -> int:
        return 2 if self.kind == "lstm" else 1

    def layer(self, fused: bool) -> Any:
        _, _, inputs, hidden = self.sizes
        return make(
            self.kind,
            *(inputs, hidden, self.layers),
            bias=self.bias,
            batch_first=self.batch_first,
            return_states=self.states,
            fused=fused,
            rng=self.seed,
            dtype=self.dtype,
        )

    def draw(self, salt: int = 0) -> list[Array]:
        """x, and the initial state in parts."""
        steps, batch, inputs, hidden = self.sizes
        rng = np.random.default_rng((self.seed, salt))
        x = (batch, steps, inputs) if self.batch_first else (steps, batch, inputs)
        shapes = [x, *[(self.layers, batch, hidden)] * self.parts]
        return [rng.standard_normal(shape).astype(self.dtype) for shape in shapes]

    def run(self, layer: Any, x: Any, *state: Any) -> list[tg.Tensor]:
        """Everything a layer returns."""
        steps, batch, *_ = self.sizes
        ends = np.random.default_rng(self.seed).integers(0, steps + 1, batch)
        given = state[0] if len(state) == 1 else state
        output, last, *states = layer(
            x, given, lengths=ends if self.lengths else None, truncate=self.window
        )
        lasts = last if isinstance(last, tuple) else (last,)
        return [output, *lasts, *(part for every in states for part in every)]

    def output(self, layer: Any, xs: Sequence[Any], i: int, x: Any) -> tg.Tensor:
        """The first of what a layer returns, as a function of its i-th operand."""
        return self.run(layer, *xs[:i], x, *xs[i + 1 :])[0]

    def losses(self, results: Sequence[tg.Tensor]) -> tg.Tensor:
        """One number from all results, bent so that second derivatives are not 0."""
        rng = np.random.default_rng(self.seed + 1)
        terms = [
            (const(rng.standard_normal(y.shape).astype(self.dtype)) * (y + y * y)).sum()
            for y in results
        ]
        return sum(terms[1:], terms[0])


cases = st.builds(
    Case,
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(*[st.integers(1, n) for n in (6, 3, 3, 4)]),
    layers=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(list(TOLERANCE)),
    bias=st.booleans(),
    batch_first=st.booleans(),
    lengths=st.booleans(),
    window=st.none() | st.integers(1, 7),
    states=st.booleans(),
)


def both(case: Case, compute: Callable[[Any], list[Any]], floor: float = 1.0) -> None:
    """Compare what is computed from the fused layer and the unrolled one, and the dtypes."""
    fused, unrolled = compute(case.layer(fused=True)), compute(case.layer(fused=False))
    assert len(fused) == len(unrolled)
    for i, (a, b) in enumerate(zip(fused, unrolled, strict=True)):
        assert (a is None) == (b is None), i
        if a is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert_close(a, b.numpy(), TOLERANCE[case.dtype], f"result {i}", floor)


@given(cases)
def test_every_result(case: Case) -> None:
    """Results are equal, recorded or not, for a batch and for each of its sequences alone."""

    def compute(layer: Any) -> list[Any]:
        xs = case.draw()
        with tg.no_grad():
            plain = case.run(layer, *map(const, xs))
        recorded = case.run(layer, *map(leaf, xs))
        ops = {node.op for node in ancestors(map(node_of, recorded))}
        assert (layer.scan.name in ops) == layer.fused
        return [*plain, *recorded]

    both(case, compute)


@given(cases)
def test_every_gradient_of_first_and_second_order(case: Case) -> None:
    """By inputs, initial states and parameters; then of a gradient penalty, by all of them again."""

    def compute(layer: Any) -> list[Any]:
        xs = [*map(leaf, case.draw())]
        targets = [*xs, *layer.parameters()]
        loss = case.losses(case.run(layer, *xs))
        first = tg.grad(loss, targets, create_graph=True)
        found = [g for g in first if g is not None]
        penalty = sum((tg.square(g).sum() for g in found), start=loss * 0.5)
        penalty.backward()
        return [*first, *(x.grad for x in targets)]

    both(case, compute, floor=10.0)


@given(cases)
def test_products_with_the_hessian(case: Case) -> None:
    """Reverse over reverse along a random direction in everything; and it is symmetric."""

    def compute(layer: Any) -> list[Any]:
        xs = [*map(leaf, case.draw())]
        targets = [*xs, *layer.parameters()]
        loss = case.losses(case.run(layer, *xs))
        first = tg.grad(loss, targets, create_graph=True)
        rng = np.random.default_rng(case.seed + 2)
        u, v = ([rng.standard_normal(x.shape).astype(case.dtype) for x in targets] for _ in "uv")
        pairs = [(g, i) for i, g in enumerate(first) if g is not None and g.requires_grad]
        found = []
        for along in (u, v):
            directions = [const(along[i]) for _, i in pairs]
            found.append(tg.grad([g for g, _ in pairs], targets, directions, retain_graph=True))
        if case.dtype == "float64":
            left, right = (
                sum(
                    float((h.numpy() * w).sum())
                    for h, w in zip(hs, ws, strict=True)
                    if h is not None
                )
                for hs, ws in ((found[0], v), (found[1], u))
            )
            assert abs(left - right) <= 1e-10 * (1 + abs(left))
        return [*found[0], *found[1]]

    both(case, compute, floor=10.0)


@given(cases)
def test_tangents(case: Case) -> None:
    """Tangents of the input and the initial state, together and of one alone; recorded too."""

    def compute(layer: Any) -> list[Any]:
        xs, vs = moved(case.draw()), case.draw(salt=1)
        found: list[Any] = []
        outs, tangents = tg.jvp(lambda *xs: tuple(case.run(layer, *xs)), xs, vs)
        found += [*outs, *tangents]
        for i, v in enumerate(vs):
            at = [*map(leaf, xs)]
            _, tangent = tg.jvp(partial(case.output, layer, at, i), at[i], v)
            found += [tangent, *tg.grad(tg.square(tangent).sum(), [*at, *layer.parameters()])]
        return found

    both(case, compute, floor=10.0)


@given(cases)
def test_cotangents_side_by_side(case: Case) -> None:
    """``jacobian`` carries all of them on an axis in front; by the input, the state, and a weight."""

    def compute(layer: Any) -> list[Any]:
        xs = moved(case.draw())
        with tg.no_grad():  # or they are recorded, by the definition
            found = [tg.jacobian(partial(case.output, layer, xs, i), x) for i, x in enumerate(xs)]
        found.append(tg.jacobian(partial(case.output, layer, xs, 0), xs[0]))
        y = case.run(layer, *xs)[-1]
        units = np.eye(y.size, dtype=case.dtype).reshape(-1, *y.shape)[:5]
        for unit in units:
            found += tg.grad(y, list(layer.parameters()), unit, retain_graph=True)
        return found

    both(case, compute)


# --- the primitive and its definition ----------------------------------------------------------


@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(*[st.integers(1, n) for n in (5, 3, 3, 3)]),
    seed=st.integers(0, 10_000),
    bias=st.booleans(),
    lengths=st.booleans(),
)
def test_the_primitive_and_its_definition(
    kind: str, sizes: tuple[int, ...], seed: int, bias: bool, lengths: bool
) -> None:
    """First and second derivatives and tangents by every operand, weights and bias among them."""
    steps, batch, inputs, hidden = sizes
    scan: Any = tg.PRIMITIVES[f"{kind if kind in ('lstm', 'gru') else 'rnn'}_scan"]
    rng = np.random.default_rng(seed)
    parts, blocks = len(scan.parts), len(scan.gates)
    shapes: list[tuple[int, ...]] = [(steps, batch, inputs), *[(batch, hidden)] * parts]
    shapes += [(blocks * hidden, inputs), (blocks * hidden, hidden)]
    shapes += [(blocks * hidden,)] * 2 if bias else []
    xs, vs = ([rng.standard_normal(shape) for shape in shapes] for _ in "xv")
    params: dict[str, Any] = {"nonlinearity": kind} if scan is tg.nn.RNN.scan else {}
    rest: list[Any] = [] if bias else [0, 0]
    if lengths:
        ends = rng.integers(0, steps + 1, batch)
        rest.append(array(ends))
        params["shortest"] = int(ends.min())

    def fused(*given_: Any) -> tg.Tensor:
        return tg.apply(scan, *given_, *rest, **params)

    def defined(*given_: Any) -> tg.Tensor:
        y: tg.Tensor = scan.definition(functions, *given_, *map(_lifted, rest), **params)
        return y

    xs = moved(xs)
    g = rng.standard_normal(fused(*xs).shape)
    found = []
    for f in (fused, defined):
        at = [*map(leaf, xs)]
        y = f(*at)
        first = tg.grad(y, at, g, create_graph=True)
        recorded = [
            (d, v) for d, v in zip(first, vs, strict=True) if d is not None and d.requires_grad
        ]
        second = tg.grad([d for d, _ in recorded], at, [v for _, v in recorded]) if recorded else []
        _, tangent = tg.jvp(f, xs, vs)
        found.append([y, tangent, *first, *second])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b.numpy(), 1e-12, floor=1.0)


def _lifted(x: Any) -> Any:
    return x if isinstance(x, int) else const(x)


# --- windows ------------------------------------------------------------------------------------


@given(cases, st.integers(1, 7))
def test_truncated_is_a_loop_over_windows(case: Case, window: int) -> None:
    """With the state detached in between: layers above one another, each over the whole sequence."""

    def truncated(layer: Any, xs: list[tg.Tensor]) -> list[tg.Tensor]:
        output, last = layer(xs[0], xs[1] if len(xs) == 2 else tuple(xs[1:]), truncate=window)[:2]
        return [output, *(last if isinstance(last, tuple) else (last,))]

    def by_hand(layer: Any, xs: list[tg.Tensor]) -> list[tg.Tensor]:
        x, *state = xs
        x = tg.swapaxes(x, 0, 1) if case.batch_first else x
        lasts = []
        for k in range(case.layers):
            single = make(
                case.kind, x.shape[2], layer.hidden_size, bias=case.bias, dtype=case.dtype, rng=0
            )
            for name, _ in single.named_parameters():
                setattr(single, name, getattr(layer, name.replace("_l0", f"_l{k}")))
            outputs, parts = [], [part[k : k + 1] for part in state]
            for start in range(0, x.shape[0], window):
                parts = [part.detach() for part in parts] if start else parts
                given_ = parts[0] if len(parts) == 1 else tuple(parts)
                output, last = single(x[start : start + window], given_)
                parts = list(last) if isinstance(last, tuple) else [last]
                outputs.append(output)
            x = tg.concat(outputs)
            lasts.append(parts)
        output = tg.swapaxes(x, 0, 1) if case.batch_first else x
        return [output, *(tg.concat(list(part)) for part in zip(*lasts, strict=True))]

    found = []
    for run, fused in ((truncated, True), (by_hand, True), (truncated, False)):
        layer, xs = case.layer(fused), [*map(leaf, case.draw())]
        results = run(layer, xs)
        targets = [*xs, *layer.parameters()]
        found.append([*results, *tg.grad(case.losses(results), targets)])
    for a, b, c in zip(*found, strict=True):
        assert (a is None) == (b is None) == (c is None)
        if a is not None:
            assert_close(a, b.numpy(), TOLERANCE[case.dtype], "by hand", floor=10.0)
            assert_close(a, c.numpy(), TOLERANCE[case.dtype], "unrolled", floor=10.0)


# --- a planted fault ----------------------------------------------------------------------------


@pytest.mark.parametrize("lost", range(6))
def test_a_fault_in_the_backward_pass_is_seen(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of gradients sees one of six cotangents that is wrong by a millionth."""
    case = Case("lstm", (4, 2, 2, 3), 2, 0, "float64", True, False, False, None, True)
    check = test_every_gradient_of_first_and_second_order.hypothesis.inner_test  # type: ignore[attr-defined]
    check(case)
    scan: Any = tg.PRIMITIVES["lstm_scan"]
    rule = scan.vjp

    def wrong(*given_: Any, **params: Any) -> Any:
        return tuple(
            c * (1 + 1e-6) if i == lost and c is not None else c
            for i, c in enumerate(rule(*given_, **params))
        )

    object.__setattr__(scan, "vjp", wrong)
    try:
        with pytest.raises(AssertionError):
            check(case)
    finally:
        object.__setattr__(scan, "vjp", rule)
