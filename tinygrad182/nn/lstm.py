"""Long short-term memory: a cell state beside the hidden state (Hochreiter and Schmidhuber 1997).

Only the step is here; the rest is in :mod:`.recurrent`. :mod:`.gru` has gates without a cell state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._numbers import check_number
from ..errors import ArgumentError
from ..tensors.tensor import Tensor
from .init import Rng
from .recurrent import Recurrent, RecurrentCell, RecurrentLayer


class LSTMStates(NamedTuple):
    """Every state of an LSTM.

    Attributes
    ----------
    h, c : Tensor ``(layers, T, B, H)``
        Hidden and cell states; index t of the time axis is the state after the input x_t.
    """

    h: Tensor
    c: Tensor


class _ForgetBias(Recurrent):
    """Base of the layer and its cell: adds ``forget_bias`` to the initial bias of the forget gate."""

    forget_bias: float

    def _set_forget_bias(self, forget_bias: Any, bias: bool) -> None:
        number = check_number(self, "forget_bias", forget_bias, least=-math.inf)
        if number and not (bias and "f" in self.scan.gates):
            missing = "a gate 'f'" if bias else "bias=True"
            raise ArgumentError(f"{type(self).__name__}: forget_bias needs {missing}")
        self.forget_bias = number

    def initial_values(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the drawn values; in the bias, ``forget_bias`` is added to the forget gate's rows."""
        if name == "bias_ih" and self.forget_bias:
            start = self.scan.gates.index("f") * self.hidden_size
            values[start : start + self.hidden_size] += self.forget_bias
        return values

    def _options_text(self) -> str:
        bias = f", forget_bias={self.forget_bias:g}" if self.forget_bias else ""
        return super()._options_text() + bias


class LSTM(_ForgetBias, RecurrentLayer):
    """Long short-term memory.

    The gates i, f, o and the candidate g each have their own rows of W_x, W_h and b::

        i, f, o = σ(x_t W_xᵀ + h_{t−1} W_hᵀ + b)
        g = tanh(x_t W_xᵀ + h_{t−1} W_hᵀ + b)
        c_t = f ∘ c_{t−1} + i ∘ g
        h_t = o ∘ tanh(c_t)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_states, fused
        As for :class:`RNN`.
    forget_bias : float
        Added to the forget gate's initial bias. With 1 or more, a new network remembers longer [1]_.
    rng, dtype, device
        As for :class:`RNN`.

    Attributes
    ----------
    weight_ih_l{k} : Parameter ``(4H, I)``, or ``(4H, H)`` above the first layer
        W_x, the gates in PyTorch's order i, f, g, o.
    weight_hh_l{k} : Parameter ``(4H, H)``
        W_h.
    bias_ih_l{k} : Parameter ``(4H,)``
        b. ``state_dict`` also writes ``bias_hh_l{k}`` = 0, and loading adds the two, as in :class:`RNN`.
    weight_ih_l{k}_reverse, … : Parameter
        The parameters of the reverse direction, as in :class:`RNN`.

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

    gates = ("i", "f", "g", "o")
    state = ("h", "c")
    States = LSTMStates

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> tuple[Any, ...]:
        """One step: c' = f ∘ c + i ∘ g, h' = o ∘ tanh(c')."""
        z, n = x + h, x.shape[-1] // 4
        i, f = xp.sigmoid(z[..., :n]), xp.sigmoid(z[..., n : 2 * n])
        g, o = xp.tanh(z[..., 2 * n : 3 * n]), xp.sigmoid(z[..., 3 * n :])
        c = f * state[1] + i * g
        return o * xp.tanh(c), c

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        return_states: bool = False,
        fused: bool = True,
        forget_bias: float = 0.0,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self._set_forget_bias(forget_bias, bias)
        # fmt: off
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            return_states=return_states, fused=fused, rng=rng, dtype=dtype, device=device,
        )
        # fmt: on


class LSTMCell(_ForgetBias, RecurrentCell):
    """One step of an :class:`LSTM`.

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

    scan = LSTM.scan

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
        self._set_forget_bias(forget_bias, bias)
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype, device=device)
