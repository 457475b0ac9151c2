"""Recurrences over whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import tinygrad182 as tg
from tests.support import Array
from tinygrad182.recurrence.scans import Scan
from tinygrad182.tensors import functions

from .row import Row, Shape, real, row

_Form = Callable[..., Any]
"""``form(scan, t, *operands)``: a call of the scan, on Tensors (t: tg) or in PyTorch (t: torch)."""
DEFINITIONS: dict[str, Callable[..., tg.Tensor]] = {}
"""Reference loops of Tensors or PyTorch, by the names of rows."""
WHOLE: dict[str, Callable[..., tg.Tensor]] = {}
"""Reference loops with lengths, by the names of rows; they include the steps past an end."""

LENGTHS = (3, 1)
SHUT = 80.0
"""The number that is subtracted from a gate's sum to shut it."""


def _lengths(rng: np.random.Generator, shape: Shape) -> Array:
    return np.array(LENGTHS)


def _torch_loop(step: Callable[..., Any]) -> Callable[..., Any]:
    """A PyTorch loop of a step, with the operands of a scan."""

    def loop(t: Any, x: Any, *operands: Any, lengths: Any = None) -> Any:
        *state, weight_ih, weight_hh, bias_ih, bias_hh = operands
        courses = []
        for i, of_x in enumerate(x @ weight_ih.T + bias_ih):
            going = None if lengths is None else (lengths > i)[:, None]
            state = step(t, of_x, state[0] @ weight_hh.T + bias_hh, state, going)
            courses.append(state)
        wholes = [t.stack(list(part)) for part in zip(*courses, strict=True)]
        return wholes[0] if len(wholes) == 1 else t.stack(wholes)

    return loop


def _going(t: Any, new: Any, old: Any, going: Any) -> Any:
    return new if going is None else t.where(going, new, old.detach())


def _vanilla(nonlinearity: str) -> Callable[..., Any]:
    def step(t: Any, x: Any, h: Any, state: Any, going: Any) -> list[Any]:
        new = x + h if nonlinearity == "identity" else getattr(t, nonlinearity)(x + h)
        return [_going(t, new, state[0], going)]

    return step


def _long_short(t: Any, x: Any, h: Any, state: Any, going: Any) -> list[Any]:
    """The cell is held before the hidden state is computed from it."""
    z = x + h
    i, f, g, o = z.split(z.shape[-1] // 4, dim=-1)
    c = _going(t, t.sigmoid(f) * state[1] + t.sigmoid(i) * t.tanh(g), state[1], going)
    return [_going(t, t.sigmoid(o) * t.tanh(c), state[0], going), c]


def _gated(t: Any, x: Any, h: Any, state: Any, going: Any) -> list[Any]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (s.split(s.shape[-1] // 3, dim=-1) for s in (x, h))
    z = t.sigmoid(x_z + h_z)
    new = (1 - z) * t.tanh(x_n + t.sigmoid(x_r + h_r) * h_n) + z * state[0]
    return [_going(t, new, state[0], going)]


@dataclass(frozen=True)
class _Scan:
    """A scan with its parameters, and the same in PyTorch."""

    name: str
    case: str
    blocks: int
    parts: int
    loop: Callable[..., Any]
    params: dict[str, Any]

    @property
    def primitive(self) -> Scan:
        return tg.PRIMITIVES[self.name]  # type: ignore[return-value]

    def fused(self, *xs: Any, **more: Any) -> tg.Tensor:
        return tg.apply(self.primitive, *xs, **self.params, **more)

    def unrolled(self, *xs: Any, **more: Any) -> tg.Tensor:
        assert self.primitive.definition is not None
        y: tg.Tensor = self.primitive.definition(functions, *xs, **self.params, **more)
        return y

    @property
    def biases(self) -> int:
        """The number of a layer's biases."""
        return 2 if self.primitive.separate else 1

    def shapes(self, T: int, B: int, I: int, H: int) -> list[Shape]:  # noqa: E741
        """Return the shapes of x, the initial state, W_x, W_h and the biases of a layer."""
        rows = self.blocks * H
        return [(T, B, I), *[(B, H)] * self.parts, (rows, I), (rows, H), *[(rows,)] * self.biases]

    def row(self, kind: str, form: _Form, *shapes: Shape, domain: Any = real) -> Row:
        """Operands, brought into form, of the one operation and of its loop in PyTorch."""
        name = f"{self.case}{kind}"
        made = row(
            self.name,
            name,
            lambda *xs: form(self.fused, tg, *xs),
            lambda t, *xs: form(partial(self.loop, t), t, *xs),
            *shapes,
            domain=domain,
        )
        DEFINITIONS[str(made)] = lambda *xs: form(self.unrolled, tg, *xs)
        return made

    def rows(self) -> Iterator[Row]:
        """On shapes of several kinds; with lengths, without a bias, with operands that are the same."""
        sizes = {
            "": (3, 2, 2, 3),
            "thin": (2, 1, 1, 1),
            "one-step": (1, 2, 2, 2),
            "no-batch": (2, 0, 2, 2),
        }
        for kind, size in sizes.items():
            yield self.row(kind, self._layer, *self.shapes(*size))
        shapes = self.shapes(2, 2, 2, 2)
        weights, bias = shapes[: -self.biases], shapes[-1]
        x, state, *_, weight = weights
        yield self.row("no-bias", lambda scan, t, *xs: scan(*xs, 0, 0), *weights)
        yield self.row(
            "bias-of-the-state", lambda scan, t, *xs: scan(*xs[:-1], 0, xs[-1]), *weights, bias
        )
        yield self.row("two-biases", lambda scan, t, *xs: scan(*xs), *weights, bias, bias)
        yield self.row("tied", self._tied, x, state, weight, bias)
        shapes = self.shapes(3, 2, 1, 2)
        domain = (*[real] * len(shapes), _lengths)
        ragged = self.row("lengths", self._inside, *shapes, (2,), domain=domain)
        WHOLE[str(ragged)] = partial(self._layer, partial(self.fused, shortest=min(LENGTHS)), tg)
        yield ragged

    def _layer(self, scan: Any, t: Any, *xs: Any, **more: Any) -> Any:
        """With the biases that a layer has, and 0 for another."""
        end = 3 + self.parts + self.biases
        return scan(*xs[:end], *[0] * (2 - self.biases), *xs[end:], **more)

    def _tied(self, scan: Any, t: Any, x: Any, state: Any, weight: Any, bias: Any) -> Any:
        return scan(x, *[state] * self.parts, weight, weight, bias, bias)

    def _inside(self, scan: Any, t: Any, *xs: Any) -> Any:
        """The states inside the lengths; those past an end are constants, which have no derivative."""
        *operands, lengths = xs
        inside = t.stack([lengths > i for i in range(max(LENGTHS))])[..., None]
        if t is tg:
            return t.where(inside, self._layer(scan, t, *xs, shortest=min(LENGTHS)), 0.0)
        return t.where(inside, self._layer(scan, t, *operands, lengths=lengths), 0.0)


def _rnn(nonlinearity: str) -> _Scan:
    loop = _torch_loop(_vanilla(nonlinearity))
    return _Scan("rnn_scan", f"{nonlinearity}-", 1, 1, loop, {"nonlinearity": nonlinearity})


LSTM = _Scan("lstm_scan", "", 4, 2, _torch_loop(_long_short), {})
GRU = _Scan("gru_scan", "", 3, 1, _torch_loop(_gated), {})


def _shut() -> Row:
    """All gates but the cell's all but shut: cells, and gradients by them, are 1e-35 and smaller."""

    def cells(scan: Any, t: Any, *xs: Any) -> Any:
        *others, bias = xs
        n = bias.shape[0] // 4
        gates = t.concat([bias[: 2 * n] - SHUT, bias[2 * n : 3 * n], bias[3 * n :] - SHUT])
        return scan(*others, gates, 0)[1]

    return LSTM.row("shut", cells, *LSTM.shapes(2, 1, 1, 2))


def _shut_gates() -> Row:
    """Both gates all but shut, and the bias of each an input of its own: its gradient is 1e-35."""

    def states(scan: Any, t: Any, *xs: Any) -> Any:
        *others, reset, update, new, bias_hh = xs
        return scan(*others, t.concat([reset - SHUT, update - SHUT, new]), bias_hh)

    *others, _, bias_hh = GRU.shapes(2, 1, 1, 2)
    return GRU.row("shut", states, *others, *[(2,)] * 3, bias_hh)


ROWS: list[Row] = [
    *(r for scan in (*map(_rnn, ("tanh", "identity", "relu")), LSTM, GRU) for r in scan.rows()),
    _shut(),
    _shut_gates(),
]
