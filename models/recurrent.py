"""RecurrentRegressor: an RNN or LSTM with a linear prediction from the hidden state of every step."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg

CELLS = ("rnn", "lstm")


class RecurrentRegressor(tg.nn.Module):
    """A recurrent layer with a linear head: ``ŷ_t = h_t W_fᵀ + b_f``.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Features of an input, of a state and of a prediction: I, H and O.
    cell : {"rnn", "lstm"} or subclass of RecurrentLayer
        The recurrent layer.
    nonlinearity : str, Primitive or callable
        σ of the vanilla RNN, as ``tg.nn.RNN`` takes it; the nonlinearities of other cells are fixed.
    forget_bias : float
        Added to the initial bias of an LSTM's forget gates.
    num_layers : int
        Recurrent layers above each other; the head reads the last one.
    rng : int or numpy.random.Generator, optional
        Draws the initial values.
    dtype, device : optional
        Dtype and device of the parameters.

    Attributes
    ----------
    rnn, head : Module
        The recurrent layer and the linear one: ``rnn.weight_hh_l0``, ``head.weight`` …

    Raises
    ------
    UnknownCellError
        There is no such cell, or it does not have an option.

    Examples
    --------
    >>> model = RecurrentRegressor(1, 8, rng=0)
    >>> predictions, state = model(tg.zeros((5, 2, 1)))
    >>> predictions.shape
    (5, 2, 1)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int = 1,
        *,
        cell: str | type[tg.nn.RecurrentLayer] = "rnn",
        nonlinearity: Any = "tanh",
        forget_bias: float = 0.0,
        num_layers: int = 1,
        rng: int | np.random.Generator | None = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(cell, str) and cell not in CELLS:
            raise UnknownCellError(f"cell {cell!r} is not one of: {', '.join(CELLS)}")
        if cell != "rnn" and nonlinearity != "tanh":
            raise UnknownCellError(f"nonlinearity={nonlinearity!r} needs cell='rnn', not {cell!r}")
        if cell != "lstm" and forget_bias:
            raise UnknownCellError(f"forget_bias needs cell='lstm', not {cell!r}")
        rng = np.random.default_rng(rng)
        options: dict[str, Any] = {"rng": rng, "dtype": dtype, "device": device}
        sizes = input_size, hidden_size, num_layers
        self.rnn: tg.nn.RecurrentLayer
        if cell == "lstm":
            self.rnn = tg.nn.LSTM(*sizes, forget_bias=forget_bias, **options)
        elif cell == "rnn":
            self.rnn = tg.nn.RNN(*sizes, nonlinearity=nonlinearity, **options)
        else:
            assert not isinstance(cell, str)
            self.rnn = cell(*sizes, **options)
        self.head = tg.nn.Linear(hidden_size, output_size, **options)
        self.num_layers = num_layers

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[tg.Tensor, Any]:
        """Predict at every time step.

        Parameters
        ----------
        x : (T, B, I)
            The sequences.
        state : (layers, B, H), or a pair of these for an LSTM, optional
            Initial states; zeros by default.
        lengths : sequence of int (B,), optional
            The number of steps of each sequence.

        Returns
        -------
        predictions : Tensor (T, B, O)
        state : Tensor (layers, B, H), or a pair of these for an LSTM
            The last state of each layer.
        """
        states, last = self.rnn(x, state, lengths)
        return self.head(states), last


class UnknownCellError(tg.TinygradError, ValueError):
    """There is no such cell, or the cell does not have an option."""
