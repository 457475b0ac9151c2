"""All that recurrent layers and cells share: parameters, state dicts, sequences, windows of time.

Cells differ only in their step; :mod:`.rnn`, :mod:`.lstm` and :mod:`.gru` declare theirs. Here,
:class:`Recurrent` is their base, :class:`RecurrentCell` runs one step, and :class:`RecurrentLayer` runs a
sequence. Read next :mod:`.declarations` (how a class declares its step) and :mod:`.lengths` (padding).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._numbers import check_number, check_whole
from ..arrays import backend
from ..arrays.namespaces import Array
from ..engine.anomaly import user_place
from ..engine.marks import mark, marked
from ..engine.modes import MODES, in_step_of, modes_kept, scope
from ..engine.recording import apply, record, wrap
from ..errors import ArgumentError, DTypeError, ShapeError, brief, type_of
from ..primitives import PRIMITIVES
from ..recurrence.intervening import intervened
from ..recurrence.scans import Scan
from ..recurrence.unrolling import State, run_steps, with_recorded_state
from ..tensors import functions
from ..tensors.creation import check_shape
from ..tensors.functions import concat, matmul, stack, swapaxes
from ..tensors.tensor import Tensor
from .declarations import (
    DECLARED,
    missing_in,
    options_of,
    scan_of,
    set_options,
    states_type,
    try_step,
)
from .dropout import dropped
from .init import Rng, generator, new_parameter
from .inputs import as_input
from .lengths import PaddedBatch, read_lengths
from .module import Module
from .nonlinearity import name_of


class Recurrent(Module):
    """Base of layers and cells: the step of a cell, its parameters and their saved form.

    Attributes
    ----------
    gates, state, weights, step
        The declaration of a class, see :class:`RecurrentLayer`.
    scan : Scan
        The recurrence made from the declaration. A class may take another's: ``scan = tg.nn.GRU.scan``.
    options : dict
        The step's further arguments and their defaults. Each is an attribute of the layer.
    """

    gates: ClassVar[int | tuple[str, ...]]
    state: ClassVar[tuple[str, ...]]
    step: ClassVar[Callable[..., tuple[Any, ...]]]
    weights: ClassVar[Sequence[str] | Mapping[str, int]] = ()
    scan: ClassVar[Scan]
    options: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        scan = vars(cls).get("scan")
        if scan is None and not vars(cls).keys().isdisjoint(DECLARED):
            scan = scan_of(cls)
        elif scan is not None:
            if not isinstance(scan, Scan):
                raise ArgumentError(
                    f"{cls.__name__}: scan = {brief(scan)} is not a recurrence; take a layer's: "
                    "scan = tg.nn.LSTM.scan"
                )
            cls.gates, cls.state, cls.weights = scan.gates, scan.parts, scan.weights
            cls.step = staticmethod(scan.step)
        if scan is not None:
            cls.scan, cls.options = scan, options_of(scan)

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        if missing := missing_in(type(self)):
            raise ArgumentError(
                f"{type(self).__name__}: the class declares no {missing[0]}; give it gates, state and "
                "a static method step(xp, x, h, state)"
            )
        self.input_size = check_whole(self, "input_size", input_size, 1)
        self.hidden_size = check_whole(self, "hidden_size", hidden_size, 1)
        self.bias = bias
        set_options(self)

    def initial_values(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the initial values of a parameter; a class may override this to choose its own.

        Parameters
        ----------
        name : str
            ``"weight_ih"``, ``"weight_hh"``, ``"bias_ih"``, ``"bias_hh"`` or one of ``weights``.
        values : array
            Drawn uniformly from ±1/√hidden_size. It may be written to.
        """
        return values

    def _make_parameters(
        self, suffix: str, inputs: int, rng: Any, dtype: Any, device: str | None
    ) -> None:
        """Draw the parameters of one layer uniformly from ±1/√hidden_size, as PyTorch does."""
        bound, units = 1 / math.sqrt(self.hidden_size), self.hidden_size
        rows = len(self.scan.gates) * units
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, units),
        }
        if self.bias:
            shapes |= dict.fromkeys(self._biases(), (rows,))
        shapes |= {name: (blocks * units,) for name, blocks in self.scan.weights.items()}
        for name, shape in shapes.items():
            check_shape(shape, type(self).__name__)
            values: Any = self.initial_values(name, rng.uniform(-bound, bound, shape))
            if np.shape(values) != shape:
                found = "None" if values is None else f"shape {np.shape(values)}"
                raise ShapeError(
                    f"{type(self).__name__}: initial_values returns {found} for {name}; "
                    f"return an array of shape {shape}"
                )
            setattr(self, name + suffix, new_parameter(values, dtype, device))

    def _biases(self) -> tuple[str, ...]:
        """The names of the biases: one, or two where the step does more with h than add it to x."""
        program = self.scan.program(**self._params())
        return ("bias_ih",) if program and not program.separate else ("bias_ih", "bias_hh")

    def _weights(self, suffix: str) -> list[Any]:
        """The parameters in the order in which a scan takes them; 0 in place of a missing bias."""
        own = vars(self)
        return [own.get(name, 0) for name in _names_at(self.scan, suffix)]

    def _params(self) -> dict[str, Any]:
        """The options of the step and their values."""
        return {name: getattr(self, name) for name in self.options}

    def _scan_here(self) -> Scan:
        """The recurrence, with the gates that :func:`tinygrad182.inspect.intervene` sets, if any."""
        return intervened(self.scan, self._params()) if MODES.get().interventions else self.scan

    def _zeros(self, shape: tuple[int, ...], weight: Array) -> list[Array]:
        """Parts of a state that are 0, of the weights' dtype and on their device."""
        xp = backend.NAMESPACES[type(weight)]
        with backend.on(weight):
            return [xp.zeros(shape, dtype=weight.dtype) for _ in self.scan.parts]

    def _state(self, given: Any, shape: tuple[int, ...], layout: str, suffix: str = "") -> State:
        """Return the parts of a given state after checks of their number, dtypes and shapes."""
        state = []
        for part, name in zip(self._parts(given, layout, suffix), self.scan.parts, strict=True):
            what = f"{name}{suffix} {layout}"
            h = as_input(self, part, what)
            if h.shape != shape:
                raise ShapeError(
                    f"{type(self).__name__}: {what} has shape {h.shape}; it must be {shape}"
                )
            state.append(h)
        return tuple(state)

    def _parts(self, given: Any, layout: str, suffix: str) -> Sequence[Any]:
        """Return a given state as a sequence, which must have as many parts as the cell's state."""
        parts = self.scan.parts
        names = ", ".join(part + suffix for part in parts)
        found = f"{type(self).__name__}: the state is a {type_of(given)}"
        if len(parts) == 1:
            if isinstance(given, tuple):
                raise DTypeError(f"{found}; pass {names} {layout} alone")
            return (given,)
        if not isinstance(given, (tuple, list)) or len(given) != len(parts):
            raise ArgumentError(f"{found}; pass ({names}), each {layout}")
        return given

    def _options_text(self) -> str:
        """The options of the step for the repr, written as the constructor takes them."""
        return "".join([f", {name}={name_of(value)}" for name, value in self._params().items()])

    # --- state dicts ----------------------------------------------------------------------------

    def _own_state(self) -> dict[str, Any]:
        """Arrays under PyTorch's names: two biases for each layer; where ours has one, the other is 0."""
        own, state = super()._own_state(), {}
        for name, array in own.items():
            state[name] = array
            second = name.replace("bias_ih", "bias_hh")
            if second not in own:
                with backend.on(array):
                    state[second] = backend.namespace(array).zeros_like(array)
        return state

    def _load_own_state(self, state: dict[str, Any]) -> None:
        own = super()._own_state()
        for name in [n for n in state if n.startswith("bias_hh") and n not in own]:
            second = state.pop(name)
            first = name.replace("_hh", "_ih")
            with backend.on(second):
                state[first] = state.get(first, own[first]) + second
        super()._load_own_state(state)


@cache
def _names_at(scan: Scan, suffix: str) -> tuple[str, ...]:
    """The names of a layer's parameters in the order in which a scan takes them."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *scan.weights)
    return tuple([name + suffix for name in names])


class RecurrentCell(Recurrent):
    """One step of a recurrence. Your own class declares it as for :class:`RecurrentLayer`.

    Parameters
    ----------
    input_size, hidden_size, bias, rng, dtype, device
        As for :class:`RNN`.

    Examples
    --------
    A cell made from an existing layer:

    >>> import tinygrad182 as tg
    >>> class Step(tg.nn.RecurrentCell):
    ...     scan = tg.nn.LSTM.scan
    >>> h, c = Step(1, 4, rng=0)(tg.ones((2, 1)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self._make_parameters("", input_size, generator(rng), dtype, device)
        try_step(self, device, self._params())

    def forward(self, x: Tensor, state: Any = None) -> Any:
        """Map an input ``(B, I)`` and a state, zeros by default, to the next state.

        The state is one Tensor ``(B, H)``, or a tuple of them if it has several parts. For a single
        sequence, leave out the batch axis everywhere.
        """
        x = as_input(self, x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: input of shape {x.shape}; it must be "
                f"(B, {self.input_size}) or ({self.input_size},)"
            )
        layout = "(B, H)" if x.ndim == 2 else "(H,)"
        shape = (*x.shape[:-1], self.hidden_size)
        weight_ih, weight_hh, bias_ih, bias_hh, *others = self._weights("")
        if state is None:
            before = tuple([wrap(part) for part in self._zeros(shape, weight_hh._data)])
        else:
            before = self._state(state, shape, layout)
        from_x = matmul(x, weight_ih.T)
        from_h = matmul(before[0], weight_hh.T)
        if self.bias:
            from_x = from_x + bias_ih
            from_h = from_h + bias_hh if isinstance(bias_hh, Tensor) else from_h
        weights = dict(zip(self.scan.weights, others, strict=True))
        scan = self._scan_here()
        given = functions, from_x, from_h, before
        new = in_step_of(scan).run(scan.step, *given, **weights, **self._params())
        return new[0] if len(new) == 1 else tuple(new)

    def extra_repr(self) -> str:
        """Return the cell's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}{self._options_text()}"
        return options + ("" if self.bias else ", bias=False")


class RecurrentLayer(Recurrent):
    """Layers of a cell above each other, run over a sequence: the base of ``RNN``, ``LSTM`` and ``GRU``.

    Your own class declares its step in elementary operations on two sums, x = x_t W_xᵀ + b_x and
    h = h_{t−1} W_hᵀ + b_h. Each sum has one block of H columns for every gate. Everything else is derived:
    several layers, ``lengths``, ``truncate``, state dicts, every view of ``tg.inspect``, and compiled loops
    if the step is elementwise. A step that is not elementwise, for example one with a mean over units, runs
    step by step as with ``fused=False``; then ``why_unrolled`` and the layer's repr say why.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_states, fused
        As for :class:`RNN`.
    rng, dtype, device
        As for :class:`RNN`.

    Attributes
    ----------
    gates : tuple of str, or int
        Names of the blocks of H columns, or their number.
    state : tuple of str
        Names of the state's parts, each ``(B, H)``. The first is the output, and W_h is applied to it.
    step : static method
        ``step(xp, x, h, state, ...)`` returns the next state, a tuple of its parts. ``xp`` has the
        functions of ``tg``, such as ``xp.tanh`` and ``xp.sigmoid``. Further arguments are the weights, by
        their names, and options. An option's value is the layer's attribute of that name; loops are
        compiled for each value. If a step reads an attribute of such a value, it is read only once.
    weights : tuple of str, or dict, optional
        Names of further parameters ``(H,)``, such as the peepholes of an LSTM. A dict says for each name
        how many times H numbers the parameter has. Layer k's are called ``{name}_l{k}``.
    fused : bool
        Whether each layer runs as one operation.
    why_unrolled : str
        The operation of the step that no loop can be made for; empty if loops can be made.
    weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}, {name}_l{k} : Parameter
        As in :class:`GRU`. There is no ``bias_hh_l{k}`` if the step does nothing with h but add it to x.
        In the reverse direction of a bidirectional layer, names end in ``_l{k}_reverse``.

    Examples
    --------
    A minimal gated unit, with two gates:

    >>> import tinygrad182 as tg
    >>> class MGU(tg.nn.RecurrentLayer):
    ...     gates = ("forget", "new")
    ...     state = ("h",)
    ...     @staticmethod
    ...     def step(xp, x, h, state):
    ...         n = x.shape[-1] // 2
    ...         forget = xp.sigmoid(x[..., :n] + h[..., :n])
    ...         new = xp.tanh(x[..., n:] + forget * h[..., n:])
    ...         return (state[0] + forget * (new - state[0]),)
    >>> mgu = MGU(1, 4, num_layers=2, rng=0)
    >>> output, h_n = mgu(tg.ones((10, 2, 1)))
    >>> output.shape, h_n.shape
    ((10, 2, 4), (2, 2, 4))
    >>> flow = tg.inspect.gradient_flow(output[-1].sum())
    >>> flow["mgu.l1"].h.grad_norm.shape
    (10,)
    """

    States: ClassVar[Any] = None

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if hasattr(cls, "scan") and getattr(cls.States, "_fields", None) != cls.scan.parts:
            cls.States = states_type(cls)

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
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.num_layers = check_whole(self, "num_layers", num_layers, 1)
        self.batch_first = batch_first
        self.dropout = self._checked_dropout(dropout)
        self.bidirectional = bool(bidirectional)
        self.return_states = return_states
        self.why_unrolled = self.scan.why_unrolled(**self._params())
        self.fused = fused and not self.why_unrolled
        self._generator = generator(rng)  # draws the initial values, and then the masks of dropout
        below = input_size
        for k in range(self.num_layers):
            for direction in self._directions():
                self._make_parameters(f"_l{k}{direction}", below, self._generator, dtype, device)
            below = hidden_size * len(self._directions())
        try_step(self, device, self._params())

    def _checked_dropout(self, dropout: Any) -> float:
        """Return the rate of dropout between layers; warn if there is only one layer."""
        rate = check_number(self, "dropout", dropout, most=1)
        if rate and self.num_layers == 1:
            message = (
                f"{type(self).__name__}: dropout={rate:g} leaves nothing out with num_layers=1, because "
                "it acts between layers; put tg.nn.Dropout on the output"
            )
            warnings.warn_explicit(message, UserWarning, *user_place())
        return rate

    def _directions(self) -> tuple[str, ...]:
        """The ending of each direction's name."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @modes_kept
    def forward(
        self, x: Tensor, state: Any = None, lengths: Any = None, truncate: int | None = None
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        Parameters
        ----------
        x : Tensor ``(T, B, I)``
            ``(B, T, I)`` with ``batch_first``. ``(T, I)`` is one sequence; then B is missing from every
            shape below.
        state : Tensor ``(layers, B, H)``, or a tuple with one for each part of the state, optional
            Initial states; zeros by default. A bidirectional layer takes and returns
            ``(2·layers, B, H)``: layer 0 forward, layer 0 reverse, layer 1 forward …
        lengths : sequence of int ``(B,)``, optional
            The number of steps of each sequence. After its last step, the state of a sequence stays as it
            is, no gradient comes from there, and ``x`` is not used. A sequence of length 0 ends in its
            initial state, which gets the gradient of the last one. A reverse direction begins at each
            sequence's own end.
        truncate : int, optional
            Steps in a window of truncated backpropagation: the state goes on from one window to the next,
            and no gradient comes back. A reverse direction counts windows from the step where it begins.

        Returns
        -------
        output : Tensor ``(T, B, H)``
            The first part of the last layer's state at every step. A bidirectional layer returns
            ``(T, B, 2H)``: at t, the forward state after x_0 … x_t beside the reverse state after
            x_{T−1} … x_t.
        last : Tensor ``(layers, B, H)``, or a tuple with one for each part of the state
            States after the last step of each sequence.
        states : named tuple of Tensor ``(layers, T, B, H)``
            Only with ``return_states``: each part at every step; index t of the time axis is the state
            after the input x_t.

        Raises
        ------
        ShapeError
            The input or the state has a wrong shape, or a sequence has no steps.
        ArgumentError
            The state has the wrong number of parts, lengths are outside 0 … T, or ``truncate`` is below 1.
        """
        x, batched = self._sequence(x)
        steps, batch = x.shape[:2]
        window = steps if truncate is None else check_whole(self, "truncate", truncate, 1)
        initial = () if state is None else self._initial_state(state, batch if batched else None)
        padded: PaddedBatch | None = None
        if lengths is not None:
            padded = PaddedBatch(read_lengths(self, lengths, x, batched), x, window)
            x = padded.without_padding(x)
        runs: list[_LayerStates] = []
        for k in range(self.num_layers):
            if k and self.dropout and self.training:
                x = dropped(x, self.dropout, self._generator)
            outputs = []
            for direction in self._directions():
                run = self._run_reversed if direction else self._run_layer
                with _scope(f"l{k}{direction}"):
                    before = _index_each(initial, len(runs))
                    runs.append(run(f"_l{k}{direction}", x, before, padded, window))
                outputs.append(runs[-1].every[0])
            x = concat(outputs, axis=2) if self.bidirectional else outputs[0]
        output = swapaxes(x, 0, 1) if self.batch_first and batched else x
        lasts = zip(*[run.last for run in runs], strict=True)
        last = [parts[0] if len(parts) == 1 else concat(parts) for parts in lasts]
        states: list[Tensor] = []
        if self.return_states:
            states = [stack(parts) for parts in zip(*[run.every for run in runs], strict=True)]
        if not batched:
            output = output[:, 0]
            last = [part[:, 0] for part in last]
            states = [part[:, :, 0] for part in states]
        found = output, last[0] if len(last) == 1 else tuple(last)
        return (*found, self.States(*states)) if self.return_states else found

    def _run_reversed(
        self, suffix: str, x: Tensor, state: State, padded: PaddedBatch | None, window: int
    ) -> _LayerStates:
        """Run a layer in the reverse direction: reverse the sequences, run, and reverse the states.

        Without ``return_states``, only the first part of the state comes at every step.
        """
        reverse = partial(_index, key=_REVERSED) if padded is None else padded.reversed
        every, last = self._run_layer(suffix, reverse(x), state, padded, window)
        wanted = every if self.return_states else every[:1]
        return _LayerStates(tuple([reverse(part) for part in wanted]), last)

    def _run_layer(
        self, suffix: str, x: Tensor, state: State, padded: PaddedBatch | None, window: int
    ) -> _LayerStates:
        """Run a layer in windows between which no gradient flows; from zeros if ``state`` is empty."""
        weights, windows = self._weights(suffix), []
        names = self.scan.parts
        parts = state or self._zeros((x.shape[1], self.hidden_size), weights[1]._data)
        marking = mark if state else marked
        state = tuple([marking(part, name, -1) for part, name in zip(parts, names, strict=True)])
        if padded is not None and padded.any_empty:  # their last state is the initial one
            state = tuple(with_recorded_state(self.scan, [x, *state, *weights])[1 : 1 + len(names)])
        initial = state
        every: State = ()
        final: State | None = None
        for start in range(0, x.shape[0], window):
            if start:
                state = tuple([part.detach() for part in final or _index_each(every, -1)])
            some = x if window >= x.shape[0] else x[start : start + window]
            operands, params = [some, *state, *weights], self._params()
            if start:
                params["start"] = start
            if padded is not None:
                left, params["shortest"] = padded.left(start)
                operands.append(left)
            every, final = self._run_window(operands, params)
            windows.append(every)
        if padded is None:
            ends = _index_each(every, _LAST) if final is None else [stack([h]) for h in final]
            last = tuple(ends)
        if len(windows) > 1:
            every = tuple([concat(part) for part in zip(*windows, strict=True)])
        if padded is not None:
            last = padded.last(every, initial)
        return _LayerStates(every, last)

    def _run_window(self, operands: list[Any], params: dict[str, Any]) -> _WindowStates:
        """Run some steps as one operation, or one by one where each step must be recorded by itself."""
        options = self._params()
        recorded = any([isinstance(option, Tensor) for option in options.values()])  # noqa: C419
        if any(map(callable, options.values())):  # a function may read Tensors by now
            recorded = recorded or self.scan.program(**options) is None
        scan = self._scan_here()
        if self.fused and scan is self.scan and not recorded and not MODES.get().anomaly:
            states, parts = apply(scan, *operands, **params), len(scan.parts)
            every = [states] if parts == 1 else [_index(states, i) for i in range(parts)]
            return _WindowStates(tuple(every), None)
        steps = run_steps(scan, operands, params)
        every = [stack(list(part)) for part in zip(*steps, strict=True)]
        return _WindowStates(tuple(every), steps[-1])

    def _initial_state(self, given: Any, batch: int | None) -> State:
        """Return a given state as parts (layers, B, H); ``batch`` is None without a batch axis."""
        layers = "2·layers" if self.bidirectional else "layers"
        count = self.num_layers * len(self._directions())
        if batch is not None:
            shape = count, batch, self.hidden_size
            return self._state(given, shape, f"({layers}, B, H)", "_0")
        one = self._state(given, (count, self.hidden_size), f"({layers}, H)", "_0")
        return tuple(h[:, None] for h in one)

    def _sequence(self, x: Any) -> tuple[Tensor, bool]:
        """Return the input as ``(T, B, I)``, and whether it had a batch axis."""
        x = as_input(self, x)
        shape = x.shape
        if len(shape) not in (2, 3) or shape[-1] != self.input_size or 0 in shape[:-1]:
            layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ShapeError(
                f"{type(self).__name__}: input of shape {shape}; it must be {layout} or (T, I) with "
                f"I = {self.input_size}, with at least one step and one sequence"
            )
        if len(shape) == 2:
            return x[:, None], False
        return swapaxes(x, 0, 1) if self.batch_first else x, True

    def extra_repr(self) -> str:
        """Return the layer's sizes and options."""
        options = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        options += self._options_text()
        options += "" if self.bias else ", bias=False"
        options += ", batch_first=True" if self.batch_first else ""
        options += f", dropout={self.dropout:g}" if self.dropout else ""
        options += ", bidirectional=True" if self.bidirectional else ""
        options += ", return_states=True" if self.return_states else ""
        options += "" if self.fused else ", fused=False"
        return options + (f": {self.why_unrolled}" if self.why_unrolled else "")


class _LayerStates(NamedTuple):
    """Each part of the state in one run of a layer."""

    every: State  # at every step, (T, B, H)
    last: State  # after the last step of each sequence, (1, B, H)


class _WindowStates(NamedTuple):
    """Each part of the state in one window."""

    every: State
    last: State | None  # None if it is not a Tensor of its own, but the end of ``every``


_INDEX = PRIMITIVES["index"]
_LAST, _REVERSED = slice(-1, None), slice(None, None, -1)


_scope = cache(scope)
"""The scope of one direction of one layer, by its name."""


def _index_each(parts: State, key: int | slice) -> State:
    """One step, or one layer, of each part."""
    return tuple([_index(part, key) for part in parts])


def _index(x: Tensor, key: int | slice) -> Tensor:
    """``x[key]`` for a key that needs no check, quicker than by ``Tensor.__getitem__``."""
    node, modes = x._node, MODES.get()
    if node is None or not node.requires_grad or not modes.grad:
        return apply(_INDEX, x, key=(key,))
    value = backend.NAMESPACES[type(x._data)].index(x._data, (key,))
    return record(_INDEX, (node,), value, {"key": (key,)}, modes.scope)
