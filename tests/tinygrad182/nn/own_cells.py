"""Layers as a user would declare them, each with the name of its step in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad182 as tg
from tests.oracles import recurrent
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
    """LSTM whose sums are normalized over their units (Ba et al. 2016), so units depend on each other."""

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
    """A nonlinearity of your own."""
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


class Own(NamedTuple):
    """A class of layers, its step in NumPy, and whether it has loops of its own."""

    layer: type[Any]
    step: Callable[..., tuple[Array, ...]]
    fused: bool = True

    def __str__(self) -> str:
        return self.layer.__name__


GRU = Own(tg.nn.GRU, recurrent.gru)
CELLS = [
    GRU,
    Own(MGU, recurrent.minimal_gated_unit),
    Own(Peephole, recurrent.peephole_lstm),
    Own(Leaky, recurrent.leaky),
    Own(ByFunction, recurrent.swish),
    Own(ByPrimitive, recurrent.swish),
    Own(LayerNormLSTM, recurrent.layer_norm_lstm, fused=False),
]


def loop(
    own: Own,
    at: Mapping[str, Array],
    lengths: Array | None = None,
    options: Mapping[str, Any] | None = None,
    directions: Sequence[str] = ("",),
) -> recurrent.Run:
    """A layer of these cells in NumPy."""
    scan = own.layer.scan
    return recurrent.loop(own.step, at, scan.parts, scan.weights, lengths, options, directions)
