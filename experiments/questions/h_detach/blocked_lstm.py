"""An LSTM by its definition, through whose hidden states a part of the gradient passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

import tinygrad182 as tg
from models import RecurrentRegressor

Factor = float | tg.Tensor
"""Factor on the gradient through a hidden state: one number, or one for each sequence."""


def passing(h: tg.Tensor, factor: Factor) -> tg.Tensor:
    """Return ``h``, to the last bit, with its gradient multiplied by ``factor``.

    Parameters
    ----------
    h : Tensor (B, H)
    factor : float or Tensor (B, 1)
        0 detaches h, 1 changes nothing.

    Examples
    --------
    >>> h = tg.tensor([[2.0]], requires_grad=True)
    >>> (passing(h, 0.25) * 3.0).sum().backward()
    >>> h.grad
    tensor([[0.75]])
    """
    return h.detach() + factor * (h - h.detach())


def predict(
    model: RecurrentRegressor, inputs: NDArray[Any], factors: Sequence[Factor]
) -> tg.Tensor:
    """Run a one-layer LSTM and its head; gates pass ``factors[t]`` of their gradient on to h_{t−1}.

    Parameters
    ----------
    model : RecurrentRegressor
        An LSTM.
    inputs : array (T, B, 1)
    factors : sequence of T numbers, or of T Tensors (B, 1)
        The first is of no effect: h before the first step is zero and constant.

    Returns
    -------
    Tensor (T, B, 1)
        The model's predictions. States are marked ``"c"`` and ``"h"``.
    """
    layer: Any = model.rnn
    from_input, from_state = layer.weight_ih_l0.T, layer.weight_hh_l0.T
    h = c = tg.zeros((inputs.shape[1], layer.hidden_size), dtype="float64")
    states = []
    for t, x in enumerate(tg.tensor(inputs)):
        z = x @ from_input + passing(h, factors[t]) @ from_state + layer.bias_ih_l0
        i, f, g, o = tg.split(z, 4, axis=-1)
        c = tg.inspect.mark(tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g), "c", time=t)
        h = tg.inspect.mark(tg.sigmoid(o) * tg.tanh(c), "h", time=t)
        states.append(h)
    predictions: tg.Tensor = model.head(tg.stack(states))
    return predictions
