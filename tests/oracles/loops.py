"""Recurrences as loops of Tensors whose states are marked, and the steps of our layers written out as such.

Every loop asks for its weights by name and step, and for its past through ``cut``. With a copy of a weight
for every step, or with a past that is detached, a loop is the reference for what the views report.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import Array, const, host, leaf
from tinygrad182.arrays import backend
from tinygrad182.recurrence.scans import Scan
from tinygrad182.tensors import functions

mark = tg.inspect.mark
States = dict[str, list[tg.Tensor]]


def reading(view: Callable[..., Any]) -> Callable[..., Any]:
    """A view that gives all arrays on the host, for tests that compute with them."""

    @functools.wraps(view)
    def call(*args: Any, **options: Any) -> Any:
        return _read(view(*args, **options))

    return call


def _read(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _read(part) for name, part in found.items()}
    if dataclasses.is_dataclass(found):
        fields = {f.name: _read(getattr(found, f.name)) for f in dataclasses.fields(found)}
        return dataclasses.replace(found, **fields)  # type: ignore[type-var]
    return host(found) if backend.is_array(found) else found


class Weights:
    """Leaves by name, one for all steps or, with ``copies``, one for each."""

    def __init__(self, seed: int = 0, copies: bool = False) -> None:
        self.seed, self.copies = seed, copies
        self.given: dict[str, Array] = {}
        self.leaves: dict[tuple[str, int], tg.Tensor] = {}

    def __call__(self, name: str, t: int, *shape: int) -> tg.Tensor:
        if name not in self.given:
            rng = np.random.default_rng([self.seed, *name.encode()])
            self.given[name] = rng.normal(size=shape) * 0.7
        key = (name, t if self.copies else 0)
        if key not in self.leaves:
            self.leaves[key] = leaf(self.given[name])
        return self.leaves[key]

    def names(self) -> list[str]:
        return sorted({name for name, _ in self.leaves})

    def grads(self, loss: tg.Tensor, name: str, T: int) -> Array:
        """∂loss/∂ the copy of every step."""
        zeros = np.zeros(self.given[name].shape)
        out = [zeros] * T
        for (n, t), w in self.leaves.items():
            if n == name:
                out[t] = grad(loss, w)
        return np.stack(out)


def grad(loss: tg.Tensor, x: tg.Tensor) -> Array:
    """∂loss/∂x; zeros where it is not reached."""
    (g,) = tg.grad(loss, [x], retain_graph=True) if loss.requires_grad else (None,)
    return np.zeros(x.shape) if g is None else g.numpy()


def past(h: tg.Tensor, cut: bool) -> tg.Tensor:
    return h.detach() if cut else h


def inputs(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, 1]).normal(size=shape)


# --- loops that only use mark -------------------------------------------------------------------


def rnn_outside(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """W.T once, before the loop; a weight for every step needs it inside."""
    x = inputs(w.seed, T, B, H)
    once = None if w.copies else w("W", 0, H, H).T
    h, hs = const(np.zeros((B, H))), []
    for t in range(T):
        W = w("W", t, H, H).T if once is None else once
        h = mark(tg.tanh(const(x[t]) + past(h, cut) @ W + w("b", t, H)), "h", t)
        hs.append(h)
    return {"h": hs}


def rnn_inside(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    x = inputs(w.seed, T, B, H)
    h, hs = const(np.ones((B, H))), []
    for t in range(T):
        h = mark(tg.tanh(const(x[t]) @ w("U", t, H, H) + past(h, cut) @ w("W", t, H, H).T), "h", t)
        hs.append(h)
    return {"h": hs}


def gru(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    x = inputs(w.seed, T, B, H)
    h, hs = const(np.zeros((B, H))), []
    for t in range(T):
        before, x_t = past(h, cut), const(x[t])
        r = tg.sigmoid(x_t @ w("U_r", t, H, H) + before @ w("W_r", t, H, H))
        z = tg.sigmoid(x_t @ w("U_z", t, H, H) + before @ w("W_z", t, H, H))
        n = tg.tanh(x_t @ w("U_n", t, H, H) + r * (before @ w("W_n", t, H, H)))
        h = mark((1 - z) * n + z * before, "h", t)
        hs.append(h)
    return {"h": hs}


def gates_of_one_weight(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """Three gates' weights in one array, taken apart by an index that is not a time step."""
    x = inputs(w.seed, T, B, H)
    once = None if w.copies else w("W", 0, 3 * H, H).reshape(3, H, H)
    h, hs = const(np.ones((B, H))), []
    for t in range(T):
        W = w("W", t, 3 * H, H).reshape(3, H, H) if once is None else once
        before = past(h, cut)
        z = tg.sigmoid(before @ W[0])
        n = tg.tanh(const(x[t]) + tg.sigmoid(before @ W[1]) * (before @ W[2]))
        h = mark(z * before + (1 - z) * n, "h", t)
        hs.append(h)
    return {"h": hs}


def other_names(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """A memory, and what is read from it, which reads itself too."""
    x = inputs(w.seed, T, B, H)
    memory, read = const(np.zeros((B, H))), const(np.ones((B, H)))
    found: States = {"memory": [], "read": []}
    for t in range(T):
        m, r = past(memory, cut), past(read, cut)
        memory = mark(0.8 * m + tg.tanh(const(x[t]) + r @ w("W", t, H, H)), "memory", t)
        read = mark(tg.tanh(memory @ w("V", t, H, H) + 0.5 * r), "read", t)
        found["memory"].append(memory)
        found["read"].append(read)
    return found


def hidden_part(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """A second part of the state that is not marked; so the initial state has to be."""
    x = inputs(w.seed, T, B, H)
    c = h = const(np.ones((B, H)))
    mark(h, "h", -1)
    hs = []
    for t in range(T):
        c = past(c, cut) * tg.sigmoid(w("f", t, H)) + tg.tanh(
            const(x[t]) + past(h, cut) @ w("W", t, H, H)
        )
        h = mark(tg.tanh(c), "h", t)
        hs.append(h)
    return {"h": hs}


def two_back(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """Every step reads the last two states."""
    x = inputs(w.seed, T, B, H)
    old = h = const(np.ones((B, H)))
    hs = []
    for t in range(T):
        z = const(x[t]) + past(h, cut) @ w("W", t, H, H) + past(old, cut) @ w("U", t, H, H)
        old, h = h, mark(tg.tanh(z), "h", t)
        hs.append(h)
    return {"h": hs}


def sparse(w: Weights, T: int, B: int, H: int, cut: bool = False) -> States:
    """A slow state, written to at every other step only."""
    x = inputs(w.seed, T, B, H)
    slow = h = const(np.ones((B, H)))
    found: States = {"slow": [], "h": []}
    for t in range(T):
        before, s = past(h, cut), past(slow, cut)
        if t % 2 == 0:
            slow = s = mark(0.9 * s + tg.tanh(before @ w("V", t, H, H)), "slow", t)
            found["slow"].append(slow)
        h = mark(tg.tanh(const(x[t]) + before @ w("W", t, H, H) + s), "h", t)
        found["h"].append(h)
    return found


LOOPS: dict[str, Callable[..., States]] = {
    f.__name__: f
    for f in (
        rnn_outside,
        rnn_inside,
        gru,
        gates_of_one_weight,
        other_names,
        hidden_part,
        two_back,
        sparse,
    )
}


# --- the layers' steps, written out -------------------------------------------------------------

SIGMA: dict[str, Callable[[tg.Tensor], tg.Tensor]] = {
    "tanh": tg.tanh,
    "relu": tg.relu,
    "identity": lambda z: z,
}


def unrolled(
    layer: Any, x: Any, lengths: Array | None = None, copies: bool = False, cut: int | None = None
) -> tuple[list[States], Weights]:
    """The states of every layer of a tg.nn.RNN or LSTM over ``(T, B, I)``; layer ``cut`` has no past.

    x is an array, or a list of Tensors by step.
    """
    w, H = Weights(copies=copies), layer.hidden_size
    w.given = {name: p.numpy() for name, p in layer.named_parameters()}
    T, B = len(x), x[0].shape[0]
    ends = np.full(B, T) if lengths is None else lengths
    below, found = x if isinstance(x, list) else [const(x[t]) for t in range(T)], []
    for k in range(layer.num_layers):
        h = c = const(np.zeros((B, H)))
        states: States = {"h": [], "c": []}
        for t in range(T):
            going = const(np.repeat((t < ends)[:, None], H, axis=1))
            hp, cp = past(h, k == cut), past(c, k == cut)
            z = below[t] @ w(f"weight_ih_l{k}", t).T + hp @ w(f"weight_hh_l{k}", t).T
            z = z + w(f"bias_ih_l{k}", t) if layer.bias else z
            if isinstance(layer, tg.nn.LSTM):
                i, f, g, o = (z[:, j * H : (j + 1) * H] for j in range(4))
                c = tg.where(going, tg.sigmoid(f) * cp + tg.sigmoid(i) * tg.tanh(g), c.detach())
                h = tg.where(going, tg.sigmoid(o) * tg.tanh(c), h.detach())
            else:
                h = tg.where(going, SIGMA[layer.nonlinearity](z), h.detach())
            states["h"].append(h)
            states["c"].append(c)
        if not isinstance(layer, tg.nn.LSTM):
            del states["c"]
        found.append(states)
        below = states["h"]
    return found, w


def step_by_step(
    scan: Scan, inputs: list[tg.Tensor], going: Array, **params: Any
) -> tuple[list[Any], list[Any]]:
    """The states of a scan as each step computes them, and as they stay past the end of a sequence."""
    given_ = scan.operands(tuple(inputs))
    state, others = given_.initial, dict(zip(scan.weights, given_.others, strict=True))
    every_new, every_held = [], []
    for t, goes in enumerate(going):
        x = given_.x[t] @ given_.weight_ih.T + given_.bias_ih
        h = state[0] @ given_.weight_hh.T + given_.bias_hh
        handed_on = {id(part) for part in state}
        new = scan.step(functions, x, h, state, **others, **params)
        new = tuple(1.0 * part if id(part) in handed_on else part for part in new)
        mask = const(goes[:, None])
        pairs = zip(new, state, strict=True)
        state = new if goes.all() else tuple(tg.where(mask, a, b.detach()) for a, b in pairs)
        every_new += new
        every_held += state
    return every_new, every_held


# --- losses -------------------------------------------------------------------------------------


def loss_of(hs: list[tg.Tensor], where: str, seed: int = 0) -> tg.Tensor:
    """A loss at the last step, at all, or at some chosen at random."""
    rng = np.random.default_rng([seed, 2])
    T, total = len(hs), const(np.zeros(()))
    chosen = {"last": [T - 1], "all": range(T), "random": np.flatnonzero(rng.random(T) < 0.5)}[
        where
    ]
    for t, h in enumerate(hs):
        a = const(rng.normal(size=h.shape))
        if t in chosen or (t == T - 1 and not len(chosen)):
            total = total + (a * h * h).sum() + h.sum()
    return total


wheres = st.sampled_from(["last", "all", "random"])
sides = st.integers(1, 3)
steps = st.integers(1, 5)
seeds = st.integers(0, 99)


class Case:
    """A tg.nn.RNN or LSTM over random inputs, with a loss."""

    def __init__(
        self,
        kind: str,
        T: int,
        B: int,
        H: int,
        layers: int,
        where: str,
        seed: int,
        batch_first: bool,
        lengths: bool,
        fused: bool = True,
    ) -> None:
        options: dict[str, Any] = {"rng": seed, "dtype": "float64"}
        options |= {"batch_first": batch_first, "fused": fused}
        if kind == "lstm":
            self.layer: Any = tg.nn.LSTM(2, H, layers, **options)
        else:
            self.layer = tg.nn.RNN(2, H, layers, kind, **options)  # type: ignore[arg-type]
        self.x = inputs(seed, T, B, 2)
        rng = np.random.default_rng([seed, 3])
        self.lengths = rng.integers(0, T + 1, size=B) if lengths else None
        self.T, self.B, self.H = T, B, H
        self.where, self.seed = where, seed
        x = self.x.swapaxes(0, 1) if batch_first else self.x
        output, _ = self.layer(const(x), None, self.lengths)
        self.output = tg.swapaxes(output, 0, 1) if batch_first else output
        self.loss = self.loss_of([self.output[t] for t in range(T)])

    def loss_of(self, hs: list[tg.Tensor]) -> tg.Tensor:
        return loss_of(hs, self.where, self.seed)

    def reference(self, **how: Any) -> tuple[tg.Tensor, list[States], Weights]:
        states, w = unrolled(self.layer, self.x, self.lengths, **how)
        return self.loss_of(states[-1]["h"]), states, w

    @property
    def name(self) -> str:
        return type(self.layer).__name__.lower()


cases = st.builds(
    Case,
    kind=st.sampled_from(["tanh", "relu", "identity", "lstm"]),
    T=steps,
    B=sides,
    H=sides,
    layers=st.integers(1, 2),
    where=wheres,
    seed=seeds,
    batch_first=st.booleans(),
    lengths=st.booleans(),
    fused=st.booleans(),
)


def check_far_logarithms(matrix_of: Callable[..., Array], output: tg.Tensor, radius: float) -> None:
    """Compare a matrix by losses at some steps of h_t = radius · h_{t−1} with √(B H) radius^(k − t)."""
    T, B, H = output.shape
    ends = np.array([T - 1, 100, 0])
    found = matrix_of([output[int(k)].sum() for k in ends], log=True)
    lags = ends[:, None] - np.arange(T)
    expected = math.log(B * H) / 2 + lags * math.log(radius)
    assert found[0, 0] < -400 * math.log(10)
    inside = lags >= 0
    np.testing.assert_allclose(
        found[inside], expected[inside], rtol=1e-12 if output.dtype == np.float64 else 1e-6
    )
    np.testing.assert_array_equal(found[~inside], -np.inf)
    plain = matrix_of([output[-1].sum()])
    assert plain[0, 0] == 0.0
    np.testing.assert_allclose(plain[0, -20:], np.exp(expected[0, -20:]), rtol=1e-5)
