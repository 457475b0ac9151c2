"""Recurrent regression (S2): a linear prediction from the hidden state of every time step."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

import tinygrad182 as tg

# Layers that take (input_size, hidden_size, num_layers=, nonlinearity=, rng=, dtype=, device=) and
# return (output, state).
CELLS = {"rnn": tg.nn.RNN}


class RecurrentRegressor(tg.nn.Module):
    """A recurrent layer with a linear head: ``ŷ_t = h_t W_fᵀ + b_f``.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Features of an input, of a state and of a prediction: I, H and O.
    cell : str
        The recurrent layer: ``"rnn"``.
    nonlinearity : {"tanh", "relu", "identity"}
        σ of the vanilla RNN.
    num_layers : int
        Recurrent layers above each other; the head reads the last one.
    rng : int or numpy.random.Generator, optional
        Where the initial values come from.
    dtype, device : optional
        Of the parameters.

    Attributes
    ----------
    rnn, head : Module
        The two parts, so the parameters are ``rnn.weight_hh_l0`` and ``head.weight``.

    Raises
    ------
    ValueError
        If there is no such cell.

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
        cell: str = "rnn",
        nonlinearity: Literal["tanh", "relu", "identity"] = "tanh",
        num_layers: int = 1,
        rng: int | np.random.Generator | None = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise UnknownCellError(f"cell {cell!r} is none of: {', '.join(CELLS)}")
        rng = np.random.default_rng(rng)
        self.rnn = CELLS[cell](
            input_size,
            hidden_size,
            num_layers=num_layers,
            nonlinearity=nonlinearity,
            rng=rng,
            dtype=dtype,
            device=device,
        )
        self.head = tg.nn.Linear(hidden_size, output_size, rng=rng, dtype=dtype, device=device)
        self.num_layers = num_layers

    def forward(self, x: Any, h_0: Any = None) -> tuple[tg.Tensor, tg.Tensor]:
        """Predict at every time step.

        Parameters
        ----------
        x : (T, B, I)
            The sequences.
        h_0 : (layers, B, H), optional
            Initial states; zero where none is given.

        Returns
        -------
        predictions : Tensor (T, B, O)
        h_n : Tensor (layers, B, H)
            The last state of each layer.
        """
        states, h_n = self.rnn(x, h_0)
        return self.head(states), h_n


class UnknownCellError(tg.TinygradError, ValueError):
    """A cell name that stands for no recurrent layer."""
