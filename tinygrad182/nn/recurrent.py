"""What recurrent layers and their cells share: parameters, state dicts, sequences, the loop over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import backend, functions
from .._tensor import Tensor
from ..creation import beside, sizes_of
from ..errors import ArgumentError, DTypeError, ShapeError
from ..functions import matmul, stack, swapaxes, where
from ..host import on_host, whole
from ..marks import mark
from ..modes import MODES, modes_kept, scope
from ..recording import apply, wrap
from ..recurrence import Scan
from ..unrolling import run_steps
from .checks import as_input, check_size
from .courses import Course, Fused, Joined, Lengths, State, Unrolled, at_ends
from .init import new_parameter
from .module import Module


class Recurrent(Module):
    """Sizes, parameters and their saved form, shared by layers and cells.

    A subclass names its primitive, which has the step, the parts of the state and how many blocks of H
    rows the weights have.
    """

    scan: ClassVar[Scan]

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        self.input_size = check_size(self, "input_size", input_size, 1)
        self.hidden_size = check_size(self, "hidden_size", hidden_size, 1)
        self.bias = bias

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the state's parts."""
        return self.scan.parts

    def _params(self) -> dict[str, Any]:
        """What the primitive is told beside its operands."""
        return {}

    def _weights(self, suffix: str) -> Any:
        """W_x, W_h and b (0 where there is none) of a layer."""
        names = (f"{name}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return tuple(vars(self).get(name, 0) for name in names)

    def _make(self, suffix: str, inputs: int, rng: Any, dtype: Any, device: str | None) -> None:
        """Draw the parameters of one layer, uniform in ±1/√hidden_size as in PyTorch."""
        bound = 1 / math.sqrt(self.hidden_size)
        rows = len(self.scan.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes["bias_ih"] = (rows,)
        for name, shape in shapes.items():
            sizes_of(shape, type(self).__name__)
            values = self._initial(name, rng.uniform(-bound, bound, shape))
            setattr(self, name + suffix, new_parameter(values, dtype, device))

    def _initial(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The initial values of a parameter, given those drawn."""
        return values

    def _zeros(self, shape: tuple[int, ...], suffix: str) -> State:
        """The parts of a state where none is given, as the parameters are."""
        weight = getattr(self, f"weight_hh{suffix}")._data
        xp = backend.namespace(weight)
        with xp.on(weight):
            return tuple([wrap(xp.zeros(shape, dtype=weight.dtype)) for _ in self.parts])

    def _state(self, given: Any, shape: tuple[int, ...], layout: str, suffix: str = "") -> State:
        """The parts of a state, checked."""
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
                with backend.on(array):
                    second = backend.namespace(array).zeros_like(array)
                state[name.replace("_ih", "_hh")] = second
        return state

    def _load_own_state(self, state: dict[str, Any]) -> None:
        own = super()._own_state()
        for name in [n for n in state if n.startswith("bias_hh")]:
            second = state.pop(name)
            first = name.replace("_hh", "_ih")
            with backend.on(second):
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
        shape = (*x.shape[:-1], self.hidden_size)
        state = self._zeros(shape, "") if given is None else self._state(given, shape, layout)
        weight_ih, weight_hh, bias, _ = self._weights("")
        z = matmul(x, weight_ih.T)
        z = z + bias if self.bias else z
        new: State = self.scan.step(
            functions, z, matmul(state[0], weight_hh.T), state, **self._params()
        )
        return new


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

    @modes_kept
    def _run(self, x: Any, given: Any, lengths: Any, truncate: Any) -> tuple[Tensor, State, State]:
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
        window = steps if truncate is None else check_size(self, "truncate", truncate, 1)
        initial = None if given is None else self._initial_state(given, batch if batched else None)
        ends = None if lengths is None else self._lengths(lengths, steps, batch, batched)
        if ends is not None:
            inside = beside(np.arange(steps)[:, None, None] < ends[:, None], x)
            x = where(inside, x, 0.0)  # the padding is never used: it may be NaN
        layers = []
        for k in range(self.num_layers):
            with scope(f"l{k}"):
                if initial is None:
                    state = self._zeros((batch, self.hidden_size), f"_l{k}")
                else:
                    state = tuple(h[k] for h in initial)
                layers.append(self._layer(k, x, state, ends, window))
                x = layers[-1].whole(0)
        last = tuple([at_ends(layers, i, ends) for i in range(len(self.parts))])
        states: State = ()
        if self.return_states:
            parts = range(len(self.parts))
            states = tuple([stack([course.whole(i) for course in layers]) for i in parts])
        if not batched:
            return x[:, 0], tuple(h[:, 0] for h in last), tuple(h[:, :, 0] for h in states)
        return swapaxes(x, 0, 1) if self.batch_first else x, last, states

    def _initial_state(self, given: Any, batch: int | None) -> State:
        """A state that is given, (layers, B, H) each; ``batch``: None for one sequence without the axis."""
        if batch is not None:
            return self._state(
                given, (self.num_layers, batch, self.hidden_size), "(layers, B, H)", "_0"
            )
        one = self._state(given, (self.num_layers, self.hidden_size), "(layers, H)", "_0")
        return tuple(h[:, None] for h in one)

    def _layer(self, k: int, x: Tensor, state: State, ends: Lengths, window: int) -> Course:
        """Run one layer, in windows between which no gradient flows."""
        self._mark(state, time=-1)
        courses: list[Course] = []
        for start in range(0, x.shape[0], window):
            if start:
                state = tuple(part.detach() for part in courses[-1].last_step())
            some = x if window >= x.shape[0] else x[start : start + window]
            operands = [some, *state, *self._weights(f"_l{k}")]
            params = self._params()
            if ends is not None:
                left = np.maximum(ends - start, 0)
                operands.append(beside(left, x))
                params["shortest"] = int(left.min())
            courses.append(self._course(operands, params, start))
        return courses[0] if len(courses) == 1 else Joined(courses)

    def _course(self, operands: list[Any], params: dict[str, Any], start: int) -> Course:
        """Run some steps: as one operation, or step by step where each is to be seen or named."""
        if start:
            params["start"] = start
        if self.fused and not MODES.get().anomaly:
            return Fused(apply(self.scan, *operands, **params), len(self.parts))
        return Unrolled(run_steps(self.scan, operands, params))

    def _mark(self, state: State, time: int) -> None:
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
        """The lengths of the sequences, of int64, on the host."""
        name = type(self).__name__
        if not batched:
            raise ArgumentError(
                f"{name}: lengths are for a batch; cut a single sequence short: x[:length]"
            )
        try:
            ends = on_host(lengths)
        except (TypeError, ValueError) as error:  # ragged
            raise DTypeError(f"{name}: lengths cannot be read: {error}") from error
        if ends.shape != (batch,):
            raise ShapeError(
                f"{name}: lengths of shape {ends.shape}; one is needed for each of {batch} sequences"
            )
        if ends.dtype.kind not in "iu":
            raise DTypeError(
                f"{name}: lengths of dtype {ends.dtype}; pass whole numbers, dtype='int64'"
            )
        ends = whole(ends)
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
