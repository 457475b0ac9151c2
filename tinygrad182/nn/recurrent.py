"""Recurrent layers: states in, states out, every step marked for the inspector."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from .. import backend
from .._tensor import Tensor
from ..creation import zeros
from ..errors import ArgumentError, ShapeError
from ..functions import matmul, relu, stack, swapaxes, tanh
from ..marks import mark
from ..modes import at_time, scope
from .checks import as_input, check_size
from .init import Rng, generator, new_parameter
from .module import Module, Parameter

Nonlinearity = Literal["tanh", "relu", "identity"]

_NONLINEARITIES = {"tanh": tanh, "relu": relu, "identity": lambda x: x}


class States(NamedTuple):
    """Every state of a recurrent layer.

    Attributes
    ----------
    h : Tensor ``(layers, T, B, H)``
        Hidden states; index 0 of the time axis is the state after the first input.
    """

    h: Tensor


class _Recurrent(Module):
    """Sizes, parameters and their saved form, shared by layers and cells."""

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: str) -> None:
        if nonlinearity not in tuple(_NONLINEARITIES):  # compared, not hashed: it may be anything
            raise ArgumentError(
                f"{type(self).__name__}: nonlinearity {nonlinearity!r}; "
                f"use one of {', '.join(_NONLINEARITIES)}"
            )
        self.input_size = check_size(self, "input_size", input_size, 1)
        self.hidden_size = check_size(self, "hidden_size", hidden_size, 1)
        self.nonlinearity = nonlinearity

    def _make(
        self, suffix: str, inputs: int, bias: bool, rng: Any, dtype: Any, device: str | None
    ) -> None:
        """Draw the parameters of one layer, uniform in ±1/√hidden_size as in PyTorch."""
        bound = 1 / math.sqrt(self.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (self.hidden_size, inputs),
            "weight_hh": (self.hidden_size, self.hidden_size),
        }
        if bias:
            shapes["bias_ih"] = (self.hidden_size,)
        for name, shape in shapes.items():
            setattr(
                self, name + suffix, new_parameter(rng.uniform(-bound, bound, shape), dtype, device)
            )

    def _own_state(self) -> dict[str, Any]:
        """PyTorch keeps two biases per layer, which it only ever adds: ours, and a second one of 0."""
        state: dict[str, Any] = {}
        for name, array in super()._own_state().items():
            state[name] = array
            if name.startswith("bias_ih"):
                state[name.replace("_ih", "_hh")] = backend.namespace(array).zeros_like(array)
        return state

    def _load_own_state(self, state: dict[str, Any]) -> None:
        own = super()._own_state()
        for name in [n for n in state if n.startswith("bias_hh")]:
            second = state.pop(name)
            first = name.replace("_hh", "_ih")
            state[first] = state.get(first, own[first]) + second
        super()._load_own_state(state)

    def _state(self, h: Any, shape: tuple[int, ...], what: str) -> Tensor:
        h = as_input(self, h, what)
        if h.shape != shape:
            raise ShapeError(
                f"{type(self).__name__}: {what} has shape {h.shape}; it must be {shape}"
            )
        return h

    def _step(self, projected: Tensor, h: Tensor, weight: Tensor) -> Tensor:
        return _NONLINEARITIES[self.nonlinearity](projected + h @ weight)


class RNN(_Recurrent):
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
        Accepted for both values; the layer runs unrolled.
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
        return_states: bool = False,
        fused: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, nonlinearity)
        self.num_layers = num_layers = check_size(self, "num_layers", num_layers, 1)
        self.bias = bias
        self.batch_first = batch_first
        self.return_states = return_states
        self.fused = fused
        draw = generator(rng)
        for k in range(num_layers):
            self._make(f"_l{k}", hidden_size if k else input_size, bias, draw, dtype, device)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Any, ...]:
        """Run over a sequence.

        Parameters
        ----------
        x : Tensor ``(T, B, I)``
            ``(B, T, I)`` with ``batch_first``.
        h_0 : Tensor ``(layers, B, H)``, optional
            Initial hidden states; zeros by default.

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
        """
        x = as_input(self, x)
        if x.ndim != 3 or x.shape[2] != self.input_size or 0 in x.shape[:2]:
            layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ShapeError(
                f"RNN: input of shape {x.shape}; it must be {layout} with I = {self.input_size}, "
                "at least one step and one sequence"
            )
        sequence = swapaxes(x, 0, 1) if self.batch_first else x
        batch = sequence.shape[1]
        if h_0 is not None:
            h_0 = self._state(h_0, (self.num_layers, batch, self.hidden_size), "h_0 (layers, B, H)")
        layers: list[list[Tensor]] = []
        for k in range(self.num_layers):
            with scope(f"l{k}"):
                h = h_0[k] if h_0 is not None else self._zero_state(batch)
                layers.append(self._layer(k, sequence, h))
                sequence = stack(layers[-1])
        h_n = stack([states[-1] for states in layers])
        output = swapaxes(sequence, 0, 1) if self.batch_first else sequence
        if not self.return_states:
            return output, h_n
        return output, h_n, States(stack([stack(states) for states in layers]))

    def _layer(self, k: int, x: Tensor, h: Tensor) -> list[Tensor]:
        """The states of one layer, one per step."""
        bias: Parameter | None = getattr(self, f"bias_ih_l{k}", None)
        projected = matmul(x, getattr(self, f"weight_ih_l{k}").T)  # all steps in one product
        if bias is not None:
            projected = projected + bias
        weight = getattr(self, f"weight_hh_l{k}").T
        mark(h, "h", time=-1)
        states = []
        for t in range(x.shape[0]):
            with at_time(t):
                h = mark(self._step(projected[t], h, weight), "h")
            states.append(h)
        return states

    def _zero_state(self, batch: int) -> Tensor:
        w: Parameter = self.weight_hh_l0  # type: ignore[attr-defined]
        return zeros((batch, self.hidden_size), dtype=w.dtype, device=w.device)

    def extra_repr(self) -> str:
        """The layer's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        options += f", nonlinearity={self.nonlinearity!r}"
        options += "" if self.bias else ", bias=False"
        options += ", batch_first=True" if self.batch_first else ""
        return options + (", return_states=True" if self.return_states else "")


class RNNCell(_Recurrent):
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
        super().__init__(input_size, hidden_size, nonlinearity)
        self.bias = bias
        self._make("", input_size, bias, generator(rng), dtype, device)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Map an input ``(B, I)`` and a state ``(B, H)``, zeros by default, to the next state."""
        x = as_input(self, x)
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ShapeError(
                f"RNNCell: input of shape {x.shape}; it must be (B, {self.input_size})"
            )
        weight: Parameter = self.weight_hh  # type: ignore[attr-defined]
        if h is None:
            h = zeros((x.shape[0], self.hidden_size), dtype=weight.dtype, device=weight.device)
        h = self._state(h, (x.shape[0], self.hidden_size), "the state (B, H)")
        projected = x @ self.weight_ih.T  # type: ignore[attr-defined]
        bias: Parameter | None = getattr(self, "bias_ih", None)
        return self._step(projected if bias is None else projected + bias, h, weight.T)

    def extra_repr(self) -> str:
        """The cell's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}, nonlinearity={self.nonlinearity!r}"
        return options + ("" if self.bias else ", bias=False")
