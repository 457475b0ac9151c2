"""Long short-term memory: a cell state beside the hidden state (Hochreiter and Schmidhuber 1997)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._numbers import real_number
from .._tensor import Tensor
from ..errors import ArgumentError, brief
from ..primitives import PRIMITIVES
from ..recurrence import Scan
from .courses import State
from .init import Rng, generator
from .recurrent import Recurrent, RecurrentCell, RecurrentLayer


class LSTMStates(NamedTuple):
    """Every state of an LSTM.

    Attributes
    ----------
    h, c : Tensor ``(layers, T, B, H)``
        Hidden and cell states; index 0 of the time axis is the state after the first input.
    """

    h: Tensor
    c: Tensor


def lstm_step(xp: Any, x: Any, h: Any, state: Any) -> Any:
    """C' = f ∘ c + i ∘ g, h' = o ∘ tanh(c')"""
    z, c = x + h, state[1]
    n = z.shape[-1] // 4
    i, f = xp.sigmoid(z[..., :n]), xp.sigmoid(z[..., n : 2 * n])
    g, o = xp.tanh(z[..., 2 * n : 3 * n]), xp.sigmoid(z[..., 3 * n :])
    c = f * c + i * g
    return o * xp.tanh(c), c


LSTM_SCAN = PRIMITIVES["lstm_scan"] = Scan.of(
    "lstm_scan", lstm_step, ("i", "f", "g", "o"), ("h", "c")
)


class _LongShortTerm(Recurrent):
    """The gates' blocks stand in PyTorch's order: input, forget, cell, output."""

    scan = LSTM_SCAN
    forget_bias: float

    def _check_forget_bias(self, forget_bias: Any, bias: bool) -> float:
        number = real_number(forget_bias)
        if not math.isfinite(number):
            raise ArgumentError(
                f"{type(self).__name__}: forget_bias {brief(forget_bias)} must be a finite number"
            )
        if number and not bias:
            raise ArgumentError(f"{type(self).__name__}: forget_bias needs bias=True")
        return number

    def _initial(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if name == "bias_ih":
            values[self.hidden_size : 2 * self.hidden_size] += self.forget_bias
        return values


class LSTM(_LongShortTerm, RecurrentLayer):
    """Long short-term memory.

    With i, f, o = σ(x_t W_xᵀ + h_{t−1} W_hᵀ + b), each its own rows, and g the same under tanh::

        c_t = f ∘ c_{t−1} + i ∘ g
        h_t = o ∘ tanh(c_t)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, return_states, fused
        As for :class:`RNN`.
    forget_bias : float
        Added to the forget gate's initial bias: 1 or more lets a new network remember [1]_.
    rng, dtype, device
        As for :class:`RNN`.

    Attributes
    ----------
    weight_ih_l{k} : Parameter ``(4H, I)``, or ``(4H, H)`` above the first layer
        W_x, the gates in PyTorch's order i, f, g, o.
    weight_hh_l{k} : Parameter ``(4H, H)``
        W_h.
    bias_ih_l{k} : Parameter ``(4H,)``
        b; ``state_dict`` also writes ``bias_hh_l{k}`` = 0, and loading adds the pair up.

    References
    ----------
    .. [1] Jozefowicz, Zaremba and Sutskever, "An empirical exploration of recurrent network
       architectures", ICML 2015.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> lstm = tg.nn.LSTM(1, 4, rng=0)
    >>> output, (h_n, c_n) = lstm(tg.ones((10, 2, 1)))
    >>> output.shape, c_n.shape
    ((10, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        *,
        return_states: bool = False,
        fused: bool = True,
        forget_bias: float = 0.0,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.forget_bias = self._check_forget_bias(forget_bias, bias)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, return_states, fused
        )
        self._make_layers(generator(rng), dtype, device)

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        lengths: Any = None,
        truncate: int | None = None,
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        Parameters
        ----------
        x, lengths, truncate
            As for :class:`RNN`.
        state : (h_0, c_0), each a Tensor ``(layers, B, H)``, optional
            Initial states; zeros by default.

        Returns
        -------
        output : Tensor ``(T, B, H)``
            Hidden states of the last layer.
        (h_n, c_n) : Tensor ``(layers, B, H)``
            States after the last step.
        states : LSTMStates
            With ``return_states`` only.

        Raises
        ------
        ShapeError
            An input or state of another shape, or a sequence without steps.
        ArgumentError
            A state that is not a pair, lengths outside 1 … T, or ``truncate`` below 1.
        """
        output, last, states = self._run(x, state, lengths, truncate)
        return (output, last, LSTMStates(*states)) if self.return_states else (output, last)

    def _own_options(self) -> str:
        return f", forget_bias={self.forget_bias:g}" if self.forget_bias else ""


class LSTMCell(_LongShortTerm, RecurrentCell):
    """One step of a :class:`LSTM`.

    Parameters
    ----------
    input_size, hidden_size, bias, forget_bias, rng, dtype, device
        As for :class:`LSTM`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> cell = tg.nn.LSTMCell(1, 4, rng=0)
    >>> h, c = cell(tg.ones((2, 1)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        forget_bias: float = 0.0,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.forget_bias = self._check_forget_bias(forget_bias, bias)
        super().__init__(input_size, hidden_size, bias)
        self._make("", input_size, generator(rng), dtype, device)

    def forward(self, x: Tensor, state: Any = None) -> State:
        """Map an input ``(B, I)`` and a state ``(h, c)``, zeros by default, to the next state.

        Without the batch axis in all: one sequence.
        """
        return self._next(x, state)

    def extra_repr(self) -> str:
        """The cell's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}"
        options += f", forget_bias={self.forget_bias:g}" if self.forget_bias else ""
        return options + ("" if self.bias else ", bias=False")
