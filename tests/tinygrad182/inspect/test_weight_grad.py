"""``weight_grad_by_time`` against unrolled networks with a weight of their own for every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from models import ResidualNet
from tests.oracles import loops
from tests.oracles.loops import Case, Weights, cases, mark
from tests.support import Array, assert_close, const, host, leaf
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.inspect.views import weight_grad as module
from tinygrad182.inspect.views.weight_uses import Uses

by_time = loops.reading(tg.inspect.weight_grad_by_time)


def assert_parts(loss: tg.Tensor, weight: tg.Tensor, expected: Array, what: str) -> None:
    """Each part is the reference's; they add up to the gradient; norms are theirs."""
    parts = by_time(loss, weight)
    floor = float(np.abs(expected).max(initial=0.0))
    assert parts.dtype == weight.dtype
    assert_close(parts, expected, 1e-12, what, floor)
    assert_close(parts.sum(axis=0), loops.grad(loss, weight), 1e-12, f"sum of {what}", floor)
    norms = by_time(loss, weight, norm_only=True)
    assert norms.dtype == np.float64
    assert_close(norms, np.linalg.norm(parts.reshape(len(parts), -1), axis=1), 1e-13, what)


@given(case=cases)
def test_layers(case: Case) -> None:
    """Projections of all steps at once, biases, every layer; padding takes no part."""
    loss, _, copies = case.reference(copies=True)
    for name, weight in case.layer.named_parameters():
        assert_parts(case.loss, weight, copies.grads(loss, name, case.T), name)


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize("where", ["last", "all", "random"])
@pytest.mark.parametrize(("T", "B", "H"), [(6, 2, 3), (3, 3, 3), (2, 1, 1), (1, 2, 2)])
def test_loops_of_your_own(loop: str, where: str, T: int, B: int, H: int) -> None:
    """W.T may be before the loop or in it, and the states may have any names."""
    run, shared, copies = loops.LOOPS[loop], Weights(), Weights(copies=True)
    states, reference = run(shared, T, B, H), run(copies, T, B, H)
    last = list(states)[-1]
    loss = loops.loss_of(states[last], where)
    expected = loops.loss_of(reference[last], where)
    for name in shared.names():
        parts = copies.grads(expected, name, T)
        reached = 1 + max(int(m.scope.time) for n in ancestors([loss._node]) for m in n.marks)
        assert not parts[reached:].any()
        assert_parts(loss, shared.leaves[name, 0], parts[:reached], f"{loop} {name}")


@given(case=cases, bias=st.booleans())
def test_a_head_on_all_steps_at_once(case: Case, bias: bool) -> None:
    rng = np.random.default_rng(case.seed)
    w, b = leaf(rng.normal(size=(2, case.H))), leaf(rng.normal(size=2))
    y = case.output @ w.T + b if bias else tg.tanh(case.output @ w.T)
    scale = rng.normal(size=(case.T, case.B, 2))
    loss = (const(scale) * y * y).mean()
    if not case.T * case.B:
        return
    for weight in (w, b) if bias else (w,):
        copies = [leaf(weight.numpy()) for _ in range(case.T)]
        total = const(np.zeros(()))
        for t in range(case.T):
            own_w, own_b = (copies[t], b) if weight is w else (w, copies[t])
            y_t = case.output[t] @ own_w.T
            y_t = y_t + own_b if bias else tg.tanh(y_t)
            total = total + (const(scale[t]) * y_t * y_t).sum() / scale.size
        expected = np.stack([loops.grad(total, c) for c in copies])
        assert_parts(loss, weight, expected, "head")


def states_of_a_loop() -> tuple[Weights, list[tg.Tensor]]:
    w = Weights()
    return w, loops.rnn_outside(w, 4, 2, 3)["h"]


V, U = (np.random.default_rng(s).normal(size=n) for s, n in ((0, (3, 2)), (1, (3,))))
HEADS: dict[str, tuple[Array, Callable[..., tg.Tensor], Callable[..., tg.Tensor]]] = {
    "stack": (V, lambda hs, v: tg.stack(hs) @ v, lambda h, v: h @ v),
    "batch first": (V, lambda hs, v: tg.stack(hs, axis=1) @ v, lambda h, v: h @ v),
    "features first": (V, lambda hs, v: v.T @ tg.stack([h.T for h in hs]), lambda h, v: h @ v),
    "permuted": (
        V,
        lambda hs, v: tg.permute_dims(tg.stack(hs), (1, 0, 2)) @ v,
        lambda h, v: h @ v,
    ),
    "a vector": (U, lambda hs, v: tg.stack(hs) @ v, lambda h, v: h @ v),
    "elementwise": (U, lambda hs, v: tg.tanh(tg.stack(hs) * v), lambda h, v: tg.tanh(h * v)),
    "twice": (V, lambda hs, v: tg.tanh(tg.stack(hs) @ v) @ v.T, lambda h, v: tg.tanh(h @ v) @ v.T),
    "einsum": (V, lambda hs, v: tg.einsum("tbi,ij->bjt", tg.stack(hs), v), lambda h, v: h @ v),
    "after a sum": (
        U,
        lambda hs, v: tg.stack(hs).sum(axis=1) * tg.max(tg.stack(hs), axis=-2) * v,
        lambda h, v: h.sum(axis=0) * tg.max(h, axis=0) * v,
    ),
    "step by step": (V, lambda hs, v: tg.stack([h @ v for h in hs]), lambda h, v: h @ v),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_of_other_forms(head: str) -> None:
    values, together, one = HEADS[head]
    _, hs = states_of_a_loop()
    v = leaf(values)
    loss = (together(hs, v) ** 2).sum()
    copies = [leaf(values) for _ in hs]
    total = sum((one(h, c) ** 2).sum() for h, c in zip(hs, copies, strict=True))
    expected = np.stack([loops.grad(total, c) for c in copies])
    assert_parts(loss, v, expected, head)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda hs, v: tg.concat(hs) @ v,
        lambda hs, v: tg.stack(hs).reshape(-1, 3) @ v,
        lambda hs, v: tg.stack(hs).mean(axis=0) @ v,
        lambda hs, v: sum(hs[1:], hs[0]) @ v,
    ],
    ids=["concat", "reshape", "mean", "running sum"],
)
@pytest.mark.parametrize("beside", [False, True])
def test_uses_that_cannot_be_distinguished_are_refused(
    mixed: Callable[..., tg.Tensor], beside: bool
) -> None:
    """They are not left out, because the parts would silently fall short of the gradient."""
    _, hs = states_of_a_loop()
    v = leaf(V)
    loss = mixed(hs, v).sum() + ((hs[0] @ v).sum() if beside else 0.0)
    with pytest.raises(tg.GraphError, match=r"weight_grad_by_time: matmul .*tg\.stack"):
        by_time(loss, v)


def test_a_head_after_the_last_step_belongs_to_it() -> None:
    _, hs = states_of_a_loop()
    v = leaf(V)
    loss = ((hs[-1] @ v) ** 2).sum()
    parts = by_time(loss, v)
    assert not parts[:-1].any()
    assert_close(parts[-1], loops.grad(loss, v), 1e-14)


@pytest.mark.parametrize("where", ["last", "all"])
def test_a_penalty_belongs_to_no_step(where: str) -> None:
    """A loop of your own and a layer, with a loss at the last step and at all of them."""
    rnn = tg.nn.RNN(3, 3, rng=0, dtype="float64")
    output, _ = rnn(const(loops.inputs(0, 4, 2, 3)))
    w, hs = states_of_a_loop()
    for states, weight in (
        ([output[t] for t in range(4)], rnn.weight_hh_l0),
        (hs, w.leaves["W", 0]),
    ):
        loss = loops.loss_of(states, where)
        expected = by_time(loss, weight)
        penalty = (weight * weight).sum()
        for total in (
            loss + 0.1 * penalty,
            penalty + loss,
            loss - tg.sqrt(penalty),
            tg.stack([loss, penalty]).sum(),
        ):
            assert_close(by_time(total, weight), expected, 1e-14)
    with pytest.raises(tg.GraphError, match="no time step"):
        by_time(penalty, weight)


def test_a_number_as_a_weight() -> None:
    """A 0-d weight is not a penalty, nor is what a step computes from it."""
    values, T = np.array(0.3), 4

    def run(gates: list[tg.Tensor]) -> tg.Tensor:
        h = const(np.ones(3))
        for t in range(T):
            h = mark(tg.tanh(h * tg.exp(gates[t]) + gates[t]), "h", t)
        return (h * h).sum()

    one, copies = leaf(values), [leaf(values) for _ in range(T)]
    total = run(copies)
    expected = np.stack([loops.grad(total, c) for c in copies])
    assert_parts(run([one] * T), one, expected, "gate")


def test_a_step_that_is_skipped() -> None:
    """A skipped step hands the state on; only the step that computed it uses W."""

    def run(w: Weights) -> tg.Tensor:
        h, hs = const(np.ones((2, 3))), []
        for t in range(6):
            h = mark(h if t % 2 else tg.tanh(h @ w("W", t, 3, 3)), "h", t)
            hs.append(h)
        return loops.loss_of(hs, "all")

    shared, copies = Weights(), Weights(copies=True)
    loss, reference = run(shared), run(copies)
    expected = copies.grads(reference, "W", 6)
    assert not expected[1::2].any()
    assert_parts(loss, shared.leaves["W", 0], expected, "W")


def test_several_lengths_add_up_by_step() -> None:
    w, copies = Weights(), Weights(copies=True)
    lengths = (5, 1, 3)
    loss = sum(loops.loss_of(loops.rnn_outside(w, T, 1, 2)["h"], "all") for T in lengths)
    reference = sum(loops.loss_of(loops.rnn_outside(copies, T, 1, 2)["h"], "all") for T in lengths)
    for name in w.names():
        assert_parts(loss, w.leaves[name, 0], copies.grads(reference, name, 5), name)


def test_encoder_and_decoder() -> None:
    """Encoder and decoder have a weight each; T is the longer one's, and each has its own steps."""
    encoder = tg.nn.RNN(2, 3, 2, rng=0, dtype="float64")
    decoder = tg.nn.LSTMCell(3, 3, rng=1, dtype="float64")
    values = np.random.default_rng(0).normal(size=(3, 3))

    def run(keys: Callable[[tg.Tensor], tg.Tensor]) -> tg.Tensor:
        states, _ = encoder(const(loops.inputs(0, 5, 2, 2)))
        looked = keys(states)
        h = c = states[-1]
        hs = []
        for t in range(3):
            context = (tg.softmax((looked * h).sum(axis=2, keepdims=True), axis=0) * states).sum(
                axis=0
            )
            h, c = decoder(context, (h, c))
            mark(c, "c", t)
            hs.append(mark(h, "h", t))
        return loops.loss_of(hs, "all")

    key, copies = leaf(values), [leaf(values) for _ in range(5)]
    loss = run(lambda s: s @ key)
    reference = run(lambda s: tg.stack([s[t] @ copies[t] for t in range(5)]))
    assert_parts(loss, key, np.stack([loops.grad(reference, c) for c in copies]), "keys")
    for module_, steps in ((encoder, 5), (decoder, 3)):
        for name, weight in module_.named_parameters():
            parts = by_time(loss, weight)
            assert len(parts) == 5
            assert not parts[steps:].any()
            assert parts[steps - 1].any()
            assert_close(parts.sum(axis=0), loops.grad(loss, weight), 1e-13, name)


def test_depth_in_the_place_of_time() -> None:
    net = ResidualNet(2, 3, depth=4, rng=0, dtype="float64")
    loss = net(const(loops.inputs(0, 2, 2))).sum()
    for k, block in enumerate(net.blocks):
        parts = by_time(loss, block.linear.weight)
        assert [bool(p.any()) for p in parts] == [t == k for t in range(4)]
        assert_close(parts[k], loops.grad(loss, block.linear.weight), 1e-14)


@pytest.mark.parametrize("chunk", [1, 20, 47, 100])
@pytest.mark.parametrize("kind", ["tanh", "lstm"])
def test_a_few_steps_at_a_time(monkeypatch: pytest.MonkeyPatch, chunk: int, kind: str) -> None:
    case = Case(kind, 7, 2, 2, 2, "all", 0, False, False)
    for name, weight in case.layer.named_parameters():
        monkeypatch.undo()
        whole, norms = by_time(case.loss, weight), by_time(case.loss, weight, norm_only=True)
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert_close(by_time(case.loss, weight), whole, 1e-15, name)
        assert_close(by_time(case.loss, weight, norm_only=True), norms, 1e-15, name)


def test_float32() -> None:
    rnn = tg.nn.RNN(2, 3, rng=0)
    twin = tg.nn.RNN(2, 3, dtype="float64")
    twin.load_state_dict(rnn.state_dict())
    x = np.float32(loops.inputs(0, 5, 2, 2))
    for name, weight in rnn.named_parameters():
        parts = by_time(rnn(const(x))[0].sum(), weight)
        assert parts.dtype == np.float32
        expected = by_time(twin(const(x.astype(float)))[0].sum(), getattr(twin, name))
        assert_close(parts, expected, 2e-5, name)


def test_nothing_is_freed_and_no_gradient_is_touched() -> None:
    case = Case("lstm", 4, 2, 3, 2, "all", 0, False, False)
    by_time(case.loss, case.layer.weight_ih_l1)
    assert all(p.grad is None for p in case.layer.parameters())
    case.loss.backward()
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        by_time(case.loss, case.layer.weight_ih_l1)


def test_what_is_refused() -> None:
    case = Case("tanh", 4, 2, 3, 1, "all", 0, False, False)
    other = leaf(np.ones((3, 3)))
    with pytest.raises(tg.GraphError, match=r"no time step uses.*tg\.inspect\.mark"):
        by_time(case.loss, other)
    with pytest.raises(tg.GraphError, match=r"no time step uses.*tg\.inspect\.mark"):
        by_time((other * other).sum(), other)
    with pytest.raises(tg.DTypeError, match=r"weight.*list.*Tensor, such as rnn\."):
        by_time(case.loss, [1.0])  # type: ignore[arg-type]
    with pytest.raises(tg.UnknownPathError, match=r"'weight_hh'.*'bias_ih_l0', 'weight_hh_l0'"):
        by_time(case.loss, "weight_hh")
    for time in (4, -1):
        with pytest.raises(tg.ArgumentError, match=rf"0 to 3.*{time}"):
            by_time(case.loss, case.layer.weight_hh_l0, times=[time])
    with pytest.raises(tg.ArgumentError, match="pass a time step or a sequence of them"):
        by_time(case.loss, case.layer.weight_hh_l0, times=[1.0])
    with pytest.raises(tg.DTypeError, match=r"weight_grad_by_time: .*output.*float"):
        by_time(1.0, other)  # type: ignore[arg-type]
    with pytest.raises(tg.ShapeError, match=r"weight_grad_by_time.*single element"):
        by_time(case.output, case.layer.weight_hh_l0)
    with tg.no_grad():
        silent = case.layer(const(case.x))[0].sum()
    with pytest.raises(tg.GraphError, match="weight_grad_by_time"):
        by_time(silent, case.layer.weight_hh_l0)


@pytest.mark.parametrize("fused", [True, False])
def test_some_steps_of_a_weight_by_its_path(fused: bool) -> None:
    case = Case("lstm", 6, 2, 3, 1, "all", 0, False, False, fused)
    for norm_only in (False, True):
        whole = by_time(case.loss, case.layer.weight_hh_l0, norm_only)
        some = by_time(case.loss, "weight_hh_l0", norm_only, times=[4, 1, 4])
        assert_close(some, whole[[1, 4]], 1e-15)


@pytest.mark.parametrize("fused", [True, False])
def test_a_window_of_one_step_beside_a_residual_connection(fused: bool) -> None:
    """The last step alone counts: all other windows are behind a cut."""
    lin = tg.nn.Linear(2, 2, rng=0, dtype="float64")
    options: dict[str, Any] = {"dtype": "float64", "fused": fused}
    a, b = tg.nn.RNN(2, 2, rng=1, **options), tg.nn.RNN(2, 3, rng=2, **options)
    u = tg.tanh(lin(const(loops.inputs(0, 5, 1, 2))))
    y, _ = a(u, truncate=2)
    z, _ = b(y + u, truncate=2)
    loss = (z[-1] ** 2).sum()
    for weight in (lin.weight, lin.bias, a.weight_ih_l0, b.weight_ih_l0):
        parts = by_time(loss, weight)
        assert not parts[:-1].any()
        assert_close(parts[-1], loops.grad(loss, weight), 1e-13)


def test_a_penalty_does_not_hide_uses_that_cannot_be_distinguished() -> None:
    w = leaf(np.random.default_rng(1).normal(size=(2, 2)))
    rnn = tg.nn.RNN(2, 2, rng=0, dtype="float64")
    y = tg.flip(rnn(const(loops.inputs(0, 4, 1, 2)) @ w)[0], 0) @ w
    for loss in ((y**2).sum(), (y**2).sum() + 0.1 * (w**2).sum()):
        with pytest.raises(tg.GraphError, match=r"matmul .* for several steps at once"):
            by_time(loss, w)


def test_a_shortfall_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that do not add up to the gradient are never returned, whatever the reason."""

    def lost(self: Any, sent: Any, times: Any) -> Any:
        part = combined(self, sent, times)
        return part._replace(values=part.values * (1 + 1e-6))

    combined = Uses._combined
    for size in (1.0, 1e-200, 1e200):
        case = Case("tanh", 5, 2, 3, 1, "all", 0, False, False, fused=False)
        loss = case.loss * size
        by_time(loss, case.layer.weight_hh_l0)
        with monkeypatch.context() as patch:
            patch.setattr(Uses, "_combined", lost)
            with pytest.raises(
                tg.GraphError, match="do not add up to its gradient: they are off by"
            ):
                by_time(loss, case.layer.weight_hh_l0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_parts_beyond_the_type_are_checked_too(fused: bool, factor: float) -> None:
    """∂L/∂b at step t is factor**(T − 1 − t), from 1 to 1e±60 in float32."""
    T, H = 100, 2
    rnn = tg.nn.RNN(1, H, nonlinearity="identity", rng=0, fused=fused)
    zeros = {name: np.zeros_like(host(p)) for name, p in rnn.state_dict().items()}
    rnn.load_state_dict(zeros | {"weight_hh_l0": factor * np.eye(H, dtype="float32")})
    loss = rnn(const(np.zeros((T, 1, 1), "float32")))[0][-1].sum()
    norms = by_time(loss, rnn.bias_ih_l0, norm_only=True)
    np.testing.assert_allclose(norms, np.sqrt(H) * factor ** np.arange(T)[::-1], rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_an_embedding_by_step(fused: bool) -> None:
    """Rows that are looked up for all steps at once."""
    table, T = leaf(np.random.default_rng(0).normal(size=(5, 2))), 6
    tokens = np.array([[0, 1], [2, 2], [0, 4], [3, 1], [1, 1], [0, 0]])
    rnn = tg.nn.RNN(2, 3, rng=0, dtype="float64", fused=fused)
    copies = [leaf(table.numpy()) for _ in range(T)]
    loss = (rnn(table[tokens])[0] ** 2).sum()
    reference = (rnn(tg.stack([c[tokens[t]] for t, c in enumerate(copies)]))[0] ** 2).sum()
    expected = np.stack([loops.grad(reference, c) for c in copies])
    assert_parts(loss, table, expected, "table")
