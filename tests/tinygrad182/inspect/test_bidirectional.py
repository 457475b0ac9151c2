"""Bidirectional layers: each view says of a direction what it says of a layer that runs in it alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import assert_close, const, host, leaf

inspect = tg.inspect
T, B, I, H, LAYERS = 5, 3, 2, 4, 2  # noqa: E741
LENGTHS = [5, 2, 4]
PLACES = [(k, direction) for k in range(LAYERS) for direction in ("", "_reverse")]

kinds = pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
fusions = pytest.mark.parametrize("fused", [True, False], ids=["fused", "unrolled"])
lengths = pytest.mark.parametrize("ends", [None, LENGTHS], ids=["all", "lengths"])


def both_ways(kind: str, fused: bool, layers: int = LAYERS) -> Any:
    options: dict[str, Any] = {"rng": 2, "dtype": "float64", "fused": fused}
    return getattr(tg.nn, kind)(I, H, layers, bidirectional=True, **options)


class ByHand(tg.nn.Module):
    """Two layers of one direction, each on sequences that are reversed one by one."""

    def __init__(self, kind: str, fused: bool) -> None:
        whole = both_ways(kind, fused)
        state = whole.state_dict()
        self.parts = []
        for k, direction in PLACES:
            size = 2 * H if k else I
            part = getattr(tg.nn, kind)(size, H, dtype="float64", fused=fused)
            part.load_state_dict(
                {n: state[n.replace("_l0", f"_l{k}{direction}")] for n in part.state_dict()}
            )
            self.parts.append(part)

    def forward(self, x: tg.Tensor, ends: Any) -> tg.Tensor:
        for k in range(LAYERS):
            ahead, back = self.parts[2 * k : 2 * k + 2]
            outputs = ahead(x, None, ends)[0], turned(back(turned(x, ends), None, ends)[0], ends)
            x = tg.concat(outputs, axis=2)
        return x


def turned(x: tg.Tensor, ends: Any) -> tg.Tensor:
    """Each sequence from its own end to its start."""
    columns = []
    for i, n in enumerate(ends or [T] * B):
        columns.append(tg.concat([tg.flip(x[:n, i], axis=0), x[n:, i]]) if n < T else x[::-1, i])
    return tg.stack(columns, axis=1)


def losses_of(output: tg.Tensor, ends: Any) -> list[tg.Tensor]:
    inside = np.arange(T)[:, None] < np.array(ends or [T] * B)
    weights = np.random.default_rng(1).normal(size=(T, B, 2 * H)) * inside[..., None]
    every = const(weights) * output**2
    return [every[t].sum() for t in range(T)]


def views(
    losses: list[tg.Tensor], path: str, weights: list[tg.Tensor], gains: bool
) -> Iterator[tuple[str, Any]]:
    """Every figure that there is of the states in ``path``."""
    loss = sum(losses[1:], losses[0])
    flow = inspect.gradient_flow(loss)[path]
    for name, part in flow.items():
        yield f"{name}.grad", part.grad
        yield f"{name}.value", part.value
        yield f"{name}.initial_grad", part.initial_grad
        yield f"{name}.log_grad_norm", part.log_grad_norm
        yield f"{name}, of each loss", inspect.state_grad_matrix(losses, path, name)
        yield (
            f"{name}, by hops",
            inspect.grad_by_hops(loss, 2, state=name, through="h", path=path).grad,
        )
    for name, shares in inspect.path_split(loss, path).items():
        yield from ((f"{name}, {part}", array) for part, array in shares.parts.items())
    jacobians = inspect.step_jacobians(loss, path, sample=0)
    yield "Jacobians", jacobians.matrices
    yield "log growth", jacobians.log_growth
    if gains:
        split = inspect.gain_split(loss, path)
        yield "gain", split.gain
        yield "saturation", split.saturation
    for i, weight in enumerate(weights):
        by_time = host(inspect.weight_grad_by_time(loss, weight))
        assert_close(
            by_time.sum(axis=0), host(tg.grad(loss, [weight], retain_graph=True)[0]), 1e-12
        )
        assert np.abs(by_time).max() > 1e-4
        yield f"weight {i}", by_time


@kinds
@fusions
@lengths
def test_every_view_is_that_of_a_layer_in_one_direction(kind: str, fused: bool, ends: Any) -> None:
    x = np.random.default_rng(0).normal(size=(T, B, I))
    layer, by_hand = both_ways(kind, fused), ByHand(kind, fused)
    here, there = leaf(x), leaf(x)
    losses = losses_of(layer(here, None, ends)[0], ends)
    expected = losses_of(by_hand(there, ends), ends)
    name, gains = kind.lower(), kind == "RNN" and ends is None  # a state past an end has no gain
    assert list(inspect.gradient_flow(losses[0])) == [f"{name}.l{k}{d}" for k, d in PLACES]
    for i, (k, direction) in enumerate(PLACES):
        own = [p for n, p in layer.named_parameters() if n.endswith(f"_l{k}{direction}")]
        theirs = list(by_hand.parts[i].parameters())
        found = views(losses, f"{name}.l{k}{direction}", own, gains)
        reference = views(expected, f"parts.{i}.l0", theirs, gains)
        for (what, a), (_, b) in zip(found, reference, strict=True):
            assert_close(host(a), host(b), 1e-11, f"l{k}{direction}: {what}", floor=1e-9)


@kinds
@fusions
def test_steps_are_counted_as_they_run_and_line_up_turned_round(kind: str, fused: bool) -> None:
    layer = both_ways(kind, fused, layers=1)
    layer.return_states = True
    output, _, states = layer(leaf(np.random.default_rng(0).normal(size=(T, B, I))))
    name, t = kind.lower(), 2
    flow = inspect.gradient_flow(output[t].sum())
    ahead, back = flow[f"{name}.l0"].h, flow[f"{name}.l0_reverse"].h
    assert_close(host(back.value)[::-1], host(output)[..., H:], 0.0)
    assert_close(host(back.value)[::-1], host(states.h)[1], 0.0)
    assert_close(host(ahead.value), host(states.h)[0], 0.0)
    assert ((host(ahead.grad_norm) > 0) == (np.arange(T) <= t)).all()
    assert ((host(back.grad_norm)[::-1] > 0) == (np.arange(T) >= t)).all()


@pytest.mark.parametrize("ends", [None, [300, 200]], ids=["all", "lengths"])
def test_gradients_far_below_float32_come_through_turned_sequences(ends: Any) -> None:
    """∂L/∂h of two layers in float32, against the same in float64, which holds all of it."""
    found = {}
    for dtype in ("float32", "float64"):
        rnn = tg.nn.RNN(I, H, 2, "identity", bidirectional=True, rng=0)
        for name, p in rnn.named_parameters():
            if "weight_hh" in name:
                tg.nn.init.orthogonal_(p, rng=1)
                tg.nn.init.scale_to_spectral_radius_(p, 0.5)
        x = np.random.default_rng(0).normal(size=(300, 2, I)).astype("float32")
        output, _ = rnn.to(dtype=dtype)(leaf(x.astype(dtype)), None, ends)
        flow = inspect.gradient_flow(output[0].sum())
        found[dtype] = {path: host(states.h.log_grad_norm) for path, states in flow.items()}
    least = min(log[np.isfinite(log)].min() for log in found["float64"].values())
    assert least < np.log(1e-85)
    for path, logs in found["float64"].items():
        np.testing.assert_allclose(found["float32"][path], logs, rtol=0, atol=1e-4, err_msg=path)


@fusions
@lengths
def test_layers_before_and_after_are_split_by_the_time_of_the_input(fused: bool, ends: Any) -> None:
    """Layers outside the two directions keep the time of x; the reference has a weight for every step."""
    layer = both_ways("LSTM", fused)
    draw = np.random.default_rng(3)
    x = const(draw.normal(size=(T, B, I)))
    below, above = draw.normal(size=(I, I)), draw.normal(size=(2 * H, 2))

    def run(below: Any, above: Any) -> tg.Tensor:
        output, _ = layer(tg.matmul(x, below), None, ends)
        return tg.square(tg.matmul(output, above)).sum()

    shared = leaf(below), leaf(above)
    loss = run(*shared)
    copies = leaf(np.stack([below] * T)), leaf(np.stack([above] * T))
    expected = tg.grad(run(*copies), list(copies))
    for weight, by_step in zip(shared, expected, strict=True):
        assert_close(host(inspect.weight_grad_by_time(loss, weight)), host(by_step), 1e-12)


@kinds
@pytest.mark.parametrize("truncate", [None, 2])
def test_one_operation_for_each_direction_which_can_be_opened(
    kind: str, truncate: int | None
) -> None:
    layer = both_ways(kind, fused=True, layers=1)
    output, _ = layer(const(np.random.default_rng(0).normal(size=(T, B, I))), truncate=truncate)
    graph = inspect.trace((output**2).sum())
    for direction in ("l0", "l0_reverse"):
        path = f"{kind.lower()}.{direction}"
        scans = graph.select(op=f"{kind.lower()}_scan", module=path)
        assert len(scans) == (1 if truncate is None else 3)
        flow = inspect.gradient_flow((output**2).sum())[path]
        steps = [t for scan in scans for t in opened(graph, scan, flow)]
        assert sorted(steps) == list(range(T))


def opened(graph: Any, scan: Any, flow: Any) -> list[int]:
    """The steps of an operation, each of which shows the gradient that the flow says."""
    states = [state for state in graph.expand(scan).select(name="h") if state.time >= 0]
    for state in states:
        assert_close(host(state.grad), host(flow.h.grad)[state.time], 1e-12)
    return [state.time for state in states]
