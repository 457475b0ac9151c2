"""Cells as somebody would write them, each beside the same step in NumPy, which reads nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad182 as tg
from tests.support import Array


class MGU(tg.nn.RecurrentLayer):
    """Minimal gated unit (Zhou et al. 2016), the gate after the product."""

    gates = ("forget", "new")
    state = ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> Any:
        n = x.shape[-1] // 2
        forget = xp.sigmoid(x[..., :n] + h[..., :n])
        new = xp.tanh(x[..., n:] + forget * h[..., n:])
        return (state[0] + forget * (new - state[0]),)


class Peephole(tg.nn.RecurrentLayer):
    """LSTM whose gates look at the cell state (Gers and Schmidhuber 2000)."""

    gates = ("i", "f", "g", "o")
    state = ("h", "c")
    weights = ("peep_i", "peep_f", "peep_o")

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any, peep_i: Any, peep_f: Any, peep_o: Any) -> Any:
        z, c, n = x + h, state[1], x.shape[-1] // 4
        i = xp.sigmoid(z[..., :n] + peep_i * c)
        f = xp.sigmoid(z[..., n : 2 * n] + peep_f * c)
        c = f * c + i * xp.tanh(z[..., 2 * n : 3 * n])
        o = xp.sigmoid(z[..., 3 * n :] + peep_o * c)
        return o * xp.tanh(c), c


class Leaky(tg.nn.RecurrentLayer):
    """Two leaks: one of the layer, as an option, and one of each unit, as a weight of two blocks."""

    gates = 1
    state = ("h", "mean")
    weights = {"slopes": 2}  # noqa: RUF012

    def __init__(self, *sizes: Any, leak: float = 0.25, **options: Any) -> None:
        self.leak = leak
        super().__init__(*sizes, **options)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any, slopes: Any, leak: float) -> Any:
        n = x.shape[-1]
        new = xp.tanh(slopes[:n] * x + slopes[n:] * h)
        mean = state[1] + leak * (state[0] - state[1])
        return new + 0.5 * mean, mean


def _normed(xp: Any, z: Any, gain: Any) -> Any:
    """Over the units of one gate."""
    z = z - xp.mean(z, axis=-1, keepdims=True)
    return gain * z / xp.sqrt(xp.mean(z * z, axis=-1, keepdims=True) + 1e-3)


class LayerNormLSTM(tg.nn.RecurrentLayer):
    """LSTM whose sums are normalized over their units (Ba et al. 2016): no unit stands by itself."""

    gates = ("i", "f", "g", "o")
    state = ("h", "c")
    weights = {"gain_x": 4, "gain_h": 4, "gain_c": 1}  # noqa: RUF012

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any, gain_x: Any, gain_h: Any, gain_c: Any) -> Any:
        n = x.shape[-1] // 4
        z = _normed(xp, x, gain_x) + _normed(xp, h, gain_h)
        i, f = xp.sigmoid(z[..., :n]), xp.sigmoid(z[..., n : 2 * n])
        g, o = xp.tanh(z[..., 2 * n : 3 * n]), xp.sigmoid(z[..., 3 * n :])
        c = f * state[1] + i * g
        return o * xp.tanh(_normed(xp, c, gain_c)), c

    def initial_values(self, name: str, values: Array) -> Array:
        return np.ones_like(values) if name.startswith("gain") else values


def swish(x: Any) -> Any:
    """A function of a person's own."""
    return x * tg.sigmoid(x)


SWISH = tg.Primitive(
    "swish",
    forward=lambda xp, x: x / (1 + xp.exp(-x)),
    vjp=(lambda xp, g, y, x: g * (y + (1 - y) / (1 + xp.exp(-x))),),
    jvp="elementwise",
)


class ByFunction(tg.nn.RNN):
    """A vanilla layer whose nonlinearity is a function."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, nonlinearity=swish, **options)


class ByPrimitive(tg.nn.RNN):
    """A vanilla layer whose nonlinearity is a primitive with a rule of its own."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, nonlinearity=SWISH, **options)


# --- the same in NumPy, real or complex -----------------------------------------------------------


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _gru(x: Array, h: Array, state: tuple[Array, ...], **_: Any) -> tuple[Array, ...]:
    (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
    z = _sigmoid(xz + hz)
    return ((1 - z) * np.tanh(xn + _sigmoid(xr + hr) * hn) + z * state[0],)


def _mgu(x: Array, h: Array, state: tuple[Array, ...], **_: Any) -> tuple[Array, ...]:
    (xf, xn), (hf, hn) = np.split(x, 2, -1), np.split(h, 2, -1)
    f = _sigmoid(xf + hf)
    return ((1 - f) * state[0] + f * np.tanh(xn + f * hn),)


def _peephole(
    x: Array, h: Array, state: tuple[Array, ...], peep_i: Array, peep_f: Array, peep_o: Array
) -> tuple[Array, ...]:
    zi, zf, zg, zo = np.split(x + h, 4, -1)
    before = state[1]
    c = _sigmoid(zf + peep_f * before) * before + _sigmoid(zi + peep_i * before) * np.tanh(zg)
    return _sigmoid(zo + peep_o * c) * np.tanh(c), c


def _leaky(
    x: Array, h: Array, state: tuple[Array, ...], slopes: Array, leak: float = 0.25
) -> tuple[Array, ...]:
    first, second = np.split(slopes, 2)
    mean = (1 - leak) * state[1] + leak * state[0]
    return np.tanh(first * x + second * h) + mean / 2, mean


def _swish(x: Array, h: Array, state: tuple[Array, ...], **_: Any) -> tuple[Array, ...]:
    return ((x + h) * _sigmoid(x + h),)


def _norm(z: Array, gain: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


def _layer_norm(
    x: Array, h: Array, state: tuple[Array, ...], gain_x: Array, gain_h: Array, gain_c: Array
) -> tuple[Array, ...]:
    zi, zf, zg, zo = np.split(_norm(x, gain_x) + _norm(h, gain_h), 4, -1)
    c = _sigmoid(zf) * state[1] + _sigmoid(zi) * np.tanh(zg)
    return _sigmoid(zo) * np.tanh(_norm(c, gain_c)), c


class Own(NamedTuple):
    """A class of layers, its step in NumPy, and whether it has loops of its own."""

    layer: type[Any]
    step: Callable[..., tuple[Array, ...]]
    fused: bool = True

    def __str__(self) -> str:
        return self.layer.__name__


GRU = Own(tg.nn.GRU, _gru)
CELLS = [
    GRU,
    Own(MGU, _mgu),
    Own(Peephole, _peephole),
    Own(Leaky, _leaky),
    Own(ByFunction, _swish),
    Own(ByPrimitive, _swish),
    Own(LayerNormLSTM, _layer_norm, fused=False),
]


class Run(NamedTuple):
    """Output (T, B, H), last states (layers, B, H) of each part, and all of them (layers, T, B, H)."""

    output: Array
    last: list[Array]
    states: list[Array]


def loop(
    own: Own,
    at: Mapping[str, Array],
    layers: int,
    lengths: Array | None = None,
    options: Mapping[str, Any] | None = None,
    directions: Sequence[str] = ("",),
) -> Run:
    """Run a step over ``at["x"]`` from ``at["h_0"]`` and the like, with the weights by their names.

    Past its end a sequence's state is held, as a constant: its imaginary part is dropped.
    """
    scan, below = own.layer.scan, at["x"]
    wholes, lasts = [], []
    for k in range(layers):
        outputs = []
        for direction in directions:
            turn = turned if direction else lambda x, _: x
            state = tuple(at[f"{part}_0"][len(lasts)] for part in scan.parts)
            here = {n.removesuffix(f"_l{k}{direction}"): values for n, values in at.items()}
            every = _steps(own, here, turn(below, lengths), state, lengths, options or {})
            ends = np.full(below.shape[1], len(below)) if lengths is None else lengths
            at_ends = ends, np.arange(len(ends))
            both = zip(state, every, strict=True)
            lasts.append([np.stack([first, *whole])[at_ends] for first, whole in both])
            wholes.append([turn(whole, lengths) for whole in every])
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
    own: Own,
    at: Mapping[str, Array],
    xs: Array,
    state: tuple[Array, ...],
    lengths: Array | None,
    options: Mapping[str, Any],
) -> list[Array]:
    """Every state of one direction of a layer, each part (T, B, H)."""
    others = {name: at[name] for name in own.layer.scan.weights}
    every = []
    for t, x_t in enumerate(xs):
        x = x_t @ at["weight_ih"].T + at.get("bias_ih", 0.0)
        h = state[0] @ at["weight_hh"].T + at.get("bias_hh", 0.0)
        new = own.step(x, h, state, **others, **options)
        if lengths is not None:
            going = (t < lengths)[:, None]
            new = tuple(np.where(going, a, b.real) for a, b in zip(new, state, strict=True))
        state = new
        every.append(state)
    return [np.stack(part) for part in zip(*every, strict=True)]
