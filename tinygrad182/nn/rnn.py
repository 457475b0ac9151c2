"""The vanilla recurrent layer and its cell: h_t = σ(h_{t−1} W_hᵀ + x_t W_xᵀ + b).

Only the step is here; the rest is in :mod:`.recurrent`. The cells with gates are in :mod:`.lstm` and
:mod:`.gru`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .._numbers import check_whole
from ..tensors.tensor import Tensor
from .init import Rng
from .nonlinearity import Nonlinearity, apply_nonlinearity, check_nonlinearity
from .recurrent import Recurrent, RecurrentCell, RecurrentLayer


class States(NamedTuple):
    """Every state of a vanilla recurrent layer.

    Attributes
    ----------
    h : Tensor ``(layers, T, B, H)``
        Hidden states; index t of the time axis is the state after the input x_t.
    """

    h: Tensor


class _OneBias(Recurrent):
    """Base of the layer and its cell: h is only added to x, for every σ, so one bias is enough."""

    nonlinearity: Nonlinearity

    def _biases(self) -> tuple[str, ...]:
        return ("bias_ih",)


class RNN(_OneBias, RecurrentLayer):
    """Vanilla recurrent layer: h_t = σ(h_{t−1} W_hᵀ + x_t W_xᵀ + b).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        Each further layer reads the hidden states of the layer below.
    nonlinearity : {"tanh", "relu", "identity"}, Primitive or callable
        σ. Your own function maps a Tensor to a Tensor of its shape: ``tg.sin``,
        ``lambda x: x * tg.sigmoid(x)``. If it is made of elementwise operations, the layer runs as one
        operation, as with a name; otherwise it runs step by step, and ``fused`` says so. A
        :class:`Primitive` brings its own derivative. Initial values do not depend on σ.
    bias : bool
    batch_first : bool
        Whether input and output are ``(B, T, ·)`` instead of ``(T, B, ·)``. States always are
        ``(layers, B, H)``.
    dropout : float
        Rate at which outputs of every layer but the last are set to 0 during training, as by
        :class:`Dropout`. The random numbers come from ``rng``, after the initial values.
    bidirectional : bool
        Whether each layer also reads the sequence from its end. Both directions have H units, and the next
        layer reads 2H numbers; :meth:`RecurrentLayer.forward` describes output and states. In
        ``tg.inspect`` the second direction is ``"rnn.l{k}_reverse"``. Its steps are counted in the order
        in which it runs: index t is the state after x_{T−1} … x_{T−1−t}. Reverse them with ``[::-1]`` to
        get the order of the output.
    return_states : bool
        Return a third value with the states of every layer at every step.
    fused : bool
        Run each layer as one operation over the whole sequence. It saves H numbers per step and sequence
        for the backward pass, the states themselves (an LSTM saves 6 H). ``False`` records the operations
        of every step: equal results up to rounding, but slower. Under :func:`detect_anomaly`, layers are
        always unrolled.
    rng : int or numpy.random.Generator, optional
        Draws the initial values, and then the masks of dropout.
    dtype, device
        ``float32`` on the default device.

    Attributes
    ----------
    weight_ih_l{k} : Parameter ``(H, I)``, or ``(H, H)`` above the first layer
        W_x.
    weight_hh_l{k} : Parameter ``(H, H)``
        W_h.
    bias_ih_l{k} : Parameter ``(H,)``
        b. ``state_dict`` also writes ``bias_hh_l{k}`` = 0, and loading adds the two, so that state dicts
        can be exchanged with PyTorch's layer both ways.
    weight_ih_l{k}_reverse, weight_hh_l{k}_reverse, bias_ih_l{k}_reverse : Parameter
        The parameters of the reverse direction. Above a bidirectional layer, ``weight_ih`` is ``(H, 2H)``.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, rng=0)
    >>> output, h_n = rnn(tg.ones((10, 2, 1)))
    >>> output.shape, h_n.shape
    ((10, 2, 4), (1, 2, 4))
    >>> output, h_n = tg.nn.RNN(1, 4, bidirectional=True, rng=0)(tg.ones((10, 2, 1)))
    >>> output.shape, h_n.shape
    ((10, 2, 8), (2, 2, 4))
    >>> def swish(x):
    ...     return x * tg.sigmoid(x)
    >>> tg.nn.RNN(1, 4, nonlinearity=swish, rng=0).extra_repr()
    '1, 4, num_layers=1, nonlinearity=swish'
    """

    gates = 1
    state = ("h",)
    States = States

    @staticmethod
    def step(
        xp: Any, x: Any, h: Any, state: Any, nonlinearity: Nonlinearity = "tanh"
    ) -> tuple[Any, ...]:
        """One step: h' = σ(x + h)."""
        return (apply_nonlinearity(nonlinearity, x + h),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        return_states: bool = False,
        fused: bool = True,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        units = check_whole(self, "hidden_size", hidden_size, 1)
        self.nonlinearity = check_nonlinearity(self, nonlinearity, units, device)
        # fmt: off
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            return_states=return_states, fused=fused, rng=rng, dtype=dtype, device=device,
        )
        # fmt: on

    def forward(
        self, x: Tensor, h_0: Any = None, lengths: Any = None, truncate: int | None = None
    ) -> tuple[Any, ...]:
        """Run over a sequence, see :meth:`RecurrentLayer.forward`; ``h_0`` is the initial state."""
        return super().forward(x, h_0, lengths, truncate)


class RNNCell(_OneBias, RecurrentCell):
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

    scan = RNN.scan

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
        units = check_whole(self, "hidden_size", hidden_size, 1)
        self.nonlinearity = check_nonlinearity(self, nonlinearity, units, device)
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype, device=device)

    def forward(self, x: Tensor, h: Any = None) -> Tensor:
        """Map an input ``(B, I)`` and a state ``(B, H)``, zeros by default, to the next state.

        For a single sequence, leave out the batch axis of both.
        """
        new: Tensor = super().forward(x, h)
        return new
