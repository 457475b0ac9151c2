"""The vanilla recurrent layer and its cell."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .._tensor import Tensor
from ..errors import ArgumentError
from ..functions import relu, tanh
from ..primitives import PRIMITIVES
from ..recurrence import Scan
from .init import Rng, generator
from .recurrent import Recurrent, RecurrentCell, RecurrentLayer

Nonlinearity = Literal["tanh", "relu", "identity"]

NONLINEARITIES = {"tanh": tanh, "relu": relu, "identity": lambda x: x}


def check_nonlinearity(layer: object, nonlinearity: Any) -> Any:
    """Return the name of a nonlinearity; raise ArgumentError if it is none."""
    if nonlinearity not in tuple(NONLINEARITIES):  # compared, not hashed: it may be anything
        raise ArgumentError(
            f"{type(layer).__name__}: nonlinearity {nonlinearity!r}; "
            f"use one of {', '.join(NONLINEARITIES)}"
        )
    return nonlinearity


class States(NamedTuple):
    """Every state of a vanilla recurrent layer.

    Attributes
    ----------
    h : Tensor ``(layers, T, B, H)``
        Hidden states; index 0 of the time axis is the state after the first input.
    """

    h: Tensor


def rnn_step(xp: Any, x: Any, h: Any, state: Any, nonlinearity: str = "tanh") -> Any:
    """H' = σ(z)"""
    z = x + h
    return (z if nonlinearity == "identity" else getattr(xp, nonlinearity)(z),)


RNN_SCAN = PRIMITIVES["rnn_scan"] = Scan.of("rnn_scan", rnn_step, ("h",), ("h",))


class _Vanilla(Recurrent):
    """h' = σ(x W_xᵀ + h W_hᵀ + b)."""

    scan = RNN_SCAN
    nonlinearity: Nonlinearity

    def _params(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class RNN(_Vanilla, RecurrentLayer):
    """Vanilla recurrent layer: h_t = σ(h_{t−1} W_hᵀ + x_t W_xᵀ + b).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        Each further layer reads the hidden states of the one below.
    nonlinearity : {"tanh", "relu", "identity"}
        σ.
    bias : bool
    batch_first : bool
        Whether input and output are ``(B, T, ·)`` instead of ``(T, B, ·)``; states never are.
    return_states : bool
        Return a third value with the states of every layer at every step.
    fused : bool
        Run each layer as one operation over the whole sequence, which keeps H numbers per step and
        sequence for the backward pass, the states themselves (an LSTM 6 H). ``False`` records every
        step's operations: the same numbers to rounding, more slowly. Under :func:`detect_anomaly` it is
        always unrolled.
    rng : int or numpy.random.Generator, optional
        For the initial values.
    dtype, device
        ``float32`` on the default device.

    Attributes
    ----------
    weight_ih_l{k} : Parameter ``(H, I)``, or ``(H, H)`` above the first layer
        W_x.
    weight_hh_l{k} : Parameter ``(H, H)``
        W_h.
    bias_ih_l{k} : Parameter ``(H,)``
        b. ``state_dict`` also writes ``bias_hh_l{k}`` = 0, and loading adds the pair up, so that
        state dicts are exchanged with PyTorch's layer both ways.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, rng=0)
    >>> output, h_n = rnn(tg.ones((10, 2, 1)))
    >>> output.shape, h_n.shape
    ((10, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        *,
        return_states: bool = False,
        fused: bool = True,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.nonlinearity = check_nonlinearity(self, nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, return_states, fused
        )
        self._make_layers(generator(rng), dtype, device)

    def forward(
        self,
        x: Tensor,
        h_0: Tensor | None = None,
        lengths: Any = None,
        truncate: int | None = None,
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        Parameters
        ----------
        x : Tensor ``(T, B, I)``
            ``(B, T, I)`` with ``batch_first``; ``(T, I)`` is one sequence, and then B is missing from
            every shape below.
        h_0 : Tensor ``(layers, B, H)``, optional
            Initial hidden states; zeros by default.
        lengths : sequence of int ``(B,)``, optional
            How many steps each sequence has. Past its end a sequence's state stays as it is, no
            gradient comes from there, and what stands in ``x`` is not used.
        truncate : int, optional
            Steps in a window of truncated backpropagation: from one window to the one before, the state
            goes on and no gradient comes back.

        Returns
        -------
        output : Tensor ``(T, B, H)``
            Hidden states of the last layer.
        h_n : Tensor ``(layers, B, H)``
            Hidden states after the last step.
        states : States
            With ``return_states`` only.

        Raises
        ------
        ShapeError
            An input or state of another shape, or a sequence without steps.
        ArgumentError
            Lengths outside 1 … T, or ``truncate`` below 1.
        """
        output, (h_n,), states = self._run(x, h_0, lengths, truncate)
        return (output, h_n, States(*states)) if self.return_states else (output, h_n)

    def _own_options(self) -> str:
        return f", nonlinearity={self.nonlinearity!r}"


class RNNCell(_Vanilla, RecurrentCell):
    """One step of a vanilla recurrent layer: h' = σ(h W_hᵀ + x W_xᵀ + b).

    Parameters
    ----------
    input_size, hidden_size, bias, nonlinearity, rng, dtype, device
        As for :class:`RNN`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> cell = tg.nn.RNNCell(1, 4, rng=0)
    >>> h = tg.zeros((2, 4))
    >>> for t, x_t in enumerate(tg.ones((10, 2, 1))):
    ...     h = tg.inspect.mark(cell(x_t, h), "h", time=t)
    >>> h.shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.nonlinearity = check_nonlinearity(self, nonlinearity)
        super().__init__(input_size, hidden_size, bias)
        self._make("", input_size, generator(rng), dtype, device)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Map an input ``(B, I)`` and a state ``(B, H)``, zeros by default, to the next state.

        Without the batch axis in both: one sequence.
        """
        (h,) = self._next(x, h)
        return h

    def extra_repr(self) -> str:
        """The cell's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}, nonlinearity={self.nonlinearity!r}"
        return options + ("" if self.bias else ", bias=False")
