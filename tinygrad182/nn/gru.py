"""Gated recurrent unit: two gates and no cell state (Cho et al. 2014).

Only the step is here; the rest is in :mod:`.recurrent`. Declare your own cell as this one is declared.
"""

from __future__ import annotations

from typing import Any

from .recurrent import RecurrentCell, RecurrentLayer


class GRU(RecurrentLayer):
    """Gated recurrent unit with the reset gate after the product with W_h, as in PyTorch and cuDNN.

    The gates r, z and the candidate n each have their own rows of W_x, W_h, b_x and b_h::

        r, z = σ(x_t W_xᵀ + b_x + h_{t−1} W_hᵀ + b_h)
        n_t = tanh(x_t W_xᵀ + b_x + r ∘ (h_{t−1} W_hᵀ + b_h))
        h_t = n_t + z ∘ (h_{t−1} − n_t)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_states, fused
        As for :class:`RNN`.
    rng, dtype, device
        As for :class:`RNN`.

    Attributes
    ----------
    weight_ih_l{k} : Parameter ``(3H, I)``, or ``(3H, H)`` above the first layer
        W_x, the gates in PyTorch's order r, z, n.
    weight_hh_l{k} : Parameter ``(3H, H)``
        W_h.
    bias_ih_l{k}, bias_hh_l{k} : Parameter ``(3H,)``
        b_x and b_h. They are two, because the reset gate multiplies only the second.
    weight_ih_l{k}_reverse, … : Parameter
        The parameters of the reverse direction, as in :class:`RNN`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> gru = tg.nn.GRU(1, 4, rng=0)
    >>> output, h_n = gru(tg.ones((10, 2, 1)))
    >>> output.shape, h_n.shape
    ((10, 2, 4), (1, 2, 4))
    """

    gates = ("r", "z", "n")
    state = ("h",)

    @staticmethod
    def step(xp: Any, x: Any, h: Any, state: Any) -> tuple[Any, ...]:
        """One step: h' = n + z ∘ (h − n)."""
        k = x.shape[-1] // 3
        r = xp.sigmoid(x[..., :k] + h[..., :k])
        z = xp.sigmoid(x[..., k : 2 * k] + h[..., k : 2 * k])
        n = xp.tanh(x[..., 2 * k :] + r * h[..., 2 * k :])
        return (n + z * (state[0] - n),)


class GRUCell(RecurrentCell):
    """One step of a :class:`GRU`.

    Parameters
    ----------
    input_size, hidden_size, bias, rng, dtype, device
        As for :class:`GRU`.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> cell = tg.nn.GRUCell(1, 4, rng=0)
    >>> cell(tg.ones((2, 1))).shape
    (2, 4)
    """

    scan = GRU.scan
