"""``input_grad_matrix``: one loss, one input; against separate passes and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import tinygrad182 as tg
from tests.oracles import loops
from tests.oracles.loops import Case, cases
from tests.support import Array, assert_close, const, host, leaf, write
from tinygrad182.inspect.views import grad_matrices

matrix_of = tg.inspect.input_grad_matrix


def one_by_one(losses: list[tg.Tensor], inputs: list[tg.Tensor]) -> Array:
    """The norms of the gradients that separate passes give."""
    return np.array([[np.linalg.norm(loops.grad(loss, x)) for x in inputs] for loss in losses])


# --- layers -------------------------------------------------------------------------------------


@given(case=cases)
def test_separate_passes(case: Case) -> None:
    """Layer 0 reads x, and layer 1 the states of layer 0, each through that layer alone."""
    losses = [case.loss_of([case.output[t]]) for t in range(case.T)]
    for k in range(case.layer.num_layers):
        xs = [leaf(case.x[t]) for t in range(case.T)]
        states, _ = loops.unrolled(case.layer, xs, case.lengths, cut=k - 1)
        again = [case.loss_of([h]) for h in states[-1]["h"]]
        expected = one_by_one(again, states[k - 1]["h"] if k else xs)
        path = f"{case.name}.l{k}"
        found = matrix_of(losses, path)
        assert found.dtype == np.float64
        assert_close(found, expected, 1e-12)
        with np.errstate(divide="ignore"):
            logs = np.log(found)
        np.testing.assert_allclose(matrix_of(losses, path, log=True), logs, atol=1e-12)
        chosen = [case.T - 1, 0]
        assert_close(matrix_of(losses, path, times=chosen), expected[:, sorted({*chosen})], 1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("window", [2, 5])
def test_windows_of_truncated_backpropagation(fused: bool, window: int) -> None:
    """A loss depends on the inputs of its own window, whether these require grad or not."""
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64", fused=fused)
    x = leaf(loops.inputs(0, 5, 2, 2))
    losses = list((lstm(x, truncate=window)[0] ** 2).sum(axis=(1, 2)))
    expected = np.array(
        [np.linalg.norm(loops.grad(loss, x).reshape(5, -1), axis=1) for loss in losses]
    )
    assert (expected[4, :4] == 0).all() == (window == 2)
    for inputs in (x, x.detach()):
        losses = list((lstm(inputs, truncate=window)[0] ** 2).sum(axis=(1, 2)))
        assert_close(matrix_of(losses), expected, 1e-12)
        last = matrix_of(losses[-1])  # the graph of the last window alone
        assert_close(last, expected[-1:, -last.shape[1] :], 1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_only_what_comes_through_the_layer_counts(fused: bool) -> None:
    rnn = tg.nn.RNN(3, 3, rng=0, dtype="float64", fused=fused)
    x = leaf(loops.inputs(0, 4, 2, 3))
    through = list((rnn(x)[0] ** 2).sum(axis=(1, 2)))
    losses = [loss + (x[t] * x[t]).sum() for t, loss in enumerate(through)]
    assert_close(matrix_of(losses), matrix_of(through), 1e-13)
    vectors = np.array([loops.grad(loss, x) for loss in losses])
    assert_close(
        matrix_of(losses, inputs=x), np.linalg.norm(vectors.reshape(4, 4, -1), axis=2), 1e-12
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fused", [True, False])
def test_logarithms_down_to_1e_400(fused: bool, dtype: str) -> None:
    """A linear recurrence W = r I that adds its inputs: ‖∂L_k/∂x_t‖ = √(B H) r^(k − t)."""
    T, H, B, radius = 210, 3, 2, 0.0098
    rnn = tg.nn.RNN(H, H, nonlinearity="identity", bias=False, dtype=dtype, fused=fused)
    write(rnn.weight_hh_l0, radius * np.eye(H))
    write(rnn.weight_ih_l0, np.eye(H))
    radius = float(rnn.weight_hh_l0.numpy()[0, 0])
    output, _ = rnn(tg.zeros((T, B, H), dtype=dtype))
    loops.check_far_logarithms(matrix_of, output, radius)


def vanishing(dtype: str, fused: bool, rg: bool) -> tuple[list[tg.Tensor], tg.Tensor]:
    """Two layers whose gradients leave float32, and a loss at some steps."""
    gru = tg.nn.GRU(2, 3, 2, rng=1, dtype=dtype, fused=fused)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        write(getattr(gru, name), 1e-3 * host(getattr(gru, name)))
    for name in ("bias_ih_l0", "bias_ih_l1"):
        write(getattr(gru, name), -2.0 * np.ones(9))
    x = loops.inputs(0, 120, 2, 2).astype(dtype)
    tensor = leaf(x) if rg else const(x)
    output, _ = gru(tensor)
    return [output[t].sum() for t in (119, 60, 3)], tensor


@pytest.mark.parametrize("fused", [True, False])
def test_float32_tells_what_float64_does(fused: bool) -> None:
    (losses, x), (wide, _) = vanishing("float32", fused, True), vanishing("float64", True, False)
    expected = matrix_of(wide, "gru.l0", log=True)
    assert expected[np.isfinite(expected)].min() < -88 * 2  # float32 ends at e^-103
    for found in (matrix_of(losses, "gru.l0", log=True), matrix_of(losses, inputs=x, log=True)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_embedded_sequence() -> None:
    """Tokens have no gradient; the rows that were looked up are the inputs."""
    table, lstm = (
        tg.nn.Embedding(5, 2, rng=0, dtype="float64"),
        tg.nn.LSTM(2, 3, rng=0, dtype="float64"),
    )
    tokens = tg.tensor([[0, 1], [2, 0], [2, 4]], dtype="int64")
    embedded = table(tokens)
    losses = list(lstm(embedded)[0].sum(axis=(1, 2)))
    vectors = np.array([loops.grad(loss, embedded) for loss in losses])
    expected = np.linalg.norm(vectors.reshape(3, 3, -1), axis=2)
    assert_close(matrix_of(losses), expected, 1e-13)
    assert_close(matrix_of(losses, inputs=embedded), expected, 1e-13)
    with pytest.raises(tg.DTypeError, match=r"int64 have no gradient.* embedded sequence"):
        matrix_of(losses, inputs=tokens)


@pytest.mark.parametrize("fused", [True, False])
def test_in_several_passes_as_in_one(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, _ = vanishing("float64", fused, False)
    losses = losses * 5
    whole = matrix_of(losses, "gru.l0", log=True)
    monkeypatch.setattr(grad_matrices, "MEMORY", 0)
    monkeypatch.setattr(grad_matrices, "FEWEST", 4)
    np.testing.assert_allclose(matrix_of(losses, "gru.l0", log=True), whole, rtol=1e-12)


def test_nothing_is_touched() -> None:
    lstm = tg.nn.LSTM(2, 3, rng=0, dtype="float64")
    x = const(loops.inputs(0, 5, 2, 2))
    losses = (lstm(x)[0] ** 2).sum(axis=(1, 2))
    matrix_of(losses)
    assert not x.requires_grad
    assert x.grad is None
    assert all(p.grad is None for p in lstm.parameters())
    losses.sum().backward()  # nothing was freed
    with pytest.raises(tg.FreedGraphError, match="retain_graph=True"):
        matrix_of(losses)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fused", [True, False])
def test_what_is_not_finite_shows(fused: bool, value: float) -> None:
    """The inputs' gradients before a loss that is not finite are not finite, as are the states'."""
    rnn = tg.nn.RNN(2, 3, nonlinearity="identity", rng=0, dtype="float64", fused=fused)
    output, _ = rnn(const(loops.inputs(0, 5, 2, 2)))
    with np.errstate(invalid="ignore"):
        losses = [(output[3] * value).sum(), output[4].sum()]
        found = matrix_of(losses), tg.inspect.state_grad_matrix(losses)
    np.testing.assert_array_equal(np.isfinite(found[0]), np.isfinite(found[1]))
    assert not np.isfinite(found[0][0, :4]).any()


# --- loops of your own -------------------------------------------------------------------------


def loop(steps: list[tg.Tensor], projected: tg.Tensor | None = None) -> list[tg.Tensor]:
    """A loss at each step of a loop that reads x_t twice, once maybe in a product for all steps."""
    w, v = leaf(loops.inputs(1, 2, 3)), leaf(0.5 * loops.inputs(2, 3, 3))
    whole = None if projected is None else projected @ w
    h, losses = const(np.zeros((2, 3))), []
    for t, x in enumerate(steps):
        h = tg.tanh((x @ w if whole is None else whole[t]) + h @ v) + 0.3 * (x @ w)
        losses.append((h * h).sum())
    return losses


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("read", ["iterated", "indexed", "all steps at once", "in two halves"])
def test_a_sequence_that_a_loop_reads(read: str, requires_grad: bool) -> None:
    values = loops.inputs(0, 6, 2, 2)
    leaves = [leaf(x) for x in values]
    expected = one_by_one(loop(leaves), leaves)
    x = leaf(values) if requires_grad else const(values)
    if read == "in two halves":
        steps = [*x[:3], *x[3:]]
    else:
        steps = list(x) if read == "iterated" else [x[t] for t in range(6)]
    losses = loop(steps, x if read == "all steps at once" else None)
    assert_close(matrix_of(losses, inputs=x), expected, 1e-12)
    assert_close(matrix_of(losses, inputs=x, times=[1, 4]), expected[:, [1, 4]], 1e-12)
    assert_close(np.exp(matrix_of(losses, inputs=x, log=True)), expected, 1e-12)
    if read == "iterated":
        assert_close(matrix_of(losses, inputs=steps), expected, 1e-12)
    if read == "iterated" and not requires_grad:  # the same memory
        assert_close(matrix_of(losses, inputs=[x[t] for t in range(6)]), expected, 1e-12)


def test_windows_that_are_read_at_once() -> None:
    values, w = loops.inputs(0, 6, 2, 2), leaf(loops.inputs(1, 2, 3))
    x = const(values)
    losses = [(tg.tanh(part @ w) ** 2).sum() for part in (x[:2], x[2:])]
    whole = leaf(values)
    again = [(tg.tanh(whole[part] @ w) ** 2).sum() for part in (slice(2), slice(2, None))]
    vectors = np.array([loops.grad(loss, whole) for loss in again]).reshape(2, 6, -1)
    assert_close(matrix_of(losses, inputs=x), np.linalg.norm(vectors, axis=2), 1e-13)


def test_inputs_that_a_loop_makes_itself() -> None:
    """An input that was computed from a state: what it does to later inputs counts too."""
    w = leaf(loops.inputs(1, 3, 3))
    x, xs, losses = leaf(loops.inputs(0, 2, 3)), [], []
    for _ in range(5):
        xs.append(x)
        x = tg.tanh(x @ w)
        losses.append((x * x).sum())
    assert_close(matrix_of(losses, inputs=xs), one_by_one(losses, xs), 1e-12)


def test_numbers_and_vectors_as_inputs() -> None:
    for shape in ((6,), (6, 3)):
        values = loops.inputs(0, *shape)
        x, w, h, losses = leaf(values), leaf(np.array(0.7)), const(np.zeros(shape[1:])), []
        for t in range(6):
            h = tg.tanh(x[t] + w * h)
            losses.append(h.sum())
        vectors = np.array([loops.grad(loss, x) for loss in losses]).reshape(6, 6, -1)
        assert_close(matrix_of(losses, inputs=x), np.linalg.norm(vectors, axis=2), 1e-12)


def test_what_is_refused() -> None:
    values = loops.inputs(0, 6, 2, 2)
    x = const(values)
    steps = list(x)
    losses = loop(steps)
    for inputs, error, match in [
        (values, tg.DTypeError, r"inputs is a ndarray; pass the Tensor \(T, …\)"),
        ([values[0]], tg.DTypeError, "inputs is a list; pass the Tensor"),
        ([], tg.ArgumentError, "inputs has no steps"),
        (x[0, 0, 0], tg.ArgumentError, "inputs has no steps"),
        ([steps[0], steps[1], steps[0]], tg.ArgumentError, r"inputs\[2\] and inputs\[0\] are one Tensor"),
        ([steps[0], x], tg.ShapeError, "different shapes over time"),
        (const(values), tg.GraphError, "the losses depend on none of the inputs"),
        (x[:, :1], tg.GraphError, r"a Tensor \(2, 2\) that shares the memory of inputs \(6, 1, 2\)"),
    ]:  # fmt: skip
        with pytest.raises(error, match=f"input_grad_matrix: .*{match}"):
            matrix_of(losses, inputs=inputs)
    with pytest.raises(tg.ArgumentError, match=r"0 to 5.*6"):
        matrix_of(losses, inputs=x, times=[6])
    with pytest.raises(tg.ArgumentError, match=r"path='rnn' and inputs="):
        matrix_of(losses, "rnn", x)
    with pytest.raises(tg.GraphError, match=r"input_grad_matrix: .*state.*marked"):
        matrix_of(losses)
    with pytest.raises(tg.ArgumentError, match="input_grad_matrix: no losses"):
        matrix_of([])
    w = leaf(np.ones((2, 2)))
    h = tg.inspect.mark(tg.tanh(steps[0] @ w), "h", time=0)
    with pytest.raises(tg.GraphError, match=r"no operation on the inputs.*name them: inputs=x"):
        matrix_of(h.sum())


def test_inputs_that_were_changed_are_refused() -> None:
    x = const(loops.inputs(0, 6, 2, 2))
    losses = loop(list(x))
    write(x, 0.0, at=2)
    with pytest.raises(tg.InPlaceError, match=r"changed in place"):
        matrix_of(losses, inputs=x)
