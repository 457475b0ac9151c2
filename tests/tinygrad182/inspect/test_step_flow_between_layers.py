"""Recurrences with something between them: every gradient, however far its rows lie apart."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, const, host, host_only, leaf, write
from tinygrad182.inspect.passes.gradients import RowCotangents

flow_of = tg.inspect.gradient_flow


@dataclass
class Model:
    """A stack of recurrences, with operations between them, and what it retains on the way."""

    kinds: list[str]
    between: list[str]
    gain: float
    T: int = 60
    lengths: bool = False
    seed: int = 0
    fused: bool = True
    dtype: str = "float64"
    B: int = 2
    H: int = 3
    still: bool = False  # all states are 0
    retained: list[tg.Tensor] = field(default_factory=list)
    weights: list[tg.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        ends = np.array([self.T, self.T - 30]) if self.lengths else None
        x = self.leaf((self.T, self.B, self.H), 1.0 - self.still)
        y = x
        for i, kind in enumerate(self.kinds):
            layer = self.layer(kind, i)
            y = self.kept(layer(y, None, ends)[0], i)
            y = self.kept(BETWEEN[self.between[i]](self, y))
        top = self.layer(self.kinds[0], 9)
        y = self.kept(top(y, None, ends)[0], 9)
        late, early = self.constant((self.B, self.H)), self.constant((self.B, self.H))
        half = self.T // 2
        scale = min(self.gain, 30.0) ** half
        self.loss = (y[-1] * late).sum() + (y[half] * early).sum() * scale

    def layer(self, kind: str, seed: int) -> Any:
        options: dict[str, Any] = {"rng": seed, "dtype": "float64", "fused": self.fused}
        if kind == "lstm":
            layer: Any = tg.nn.LSTM(self.H, self.H, **options)
            bias = host(layer.bias_ih_l0).copy()
            bias[self.H : 2 * self.H] = np.log(min(self.gain, 0.999)) if self.gain < 1 else 2.0
            write(layer.bias_ih_l0, bias)
            write(layer.weight_hh_l0, host(layer.weight_hh_l0) * min(self.gain, 1.0))
        else:
            layer = tg.nn.RNN(self.H, self.H, 1, kind, **options)  # type: ignore[arg-type]
            weight = host(layer.weight_hh_l0)
            radius = np.abs(np.linalg.eigvals(weight)).max()
            write(layer.weight_hh_l0, weight / radius * self.gain)
            write(layer.bias_ih_l0, host(layer.bias_ih_l0) * (1.0 - self.still))
        if self.dtype != "float64":
            layer = layer_in(layer, self.dtype)
        self.weights += [p for _, p in layer.named_parameters()]
        return layer

    def constant(self, shape: tuple[int, ...]) -> tg.Tensor:
        return const(self.rng.normal(size=shape).astype("float32").astype(self.dtype))

    def leaf(self, shape: tuple[int, ...], scale: float = 1.0) -> tg.Tensor:
        w = leaf((self.rng.normal(size=shape) * scale).astype("float32").astype(self.dtype))
        self.weights.append(w)
        return w

    def kept(self, y: tg.Tensor, time: int | None = None) -> tg.Tensor:
        if time is not None:
            y = tg.inspect.mark(y, "depth", time=time)
        y.retain_grad()
        self.retained.append(y)
        return y


def layer_in(layer: Any, dtype: str) -> Any:
    """A layer of the same weights in another type."""
    kind = type(layer)
    more = {} if kind is tg.nn.LSTM else {"nonlinearity": layer.nonlinearity}
    other = kind(layer.input_size, layer.hidden_size, dtype=dtype, rng=0, fused=layer.fused, **more)
    for (_, a), (_, b) in zip(layer.named_parameters(), other.named_parameters(), strict=True):
        write(b, host(a))
    return other


def dropout(m: Model, y: tg.Tensor) -> tg.Tensor:
    return y * const((m.rng.random(y.shape) > 0.3).astype(m.dtype))


def linear(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.matmul(y, m.leaf((m.H, m.H))) + m.leaf((m.H,), 1.0 - m.still)


def swapped(m: Model, y: tg.Tensor) -> tg.Tensor:
    by_sample = tg.swapaxes(y, 0, 1) * m.leaf((m.B, 1, m.H))
    return tg.swapaxes(by_sample, 0, 1) + tg.permute_dims(tg.permute_dims(y, (2, 0, 1)), (1, 2, 0))


def gated(m: Model, y: tg.Tensor) -> tg.Tensor:
    return y * tg.sigmoid(tg.matmul(y, m.leaf((m.H, 1))))


def joined(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.concat([y[:20, ..., :1] * 2.0, y[20:, ..., :1]], axis=0) * y + tg.flip(y, axis=-1)


def restacked(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.stack([tg.tanh(y[t]) for t in range(m.T)])


def reshaped(m: Model, y: tg.Tensor) -> tg.Tensor:
    flat = tg.reshape(y, (m.T * m.B, m.H))
    return tg.reshape(tg.where(flat > 0, flat, 0.3 * flat), y.shape)


def normed(m: Model, y: tg.Tensor) -> tg.Tensor:
    return y / (1.0 + (y * y).sum(axis=-1, keepdims=True)) + tg.logsumexp(y, axis=2)[..., None]


def softmaxed(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.softmax(y, axis=-1) * 3.0 + tg.max(y, axis=-1, keepdims=True)


def time_mixed(m: Model, y: tg.Tensor) -> tg.Tensor:
    """Rows of all powers are mixed."""
    return y + 0.1 * tg.mean(y, axis=0) + 0.01 * tg.cumulative_sum(y, axis=0)


def reversed_(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.flip(y, axis=0) + y


def contracted(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.einsum("tbh,hk->tbk", y, m.leaf((m.H, m.H)))


def fancy(m: Model, y: tg.Tensor) -> tg.Tensor:
    return y[:, np.array([1, 0])] + y[..., [2, 0, 0]]


def doubled(m: Model, y: tg.Tensor) -> tg.Tensor:
    """One operation reads the sequence twice, at different steps."""
    return tg.concat([y, y], axis=0)[m.T // 2 : m.T // 2 + m.T] + y


def attended(m: Model, y: tg.Tensor) -> tg.Tensor:
    """Sums over steps with data-dependent weights."""
    weights = const(np.tril(m.rng.random((m.T, m.T)) < 0.1).astype(m.dtype))
    flat = tg.reshape(y, (m.T, m.B * m.H))
    return tg.reshape(tg.matmul(weights, flat), y.shape) + tg.einsum("tbh,ts->sbh", y, weights)


def taken(m: Model, y: tg.Tensor) -> tg.Tensor:
    """One step is taken several times, another never."""
    steps = np.minimum(m.rng.integers(0, m.T, m.T), np.arange(m.T))
    return tg.take(y, steps, axis=0) * 0.5 + tg.take(y, np.arange(m.H)[::-1], axis=2) + y[..., :1]


def rolled(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.roll(y, 7, axis=0) + tg.repeat(y, 2, axis=0)[m.T // 2 : m.T // 2 + m.T]


def stacked(m: Model, y: tg.Tensor) -> tg.Tensor:
    """One operation reads the sequence several times."""
    return tg.stack([y, y])[0] + tg.stack([y, y], axis=-1).mean(axis=-1) + tg.stack([y, y]).sum(0)


def multiplied(m: Model, y: tg.Tensor) -> tg.Tensor:
    return tg.prod(tg.stack([y, tg.sigmoid(y), 0.0 * y + 2.0]), axis=0)


def features(m: Model, y: tg.Tensor) -> tg.Tensor:
    return y * y[:, :, :1] + y[..., 0][..., None] + tg.sort(y, axis=-1)


def handed_on(m: Model, y: tg.Tensor) -> tg.Tensor:
    """The last state begins another recurrence."""
    return m.layer("identity", 5)(y, y[-1:])[0] + y


BETWEEN: dict[str, Callable[[Model, tg.Tensor], tg.Tensor]] = {
    "nothing": lambda m, y: y * 1.0,
    "dropout": dropout,
    "residual": lambda m, y: y + tg.tanh(y),
    **{
        f.__name__: f
        for f in (
            *(linear, swapped, gated, joined, restacked, reshaped, normed, softmaxed),
            *(time_mixed, reversed_, contracted, fancy, doubled, handed_on, attended, taken),
            *(rolled, stacked, multiplied, features),
        )
    },
}


def grads(model: Model) -> list[Array]:
    return [host(t.grad) for t in (*model.retained, *model.weights)]


def assert_rows_close(actual: Array, expected: Array, tolerance: float, what: str) -> None:
    """Compare relative to each row; a row below the range of its type must only be as small."""
    floor = 1e2 * float(np.finfo(actual.dtype).smallest_normal)
    sizes = np.abs(np.atleast_1d(expected)).max(axis=-1, keepdims=True)
    errors = np.abs(actual - expected)
    assert (errors <= tolerance * sizes + floor).all(), (what, (errors / (sizes + floor)).max())


models = st.fixed_dictionaries(
    {
        "kinds": st.lists(st.sampled_from(["identity", "tanh", "lstm"]), min_size=1, max_size=2),
        "between": st.lists(st.sampled_from(list(BETWEEN)), min_size=2, max_size=2),
        "gain": st.sampled_from([1e-5, 0.1, 0.5]),  # from 1 on, rounding grows on the way forward
        "lengths": st.booleans(),
        "seed": st.integers(0, 10_000),
    }
)


def check(given: dict[str, Any], dtype: str = "float64", tolerance: float = 1e-9) -> None:
    """Compare with plain backward through the steps in float64, whose range suffices."""
    fused, steps = Model(**given, dtype=dtype), Model(**given, fused=False)
    flow = flow_of(fused.loss, backward=True)
    steps.loss.backward(retain_graph=True)
    for i, (a, b) in enumerate(zip(grads(fused), grads(steps), strict=True)):
        assert_rows_close(a, b, tolerance, f"{i} of {given}")
    sizes = [np.abs(host(y.grad)).max() for y in steps.retained[::2]]
    expected = [
        np.log(size) + np.log(np.linalg.norm(host(y.grad) / size))
        for size, y in zip(sizes, steps.retained[::2], strict=True)
    ]
    np.testing.assert_allclose(flow[""]["depth"].log_grad_norm, expected, rtol=0, atol=tolerance)


@settings(max_examples=25)
@given(models)
def test_every_gradient_is_that_of_the_steps(given: dict[str, Any]) -> None:
    check(given)


LINES = [("identity", 3e-5), ("lstm", 3e-5), ("identity", 30.0)]


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize(("kind", "gain"), LINES)
def test_each_operation_between(kind: str, gain: float, name: str) -> None:
    """Over 270 decades in float64, which has powers of rows from 154 on, and in float32 over as many."""
    given = {"kinds": [kind], "between": [name], "gain": gain, "seed": 3, "lengths": True}
    check(given)
    if gain < 1:
        check(given, "float32", 2e-4)


STILL = [name for name in BETWEEN if name not in ("normed", "softmaxed")]
"""Operations that make 0 of 0, so that a recurrence may explode while its states do not."""


@host_only("what a device cannot hold is found on the host")
@pytest.mark.parametrize(("gain", "name"), [(1e-6, n) for n in BETWEEN] + [(1e6, n) for n in STILL])
def test_far_beyond_the_type(gain: float, name: str) -> None:
    """Over 700 decades: every norm in logarithms, as step by step."""
    case: dict[str, Any] = {"kinds": ["identity"] * 2, "between": [name] * 2, "gain": gain}
    models = [Model(**case, T=120, seed=5, still=gain > 1, fused=fused) for fused in (True, False)]
    fused, steps = (flow_of(model.loss, backward=True) for model in models)
    sizes = []
    for path in steps:
        for name, flow in steps[path].items():
            found, expected = fused[path][name].log_grad_norm, flow.log_grad_norm
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
            sizes.append(np.abs(expected[np.isfinite(expected)]).max())
    assert max(sizes) > 700 * np.log(10)


@host_only("a device does not look")
@pytest.mark.parametrize("name", BETWEEN)
def test_no_array_for_each_64_powers_of_two(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a sequence vanishes, its cotangent is a few arrays: here rows lie over 2^2000 apart."""
    case: dict[str, Any] = {"kinds": ["identity"], "between": [name], "gain": 0.01, "T": 300}
    model = Model(**case, dtype="float32")
    counts, pop = [0], RowCotangents.pop

    def counted(sums: RowCotangents, node: Any) -> Any:
        found = pop(sums, node)
        if node.value.ndim > 2 and node.value.size > 6:  # of a sequence
            counts.append(len(sums.powers))
        return found

    monkeypatch.setattr(RowCotangents, "pop", counted)
    flow = flow_of(model.loss)
    if name != "attended":  # which hands early steps' cotangents on to late ones
        assert flow["rnn.l0#2"].h.log_grad_norm[5] < -1000 * np.log(2)
    assert len(counts) > 3
    assert max(counts) <= 3


LONG: dict[str, Callable[[tg.Tensor], tg.Tensor]] = {
    "take": lambda o: tg.take(o, np.arange(len(o)), axis=0),
    "concat": lambda o: tg.concat([o, o], axis=0)[: len(o)],
    "cumulative_sum": lambda o: tg.cumulative_sum(o, axis=0),
    "sort": lambda o: tg.sort(o, axis=-1),
    "einsum": lambda o: o + tg.einsum("tbh,t->bh", o, tg.ones((len(o),))),
}


@host_only("the memory of the host")
@pytest.mark.parametrize("name", LONG)
def test_twice_the_steps_take_twice_the_memory(name: str) -> None:
    peaks = []
    for T in (300, 600):
        below, above = (tg.nn.RNN(4, 4, rng=k) for k in range(2))
        for layer in (below, above):
            write(layer.weight_hh_l0, 1e-3 * host(layer.weight_hh_l0))
        states = below(const(np.ones((T, 1, 4), "float32")))[0]
        loss = above(LONG[name](states))[0][-1].sum()
        tracemalloc.start()
        flow_of(loss)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.4 * peaks[0]
