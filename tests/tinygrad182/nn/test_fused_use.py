"""A fused layer in use: recomputed, watched, changed, freed, copied, and from many threads."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import (
    Array,
    assert_close,
    assert_same_bits,
    assert_unwritable,
    const,
    device,
    host,
    host_only,
    leaf,
    write,
)
from tests.tinygrad182.nn.test_fused import make
from tests.tinygrad182.test_memory import assert_nothing_is_left
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import Node, node_of

SCANS = {"rnn_scan", "lstm_scan"}
STEPS, BATCH, LENGTHS = 5, 3, (5, 2, 3)
every_kind = pytest.mark.parametrize("kind", ["tanh", "lstm"])


def layer(kind: str, **options: Any) -> Any:
    """Two layers of three units, on two features."""
    return make(kind, 2, 3, 2, rng=0, dtype="float64", **options)


def operands(kind: str, seed: int = 0) -> list[tg.Tensor]:
    """x, and the initial state in parts."""
    rng = np.random.default_rng(seed)
    state = (2, BATCH, 3)
    shapes = [(STEPS, BATCH, 2), state, *([state] if kind == "lstm" else [])]
    return [leaf(rng.standard_normal(shape)) for shape in shapes]


def run(module: Any, xs: list[tg.Tensor], **options: Any) -> tg.Tensor:
    """A loss that reads the output and the last state."""
    x, *state = xs
    output, last = module(x, tuple(state) if len(state) > 1 else state[0], **options)
    parts = last if isinstance(last, tuple) else (last,)
    return sum(((part * part).sum() for part in parts), start=tg.sin(output).sum())


def scans(loss: tg.Tensor) -> list[Node]:
    return [node for node in ancestors([node_of(loss)]) if node.op in SCANS]


def gradients(loss: tg.Tensor, targets: list[tg.Tensor], **options: Any) -> list[Array]:
    found = tg.grad(loss, targets, **options)
    assert all(g is not None for g in found)
    return [g.numpy() for g in found if g is not None]


def _penalty(found: Sequence[tg.Tensor | None]) -> tg.Tensor:
    return sum((tg.square(g).sum() for g in found if g is not None), start=const(0.0))


# --- recomputed, watched ------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"truncate": 2}], ids=str)
def test_run_again_in_backward(kind: str, options: dict[str, Any]) -> None:
    """``remat``: the same bits; and its gradients are recorded like any others."""
    module, xs = layer(kind), operands(kind)
    targets = [*xs, *module.parameters()]
    expected = gradients(run(module, xs, **options), targets)
    again = tg.remat(lambda *xs: run(module, list(xs), **options))
    loss = again(*xs)
    assert not scans(loss)  # nothing of it is kept
    for a, b in zip(gradients(loss, targets), expected, strict=True):
        assert_same_bits(a, b)
    seconds = []
    for f in (again, lambda *xs: run(module, list(xs), **options)):
        first = tg.grad(f(*xs), targets, create_graph=True)
        seconds.append(gradients(_penalty(first), targets))
    for a, b in zip(*seconds, strict=True):
        assert_close(a, b, 1e-13, floor=1.0)


@every_kind
def test_watched_step_by_step(kind: str) -> None:
    """``detect_anomaly`` runs the steps one by one, to name the one that goes wrong."""
    module, xs = layer(kind), operands(kind)
    targets = [*xs, *module.parameters()]
    expected = gradients(run(module, xs), targets)
    with tg.detect_anomaly():
        loss = run(module, xs)
        assert not scans(loss)
        for a, b in zip(gradients(loss, targets), expected, strict=True):
            assert_close(a, b, 1e-13, floor=1.0)
    broken = np.zeros((STEPS, BATCH, 2))
    broken[3, 1, 0] = np.nan
    with tg.detect_anomaly(), pytest.raises(tg.AnomalyError, match="nan"):
        module(const(broken))
    steep = make("identity", 2, 3, 2, rng=0, dtype="float64")
    write(steep.weight_hh_l0, 1e200)
    named = pytest.raises(tg.AnomalyError, match=r"rnn\.l0 at t = 2")
    with tg.detect_anomaly(), np.errstate(all="ignore"), named:
        steep(xs[0])


@every_kind
def test_nothing_is_kept_where_nothing_is_recorded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, xs = layer(kind), operands(kind)
    expected = run(module, xs)
    for node in scans(expected):
        assert node.residuals is not None
    scan: Any = module.scan
    before = scan.forward_with_residuals
    object.__setattr__(scan, "forward_with_residuals", lambda *_, **__: pytest.fail("kept"))
    try:
        with tg.no_grad():
            loss = run(module, xs)
            frozen = run(module, [x.detach() for x in xs])
        for p in module.parameters():
            p.requires_grad = False
        constant = run(module, [x.detach() for x in xs])
    finally:
        object.__setattr__(scan, "forward_with_residuals", before)
    for other in (loss, frozen, constant):
        assert not other.requires_grad
        assert_same_bits(other, expected.numpy())


# --- changed ------------------------------------------------------------------------------------

CHANGES: list[Callable[[tg.Tensor], Any]] = [
    lambda x: write(x, 7.0),
    lambda x: write(x, 7.0, at=(-1,) * x.ndim),
    lambda x: x.assign(x * 2.0),
    lambda x: _step(x),
]


def _step(x: tg.Tensor) -> None:
    x.grad = tg.ones_like(x)
    tg.optim.SGD([x], lr=0.1).step()
    x.grad = None


@every_kind
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("create_graph", [False, True])
def test_what_was_changed_is_refused(
    kind: str, change: Callable[[tg.Tensor], Any], create_graph: bool
) -> None:
    """Backward refuses a change of any operand, whichever gradient is asked for."""
    passes: list[Callable[..., Any]] = [
        lambda loss, _: loss.backward(create_graph=create_graph),
        lambda loss, others: tg.grad(loss, others[0], create_graph=create_graph),
    ]
    for i in range(len(operands(kind)) + len(list(layer(kind).parameters()))):
        for backward in passes:
            module, xs = layer(kind), operands(kind)
            others = [*xs, *module.parameters()]
            loss = run(module, xs)
            change(others.pop(i))
            with pytest.raises(tg.InPlaceError, match=r"changed in place"):
                backward(loss, others)
            assert all(x.grad is None for x in others)


@every_kind
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lengths", [None, LENGTHS, (5, 0, 3)])
def test_an_initial_state_that_was_changed_is_refused(kind: str, fused: bool, lengths: Any) -> None:
    """This includes a constant one, for which a leaf that requires grad is recorded."""
    for i in range(len(operands(kind)) - 1):
        module, (x, *state) = layer(kind, fused=fused), operands(kind)
        state = [part.detach().clone() for part in state]
        loss = run(module, [x, *state], lengths=lengths)
        state[i].assign(state[i] * 2.0)
        with pytest.raises(tg.InPlaceError, match=r"changed in place"):
            loss.backward()


@every_kind
def test_arrays_and_lengths_given_are_its_own(kind: str) -> None:
    """Later changes of the caller's arrays and lengths change nothing."""
    module, xs = layer(kind), operands(kind)
    x, lengths = xs[0].numpy().copy(), np.array(LENGTHS)
    state = tuple(xs[1:]) if kind == "lstm" else xs[1]
    ends = tg.tensor(lengths)
    targets = list(module.parameters())
    for given_x, given_ends in ((x, lengths), (x.copy(), ends)):
        expected = gradients(module(given_x.copy(), state, lengths=LENGTHS)[0].sum(), targets)
        loss = module(given_x, state, lengths=given_ends)[0].sum()
        given_x[...] = np.nan
        (given_ends.data if isinstance(given_ends, tg.Tensor) else given_ends)[...] = 1
        for a, b in zip(gradients(loss, targets), expected, strict=True):
            assert_same_bits(a, b)


@every_kind
def test_states_cannot_be_written_to(kind: str) -> None:
    """They are read-only, because backward reads them."""
    module, xs = layer(kind, return_states=True), operands(kind)
    output, last, states = module(xs[0])
    for y in (output, *(last if isinstance(last, tuple) else (last,)), *states):
        for view in (y, y.detach(), y[0]):
            assert_unwritable(view)
        with pytest.raises(ValueError, match="read-only"):
            y.numpy()[...] = 0.0


# --- passes -------------------------------------------------------------------------------------


@every_kind
def test_twice_while_it_is_retained_and_then_no_more(kind: str) -> None:
    module, xs = layer(kind), operands(kind)
    targets = [*xs, *module.parameters()]
    loss = run(module, xs)
    nodes = scans(loss)
    first = gradients(loss, targets, retain_graph=True)
    assert all(node.residuals is not None for node in nodes)
    loss.backward(retain_graph=True)
    loss.backward()
    for x, g in zip(targets, first, strict=True):
        assert_same_bits(x.grad, 2 * g)
    assert len(nodes) == 2
    assert all(node.residuals is None and node.value is None for node in nodes)
    for again in (loss.backward, lambda: tg.grad(loss, xs), lambda: tg.inspect.trace(loss)):
        with pytest.raises(tg.FreedGraphError):
            again()


@every_kind
def test_only_what_is_asked_for(kind: str) -> None:
    """A single gradient equals the one among all, up to rounding, since products may have other shapes."""
    module, xs = layer(kind), operands(kind)
    targets = [*xs, *module.parameters()]
    expected = gradients(run(module, xs), targets)
    for x, g in zip(targets, expected, strict=True):
        alone = gradients(run(module, xs), [x])[0]
        np.testing.assert_allclose(host(alone), host(g), rtol=1e-12, atol=1e-13)
    for p in module.parameters():
        p.requires_grad = False
    for a, b in zip(gradients(run(module, xs), xs), expected, strict=False):
        assert_same_bits(a, b)


# --- copied -------------------------------------------------------------------------------------


@every_kind
def test_copied_while_in_use(kind: str) -> None:
    module, xs = layer(kind, fused=False), operands(kind)
    module.fused = True
    loss = run(module, xs)
    twin = copy.deepcopy(module)
    assert twin.fused
    assert_same_bits(run(twin, xs), loss.numpy())
    loss.backward()
    assert all(p.grad is None for p in twin.parameters())
    write(twin.weight_hh_l1, 0.0)
    assert_same_bits(run(module, xs), loss.numpy())
    assert copy.copy(module).weight_hh_l0 is module.weight_hh_l0
    with pytest.raises(tg.TinygradError, match=r"not pickled.*state_dict"):
        pickle.dumps(module)
    other = layer(kind)
    other.load_state_dict(module.state_dict())
    assert_same_bits(run(other, xs), loss.numpy())


# --- memory, threads ----------------------------------------------------------------------------


@every_kind
def test_many_steps_without_a_collector(kind: str) -> None:
    """No cycles, nothing left behind: whole, with lengths, in windows, with a penalty."""
    module, xs = make(kind, 1, 2, rng=0), const(np.ones((4, 2, 1), "float32"))
    optimizer = tg.optim.SGD(module.parameters(), lr=1e-3)
    uses: list[dict[str, Any]] = [{}, {"lengths": [4, 2]}, {"truncate": 3}, {}]

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = tg.square(module(xs, **uses[i % 4])[0]).sum()
        if i % 4 == 3:
            loss += _penalty(tg.grad(loss, list(module.parameters()), create_graph=True))
        loss.backward()
        optimizer.step()

    assert_nothing_is_left(
        step, 1000 if device() == "cpu" else 100
    )  # an object a step shows in both


@every_kind
def test_eight_threads(kind: str) -> None:
    """One layer in all of them, each with an input of its own: the bits of one thread."""
    module = layer(kind)
    draws = [operands(kind, seed) for seed in range(8)]
    weights = list(module.parameters())

    def work(k: int) -> list[Array]:
        loss = run(module, draws[k], lengths=LENGTHS if k % 2 else None)
        return [loss.numpy(), *gradients(loss, [*draws[k], *weights])]

    expected = [work(k) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            for found, others in zip(pool.map(work, range(8)), expected, strict=True):
                for a, b in zip(found, others, strict=True):
                    assert_same_bits(a, b)


@host_only("NumPy warns, CuPy does not")
@pytest.mark.parametrize("kind", ["identity", "tanh", "lstm"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_that_explode_warn_of_nothing(kind: str, fused: bool, dtype: str) -> None:
    """They are infinite, or NaN where infinities meet, with and without a view of the flow."""
    options: dict[str, Any] = {"rng": 0, "dtype": dtype, "fused": fused}
    if kind == "lstm":
        layer: Any = tg.nn.LSTM(2, 3, **options)
        write(layer.bias_ih_l0, 4 * np.repeat([1, 1, 0, 1], 3))
        layer.weight_hh_l0.data[...] = 0
        write(layer.weight_hh_l0, 50 * np.eye(3), slice(6, 9))
    else:
        layer = tg.nn.RNN(2, 3, bias=False, nonlinearity=kind, **options)  # type: ignore[arg-type]
        write(layer.weight_hh_l0, 50 * np.array([[1, -1, 0], [0, 1, 1], [1, 0, 1]]))
    values = np.zeros((100, 2, 2), dtype)
    values[-1] = 1e-3
    x = leaf(values)
    loss = layer(x)[0][-1].sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.backward(retain_graph=True)
        plain = host(x.grad)
        layer.zero_grad()
        x.grad = None
        tg.inspect.gradient_flow(loss, backward=True)
        if kind != "lstm":
            tg.inspect.grad_by_hops(loss, max_hops=2)
        tg.inspect.path_split(loss)
    assert not np.isfinite(plain).all()
    assert not np.isfinite(host(x.grad)).all()
