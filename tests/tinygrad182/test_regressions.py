"""Each of these was wrong once."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, host, share_memory, write


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


def test_a_numpy_scalar_keeps_its_dtype_in_a_tensor_and_is_weak_in_an_operator() -> None:
    scalar = np.float64(0.1)
    for data in (scalar, [scalar], [[scalar]]):
        assert tg.tensor(data).dtype == np.float64
    assert (tg.ones(1) * scalar).dtype == np.float32
    prediction = tg.tensor(np.array(0.3))
    assert tg.nn.mse_loss(prediction, scalar).item() == pytest.approx(0.04, rel=1e-14)
    assert tg.nn.cross_entropy(tg.zeros(4), np.int64(1)).item() == pytest.approx(
        np.log(4), rel=1e-6
    )


@pytest.mark.parametrize("op", [lambda a: a & a, lambda a: a | a, lambda a: ~a])
def test_masks_are_combined_and_numbers_refused(op) -> None:  # type: ignore[no-untyped-def]
    mask = tg.tensor([True, False])
    assert op(mask).tolist() in ([True, False], [False, True])
    for data in ([1.5], [6]):
        with pytest.raises(tg.DTypeError, match="Boolean"):
            op(tg.tensor(np.array(data)))


def test_a_penalty_on_a_jacobian_reaches_the_weights() -> None:
    """∂/∂W Σ_ij J_ij for J = ∂tanh(v W)/∂v, by hand: J_ij = (1 − y_i²) W_ji."""
    w = tg.tensor(np.array([[0.5, -0.3], [0.2, 0.8]]), requires_grad=True)
    v = tg.tensor(np.array([1.0, 2.0]))
    tg.jacobian(lambda v: tg.tanh(v @ w), v).sum().backward()
    y = np.tanh(v.numpy() @ w.numpy())
    d = 1 - y * y
    expected = d[None, :] - 2 * (y * d * w.numpy().sum(0))[None, :] * v.numpy()[:, None]
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-13)
    with tg.no_grad():
        assert not tg.jacobian(lambda v: tg.tanh(v @ w), v).requires_grad


def test_an_edge_names_its_place_among_the_inputs() -> None:
    x = tg.tensor(3.0, requires_grad=True)
    graph = tg.inspect.trace((2 - x * x) * 5)
    for node in graph:
        for edge in node.edges:
            assert edge.consumer.inputs[edge.position] == node


def test_a_tangent_passes_a_condition_that_is_no_mask() -> None:
    x, v = tg.tensor([1.0, 0.0]), tg.tensor([3.0, 5.0])
    _, tangent = tg.jvp(lambda x: tg.where(x, x * 2, 0.0), x, v)
    assert tangent.tolist() == [6.0, 0.0]
    _, tangent = tg.jvp(lambda x: tg.where(x, 1.0, 0.0), x, v)
    assert tangent.tolist() == [0.0, 0.0]


def test_a_gradient_is_never_the_cotangent_it_was_started_from() -> None:
    x = tg.ones(2, requires_grad=True)
    g = tg.ones(2, requires_grad=True)
    x.backward(g, create_graph=True)
    assert x.grad is not g
    assert x.grad is not None
    assert not share_memory(x.grad, g)


def test_the_uses_of_a_weight_are_found_by_its_name() -> None:
    rnn = tg.nn.RNN(1, 3, rng=0, dtype="float64", fused=False)
    output, _ = rnn(tg.ones((5, 2, 1), dtype="float64"))
    graph = tg.inspect.trace(output[-1].sum())
    (weight,) = graph.select(name="weight_hh_l0")
    (transposed,) = weight.consumers  # taken once, used at every step
    assert [edge.consumer.time for edge in transposed.edges] == [0, 1, 2, 3, 4]
    total = sum(host(edge.cotangent) for edge in transposed.edges)
    np.testing.assert_allclose(total.T, host(weight.grad), rtol=1e-13)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tg.arange(float("inf")),
        lambda: tg.arange(float("nan")),
        lambda: tg.stack(5),  # type: ignore[arg-type]
        lambda: tg.tensor(np.ones(2, np.int8)) + 1000,
        lambda: tg.optim.clip_grad_norm_(None, 1.0),  # type: ignore[arg-type]
        lambda: tg.optim.clip_grad_norm_([1.0], 1.0),  # type: ignore[list-item]
        lambda: tg.optim.clip_grad_norm_([tg.ones(1)], "a"),  # type: ignore[arg-type]
        lambda: tg.optim.Adam([tg.ones(1, requires_grad=True)], betas=("a", 0.9)),  # type: ignore[arg-type]
    ],
)
def test_bad_input_gives_an_error_of_ours(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(tg.TinygradError):
        call()


def test_a_parameter_is_updated_in_place_where_nothing_is_recorded() -> None:
    w = kept = tg.tensor([1.0, 2.0], requires_grad=True)
    (w * w).sum().backward()
    assert w.grad is not None
    with pytest.raises(tg.GraphError, match="no_grad"):
        w -= 0.5 * w.grad
    with tg.no_grad():
        w -= 0.25 * w.grad
    assert w is kept
    assert w.requires_grad
    assert w.tolist() == [0.5, 1.0]
    y = x = tg.ones(2)  # any other tensor is left as it was, as with numbers
    y += 1
    assert x.tolist() == [1.0, 1.0]


def test_no_grad_decorates_a_function() -> None:
    w = tg.ones(1, requires_grad=True)

    @tg.no_grad()
    def twice(n: int) -> list[bool]:
        return [(w * 2).requires_grad, *(twice(n - 1) if n else [])]

    assert twice(2) == [False] * 3
    assert (w * 2).requires_grad


# --- what mutants of the engine came through ----------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_cotangent_takes_the_type_of_its_output(create_graph: bool) -> None:
    x = tg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    g = tg.tensor(np.array([1.0, 3.0], dtype="float32"), requires_grad=create_graph)
    (dx,) = tg.grad(x * x, x, g, create_graph=create_graph)
    assert dx is not None
    assert dx.dtype == tg.float64
    assert dx.tolist() == [2.0, 12.0]
    if create_graph:
        (dg,) = tg.grad(dx.sum(), g)
        assert dg is not None
        assert dg.dtype == tg.float32
        assert dg.tolist() == [2.0, 4.0]
    (dx,) = tg.grad(x * x, x, [[1, 3]])
    assert dx is not None
    assert dx.dtype == tg.float64


def test_derivatives_by_what_a_function_does_not_use_are_zeros_of_their_shapes() -> None:
    x, w = tg.ones(3), tg.tensor([2.0, 5.0], requires_grad=True)
    for f in (lambda x: tg.ones(2), lambda x: w * 1):
        found = tg.jacobian(f, x)
        assert found.tolist() == [[0.0] * 3] * 2
    out, tangent = tg.jvp(lambda x: (x * 2, w * 1, tg.ones(4)), x, tg.ones(3))
    assert isinstance(out, tuple)
    assert [t.tolist() for t in tangent] == [[2.0] * 3, [0.0] * 2, [0.0] * 4]
    _, pull = tg.vjp(lambda a, b: a * 2, x, w)
    assert [g.tolist() for g in pull(tg.ones(3))] == [[2.0] * 3, [0.0] * 2]


def test_gradients_add_up_whether_recorded_or_not() -> None:
    x = tg.tensor([3.0], requires_grad=True)
    (x * x).sum().backward()
    (x * 5).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [11.0]
    assert not x.grad.requires_grad
    (x * x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    assert x.grad.tolist() == [38.0]


def test_a_tangent_keeps_the_type_of_its_value() -> None:
    x = tg.tensor(np.array([1.0, 2.0], dtype="float32"))
    for f in (lambda x: tg.astype(x, "float64") * 2, lambda x: tg.where(x > 1, x, 0.0)):
        out, tangent = tg.jvp(f, x, tg.ones(2))
        assert isinstance(out, tg.Tensor)
        assert isinstance(tangent, tg.Tensor)
        assert tangent.dtype == out.dtype


def test_an_array_beside_a_tensor_is_recorded_as_it_was() -> None:
    x = tg.tensor(np.array([2.0, 3.0]), requires_grad=True)
    factors = array([5.0, 7.0])
    y = (x * factors).sum()
    write(factors, 0.0)
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 7.0]
