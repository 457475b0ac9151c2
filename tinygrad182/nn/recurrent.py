"""What recurrent layers and their cells share: parameters, state dicts, sequences, the loop over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import backend
from .._tensor import Tensor
from ..creation import as_tensor, zeros
from ..errors import ArgumentError, DTypeError, ShapeError
from ..functions import matmul, stack, swapaxes, where
from ..marks import mark
from ..modes import at_time, scope
from .checks import as_input, check_size
from .init import new_parameter
from .module import Module, Parameter

State = tuple[Tensor, ...]
"""The parts of a state: (h,) or (h, c)."""

Ends = np.ndarray[Any, Any] | None
"""How many steps each sequence has; None: all have as many."""


class Recurrent(Module):
    """Sizes, parameters and their saved form, shared by layers and cells.

    A subclass says how many blocks of H rows its weights have, what the parts of its state are called,
    and how one step maps them.
    """

    blocks: ClassVar[int] = 1
    parts: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        self.input_size = check_size(self, "input_size", input_size, 1)
        self.hidden_size = check_size(self, "hidden_size", hidden_size, 1)
        self.bias = bias

    def step(
        self, projected: Tensor, state: State, weight: Tensor, running: Tensor | None = None
    ) -> State:
        """Map the projected input ``(B, blocks · H)`` and a state to the next state; ``weight`` is W_hᵀ.

        Each part is :func:`held` where a sequence has ended, before another is computed from it.
        """
        raise NotImplementedError

    def _make(self, suffix: str, inputs: int, rng: Any, dtype: Any, device: str | None) -> None:
        """Draw the parameters of one layer, uniform in ±1/√hidden_size as in PyTorch."""
        bound = 1 / math.sqrt(self.hidden_size)
        rows = self.blocks * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes["bias_ih"] = (rows,)
        for name, shape in shapes.items():
            values = self._initial(name, rng.uniform(-bound, bound, shape))
            setattr(self, name + suffix, new_parameter(values, dtype, device))

    def _initial(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The initial values of a parameter, given those drawn."""
        return values

    def _project(self, x: Tensor, suffix: str) -> Tensor:
        """X W_xᵀ + b, for one step or for all at once."""
        projected = matmul(x, getattr(self, f"weight_ih{suffix}").T)
        bias: Parameter | None = getattr(self, f"bias_ih{suffix}", None)
        return projected if bias is None else projected + bias

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        parameter = next(self.parameters())
        return zeros(shape, dtype=parameter.dtype, device=parameter.device)

    def _state(self, given: Any, shape: tuple[int, ...], layout: str, suffix: str = "") -> State:
        """The parts of a state, checked; zeros for one that is not given."""
        if given is None:
            return tuple(self._zeros(shape) for _ in self.parts)
        state = []
        for part, name in zip(self._parts(given, layout, suffix), self.parts, strict=True):
            what = f"{name}{suffix} {layout}"
            h = as_input(self, part, what)
            if h.shape != shape:
                raise ShapeError(
                    f"{type(self).__name__}: {what} has shape {h.shape}; it must be {shape}"
                )
            state.append(h)
        return tuple(state)

    def _parts(self, given: Any, layout: str, suffix: str) -> Sequence[Any]:
        """A state as a sequence of as many parts as it has here."""
        names = ", ".join(part + suffix for part in self.parts)
        found = f"a {type(given).__name__}"
        if len(self.parts) == 1:
            if isinstance(given, tuple):
                raise DTypeError(
                    f"{type(self).__name__}: the state is {found}; pass {names} {layout} alone"
                )
            return (given,)
        if not isinstance(given, (tuple, list)) or len(given) != len(self.parts):
            found += f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
            raise ArgumentError(
                f"{type(self).__name__}: the state is {found}; pass ({names}), each {layout}"
            )
        return given

    # --- state dicts ----------------------------------------------------------------------------

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


class RecurrentCell(Recurrent):
    """One step of a recurrent layer."""

    def _next(self, x: Any, given: Any) -> State:
        x = as_input(self, x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: input of shape {x.shape}; it must be "
                f"(B, {self.input_size}) or ({self.input_size},)"
            )
        layout = "(B, H)" if x.ndim == 2 else "(H,)"
        state = self._state(given, (*x.shape[:-1], self.hidden_size), layout)
        weight: Parameter = self.weight_hh  # type: ignore[attr-defined]
        return self.step(self._project(x, ""), state, weight.T)


class RecurrentLayer(Recurrent):
    """Layers above each other, run over a sequence; every step is marked for the inspector."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        return_states: bool,
        fused: bool,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.num_layers = check_size(self, "num_layers", num_layers, 1)
        self.batch_first = batch_first
        self.return_states = return_states
        self.fused = fused

    def _make_layers(self, rng: Any, dtype: Any, device: str | None) -> None:
        for k in range(self.num_layers):
            self._make(f"_l{k}", self.hidden_size if k else self.input_size, rng, dtype, device)

    def _run(self, x: Any, given: Any, lengths: Any) -> tuple[Tensor, State, State]:
        """Run over a sequence.

        Returns
        -------
        output : Tensor
            Hidden states of the last layer, laid out as the input is.
        last : tuple of Tensor ``(layers, B, H)``
            Each part of the state after the last step of each sequence.
        states : tuple of Tensor ``(layers, T, B, H)``
            Each part at every step.
        """
        x, batched = self._sequence(x)
        steps, batch = x.shape[:2]
        shape = (self.num_layers, *([batch] if batched else []), self.hidden_size)
        initial = self._state(given, shape, "(layers, B, H)" if batched else "(layers, H)", "_0")
        if not batched:
            initial = tuple(h[:, None] for h in initial)
        ends: Ends = None
        running: list[Tensor | None] = [None] * steps
        if lengths is not None:
            ends = self._lengths(lengths, steps, batch, batched)
            inside = as_tensor(np.arange(steps)[:, None, None] < ends[:, None]).to(x.device)
            running = [None if t < ends.min() else inside[t] for t in range(steps)]
            x = where(inside, x, 0.0)  # the padding is never used: it may be NaN
        layers: list[list[State]] = []
        for k in range(self.num_layers):
            with scope(f"l{k}"):
                layers.append(self._layer(k, x, tuple(h[k] for h in initial), running))
                x = stack([state[0] for state in layers[-1]])
        last = tuple(
            stack([_at_ends(steps, i, ends) for steps in layers]) for i in range(len(self.parts))
        )
        states = tuple(
            stack([stack([state[i] for state in steps]) for steps in layers])
            for i in range(len(self.parts) if self.return_states else 0)
        )
        if not batched:
            return x[:, 0], tuple(h[:, 0] for h in last), tuple(h[:, :, 0] for h in states)
        return swapaxes(x, 0, 1) if self.batch_first else x, last, states

    def _layer(self, k: int, x: Tensor, state: State, running: list[Tensor | None]) -> list[State]:
        """The states of one layer, one per step; ``running`` says which sequences go on, None: all."""
        projected = self._project(x, f"_l{k}")  # all steps in one product
        weight = getattr(self, f"weight_hh_l{k}").T
        self._mark(state, time=-1)
        states = []
        for t, going in enumerate(running):
            with at_time(t):
                state = self.step(projected[t], state, weight, going)
                self._mark(state)
            states.append(state)
        return states

    def _mark(self, state: State, time: int | None = None) -> None:
        for name, part in zip(self.parts, state, strict=True):
            mark(part, name, time)

    def _sequence(self, x: Any) -> tuple[Tensor, bool]:
        """The input as ``(T, B, I)``, and whether it had a batch axis."""
        x = as_input(self, x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape[:-1]:
            layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ShapeError(
                f"{type(self).__name__}: input of shape {x.shape}; it must be {layout} or (T, I) with "
                f"I = {self.input_size}, at least one step and one sequence"
            )
        if x.ndim == 2:
            return x[:, None], False
        return swapaxes(x, 0, 1) if self.batch_first else x, True

    def _lengths(self, lengths: Any, steps: int, batch: int, batched: bool) -> np.ndarray[Any, Any]:
        """The lengths of the sequences, on the host."""
        name = type(self).__name__
        if not batched:
            raise ArgumentError(
                f"{name}: lengths are for a batch; cut a single sequence short: x[:length]"
            )
        try:
            ends = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else lengths)
        except (TypeError, ValueError) as error:  # ragged, or an array on another device
            raise DTypeError(f"{name}: lengths cannot be read: {error}") from error
        if ends.shape != (batch,):
            raise ShapeError(
                f"{name}: lengths of shape {ends.shape}; one is needed for each of {batch} sequences"
            )
        if ends.dtype.kind not in "iu":
            raise DTypeError(
                f"{name}: lengths of dtype {ends.dtype}; pass whole numbers, dtype='int64'"
            )
        if ends.min() < 1 or ends.max() > steps:
            raise ArgumentError(
                f"{name}: lengths from {ends.min()} to {ends.max()}; they must be from 1 to T = {steps}"
            )
        return ends

    def extra_repr(self) -> str:
        """The layer's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        options += self._own_options()
        options += "" if self.bias else ", bias=False"
        options += ", batch_first=True" if self.batch_first else ""
        return options + (", return_states=True" if self.return_states else "")

    def _own_options(self) -> str:
        return ""


def held(new: Tensor, old: Tensor, running: Tensor | None) -> Tensor:
    """Past a sequence's end the old state stays, as a constant: no gradient comes from there."""
    return new if running is None else where(running, new, old.detach())


def _at_ends(states: list[State], part: int, ends: Ends) -> Tensor:
    """One part of the state after each sequence's last step, ``(B, H)``."""
    if ends is None:
        return states[-1][part]
    return stack([state[part] for state in states])[ends - 1, np.arange(len(ends))]
