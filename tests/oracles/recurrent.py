"""Recurrent layers as loops in NumPy, real or complex. Nothing here uses the framework.

Weights are arrays by the names of ``state_dict()``. A step is ``step(x, h, state, **weights)``: ``x`` and
``h`` are the products of the input and of the hidden state with their weights, each (B, gates·H). It
returns the new parts of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.support import Array

State = tuple[Array, ...]
Step = Callable[..., State]

# --- steps ----------------------------------------------------------------------------------------


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _norm(z: Array, gain: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


SIGMA: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.where(z.real > 0, z, 0.0),
}


def vanilla(nonlinearity: str) -> Step:
    """The step h_t = σ(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh)."""
    return lambda x, h, state: (SIGMA[nonlinearity](x + h),)


def swish(x: Array, h: Array, state: State) -> State:
    return ((x + h) * sigmoid(x + h),)


def gru(x: Array, h: Array, state: State) -> State:
    (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
    z = sigmoid(xz + hz)
    return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * state[0],)


def minimal_gated_unit(x: Array, h: Array, state: State) -> State:
    (xf, xn), (hf, hn) = np.split(x, 2, -1), np.split(h, 2, -1)
    f = sigmoid(xf + hf)
    return ((1 - f) * state[0] + f * np.tanh(xn + f * hn),)


def peephole_lstm(
    x: Array, h: Array, state: State, peep_i: Array, peep_f: Array, peep_o: Array
) -> State:
    zi, zf, zg, zo = np.split(x + h, 4, -1)
    before = state[1]
    c = sigmoid(zf + peep_f * before) * before + sigmoid(zi + peep_i * before) * np.tanh(zg)
    return sigmoid(zo + peep_o * c) * np.tanh(c), c


def leaky(x: Array, h: Array, state: State, slopes: Array, leak: float = 0.25) -> State:
    first, second = np.split(slopes, 2)
    mean = (1 - leak) * state[1] + leak * state[0]
    return np.tanh(first * x + second * h) + mean / 2, mean


def layer_norm_lstm(
    x: Array, h: Array, state: State, gain_x: Array, gain_h: Array, gain_c: Array
) -> State:
    zi, zf, zg, zo = np.split(_norm(x, gain_x) + _norm(h, gain_h), 4, -1)
    c = sigmoid(zf) * state[1] + sigmoid(zi) * np.tanh(zg)
    return sigmoid(zo) * np.tanh(_norm(c, gain_c)), c


# --- layers ---------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Output (T, B, H), last states (layers, B, H) of each part, and all of them (layers, T, B, H)."""

    output: Array
    last: list[Array]
    states: list[Array]


def loop(
    step: Step,
    at: Mapping[str, Array],
    parts: Sequence[str] = ("h",),
    weights: Iterable[str] = (),
    lengths: Array | None = None,
    options: Mapping[str, Any] | None = None,
    directions: Sequence[str] = ("",),
    kicks: Mapping[str, Array] | None = None,
) -> Run:
    """Run a step over ``at["x"]`` from ``at["h_0"]`` and the like, layer by layer.

    Parameters
    ----------
    at : mapping
        The input, the initial states and the weights by their names.
    weights : iterable of str
        Names of a step's further weights.
    directions : sequence of str
        How the names of each direction's weights end.
    kicks : mapping, optional
        ``kicks["h"]`` (layers, T, B, H) is added to the state h: the derivative by it is ∂L/∂h_t.

    Notes
    -----
    Past its end a sequence's state stays, as a constant: its imaginary part is dropped.
    """
    below = at["x"]
    T, B, _ = below.shape
    wholes: list[list[Array]] = []
    lasts: list[list[Array]] = []
    for k in range(len(at[f"{parts[0]}_0"]) // len(directions)):
        outputs = []
        for direction in directions:
            state = tuple(at[f"{part}_0"][len(lasts)] for part in parts)
            here = {name.removesuffix(f"_l{k}{direction}"): values for name, values in at.items()}
            kick = [kicks[p][len(lasts)] for p in parts] if kicks else [np.zeros(T)] * len(parts)
            others = {name: here[name] for name in weights} | dict(options or {})
            xs = turned(below, lengths) if direction else below
            every = _steps(step, here, xs, state, lengths, others, kick)
            ends = np.full(B, T) if lengths is None else lengths, np.arange(B)
            both = zip(state, every, strict=True)
            lasts.append([np.stack([first, *whole])[ends] for first, whole in both])
            wholes.append([turned(x, lengths) for x in every] if direction else every)
            outputs.append(wholes[-1][0])
        below = np.concatenate(outputs, axis=2)
    together = [[np.stack(part) for part in zip(*some, strict=True)] for some in (lasts, wholes)]
    return Run(below, *together)


def turned(x: Array, lengths: Array | None) -> Array:
    """Each sequence from its own end to its start; the padding stays where it is."""
    found = x.copy()
    for i, n in enumerate([len(x)] * x.shape[1] if lengths is None else lengths):
        found[:n, i] = x[:n, i][::-1]
    return found


def _steps(
    step: Step,
    at: Mapping[str, Array],
    xs: Array,
    state: State,
    lengths: Array | None,
    others: Mapping[str, Any],
    kicks: Sequence[Array],
) -> list[Array]:
    """Every state of one direction of a layer, each part (T, B, H)."""
    every = []
    for t, x_t in enumerate(xs):
        x = x_t @ at["weight_ih"].T + at.get("bias_ih", 0.0)
        h = state[0] @ at["weight_hh"].T + at.get("bias_hh", 0.0)
        new = step(x, h, state, **others)
        if lengths is not None:
            going = (t < lengths)[:, None]
            new = tuple(np.where(going, a, b.real) for a, b in zip(new, state, strict=True))
        state = tuple(part + kick[t] for part, kick in zip(new, kicks, strict=True))
        every.append(state)
    return [np.stack(part) for part in zip(*every, strict=True)]


def lstm(
    weights: Mapping[str, Array],
    x: Array,
    h: Array,
    c: Array,
    kick_h: Any = None,
    kick_c: Any = None,
) -> tuple[Array, Array]:
    """h and c (layers, T, B, H): f, i, o = σ(x U + h W + b), C̃ = tanh(…), C = f∘C + i∘C̃, h = tanh(C)∘o.

    One gate at a time, each with matrices of its own. The kicks (layers, T, B, H) are added to a state
    where it is computed, so the derivative by one is ∂L/∂h_t or ∂L/∂c_t.
    """
    found, below, H = [], x, h.shape[2]
    for k in range(len(h)):
        states, h_t, c_t = [], h[k], c[k]
        for t in range(len(x)):
            gates = {}
            for block, gate in enumerate("ifgo"):
                rows = slice(block * H, (block + 1) * H)
                z = below[t] @ weights[f"weight_ih_l{k}"][rows].T
                z = z + h_t @ weights[f"weight_hh_l{k}"][rows].T
                b = weights.get(f"bias_ih_l{k}", np.zeros(4 * H))
                gates[gate] = (np.tanh if gate == "g" else sigmoid)(z + b[rows])
            c_t = gates["f"] * c_t + gates["i"] * gates["g"]
            c_t = c_t if kick_c is None else c_t + kick_c[k, t]
            h_t = np.tanh(c_t) * gates["o"]
            h_t = h_t if kick_h is None else h_t + kick_h[k, t]
            states.append((h_t, c_t))
        found.append([np.stack(part) for part in zip(*states, strict=True)])
        below = found[-1][0]
    return np.stack([h for h, _ in found]), np.stack([c for _, c in found])


def weights_of(module: object) -> dict[str, Array]:
    """The arrays of a module's state dict."""
    state = module.state_dict()  # type: ignore[attr-defined]
    return {name: np.array(value.numpy()) for name, value in state.items()}
