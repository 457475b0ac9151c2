"""Recurrences over a whole sequence as one operation.

Each declares one step in elementary operations. The step, unrolled, is its definition: what it means on
any library, how it is differentiated again, and what the inspector opens it to. NumPy and CuPy run the
loops of :mod:`..kernels` instead, which save what backward needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..kernels import loops
from ..kernels.arrays import ALL, Deltas, Ends
from ..kernels.arrays import windows as windows  # the inspector's too
from ..kernels.cells import LongShortTerm, Vanilla
from ..kernels.products import Cotangents, Needs, Setting, joined, sent
from .primitive import PRIMITIVES, Primitive, Rule

State = tuple[Any, ...]


class Operands(NamedTuple):
    """What a scan is applied to.

    Attributes
    ----------
    x : (T, B, I)
    initial : tuple of (B, H)
        The parts of the state before the first input.
    weight_ih, weight_hh : (blocks·H, I), (blocks·H, H)
    bias : (blocks·H,), or the number 0
    lengths : int (B,), or None
        Steps of each sequence.
    """

    x: Any
    initial: State
    weight_ih: Any
    weight_hh: Any
    bias: Any
    lengths: Any


@dataclass(frozen=True, slots=True, eq=False)
class Scan(Primitive):
    """A recurrence over a whole sequence: ``scan(x, *initial, weight_ih, weight_hh, bias[, lengths])``.

    The result is ``(T, B, H)``, or ``(parts, T, B, H)`` for a state of several parts.

    Attributes
    ----------
    parts : tuple of str
        The names of the state's parts.
    step : callable
        ``step(xp, z, state, running, **params) -> state`` of the sum z = x W_xᵀ + h W_hᵀ + b, in
        elementary operations; ``running`` says which sequences go on, None: all. W_h is applied to the
        first part.
    cell : callable
        ``cell(module, **params)``: the same on plain arrays, of :mod:`..kernels.cells`.
    blocks : int
        How many blocks of H rows the weights have.
    """

    parts: tuple[str, ...] = ("h",)
    step: Rule = lambda: None
    cell: Callable[..., Any] = lambda: None
    blocks: int = 1

    def operands(self, inputs: tuple[Any, ...]) -> Operands:
        """Inputs by name."""
        n = 1 + len(self.parts)
        lengths = inputs[n + 3] if len(inputs) > n + 3 else None
        weight_ih, weight_hh, bias = inputs[n : n + 3]
        return Operands(inputs[0], inputs[1:n], weight_ih, weight_hh, bias, lengths)

    def checked(self, inputs: tuple[Any, ...]) -> Operands:
        """The same, where their shapes belong together: compiled loops do not look.

        Raises
        ------
        ValueError
        """
        least = len(self.parts) + 4
        if len(inputs) not in (least, least + 1):
            raise ValueError(f"{len(inputs)} operands, not {least}, or {least + 1} with lengths")
        given = self.operands(inputs)
        x, initial, weight_ih, weight_hh, bias, lengths = given
        T, B, size = _shape(x, "x", 3)
        H = _shape(weight_hh, "weight_hh", 2)[1]
        N = self.blocks * H
        wanted: list[tuple[Any, str, tuple[int, ...]]]
        wanted = [(weight_ih, "weight_ih", (N, size)), (weight_hh, "weight_hh", (N, H))]
        wanted += [(h, f"{name}_0", (B, H)) for h, name in zip(initial, self.parts, strict=True)]
        if hasattr(bias, "shape") or bias:
            wanted.append((bias, "bias", (N,)))
        if lengths is not None:
            wanted.append((lengths, "lengths", (B,)))
        for array, name, shape in wanted:
            if getattr(array, "shape", None) != shape:
                raise ValueError(f"{name} has shape {getattr(array, 'shape', ())}, not {shape}")
        if lengths is not None and getattr(lengths.dtype, "kind", "i") not in "iu":
            raise ValueError(f"lengths of dtype {lengths.dtype} are no whole numbers")
        if not T:
            raise ValueError("x has no steps")
        return given

    def unrolled(
        self, xp: Any, *inputs: Any, shortest: int | None = None, start: int = 0, **params: Any
    ) -> Iterator[State]:
        """The states, first the initial one, as they are computed step by step."""
        x, state, weight_ih, weight_hh, bias, lengths = self.checked(inputs)
        projected = xp.matmul(x, weight_ih.T)  # all steps in one product
        projected = projected + bias if hasattr(bias, "shape") else projected
        weight = weight_hh.T
        yield state
        for t in range(x.shape[0]):
            z = projected[t, ...] + xp.matmul(state[0], weight)
            going = lengths is None or t < (shortest or 0)
            running = None if going else xp.greater(lengths, t)[:, None]
            state = self.step(xp, z, state, running, **params)
            yield state

    def setting(
        self,
        xp: Any,
        y: Array,
        inputs: tuple[Any, ...],
        needed: tuple[bool, ...] | None = None,
        shortest: int | None = None,
        start: int = 0,
        **params: Any,
    ) -> Setting:
        """What the products of backward are made of; ``needed``: for which inputs, None: all."""
        given = self.operands(inputs)
        states = y if len(self.parts) == 1 else y[0]
        return Setting(
            xp.module,
            given.x,
            given.initial[0],
            states,
            given.weight_ih,
            hasattr(given.bias, "shape"),
            given.lengths is not None,
            Needs(True, True, True) if needed is None else self._needs(needed),
        )

    def _needs(self, needed: tuple[bool, ...]) -> Needs:
        of = self.operands(needed)
        return Needs(of.x, of.weight_ih or of.bias, of.weight_hh)

    def stacked(self, xp: Any, states: Iterator[State]) -> Any:
        """The result, from the states of every step."""
        _, *steps = states
        wholes = [xp.stack(list(part), axis=0) for part in zip(*steps, strict=True)]
        return wholes[0] if len(wholes) == 1 else xp.stack(wholes, axis=0)


def _shape(array: Any, name: str, axes: int) -> tuple[int, ...]:
    shape = tuple(getattr(array, "shape", ()))
    if len(shape) != axes:
        raise ValueError(f"{name} has shape {shape}, not {axes} axes")
    return shape


class Saved(NamedTuple):
    """What the forward loop leaves for backward, in the order of the cell's gates.

    Attributes
    ----------
    gates : array (T, B, blocks·H)
        The states themselves for a cell that keeps no gates.
    weight_hh : array (blocks·H, H)
    """

    gates: Array
    weight_hh: Array


def run(
    scan: Scan, xp: Any, *inputs: Any, shortest: int | None = None, start: int = 0, **params: Any
) -> Any:
    """The result, and what backward needs, by the loops of :mod:`..kernels`.

    Per step and sequence that is, with the states themselves, 6 H numbers for an LSTM and H for a vanilla
    RNN.
    """
    m = xp.module
    given = scan.checked(inputs)
    cell = scan.cell(m, **params)
    biases = [given.bias] if hasattr(given.bias, "shape") else []
    operands = [given.x, given.weight_ih, given.weight_hh, *biases, *given.initial]
    x, weight_ih, weight_hh, *others = _in_one_type(m, operands)
    bias, initial = (others[0] if biases else None), others[len(biases) :]
    (T, B, _), (N, H), dtype = x.shape, weight_hh.shape, x.dtype
    states = m.empty((len(initial), T, B, H), dtype)
    gates = m.empty((T, B, N), dtype) if cell.keeps_gates else states[0]
    ends, weights = _ends(given.lengths, shortest), (weight_ih, weight_hh, bias)
    loops(m, dtype).forward(cell, x, initial, weights, gates, states, ends)
    return (states[0] if len(initial) == 1 else states), Saved(gates, weight_hh)


def states_alone(scan: Scan, xp: Any, *inputs: Any, **params: Any) -> Any:
    """The result where nothing is to be kept: window by window, in memory for the gates of one."""
    given = scan.checked(inputs)
    T, B, _ = given.x.shape
    spans = windows(xp.module, (T, B, len(given.weight_hh)))
    if len(spans) == 1:
        return run(scan, xp, *inputs, **params)[0]
    shortest = params.pop("shortest", None)
    weights = given.weight_ih, given.weight_hh, given.bias
    before: Sequence[Any] = given.initial
    found: Any = None
    for span in spans:
        lengths = [] if given.lengths is None else [given.lengths - span.start]
        some = given.x[span.start : span.stop]
        here = max(0, (shortest or 0) - span.start)
        y, _ = run(scan, xp, some, *before, *weights, *lengths, shortest=here, **params)
        if found is None:
            found = xp.module.empty((*y.shape[:-3], T, *y.shape[-2:]), y.dtype)
        found[..., span.start : span.stop, :, :] = y
        before = [y[-1]] if len(before) == 1 else list(y[:, -1])
    return found


def _in_one_type(m: Any, given: Sequence[Array]) -> Sequence[Array]:
    dtype = given[0].dtype
    if all(a.dtype is dtype for a in given):
        return given
    dtype = m.result_type(*given)
    return [a.astype(dtype, copy=False) for a in given]


def _ends(lengths: Array | None, shortest: int | None) -> Ends:
    return ALL if lengths is None else Ends(lengths, shortest or 0)


def plain(m: Any, g: Array) -> Array:
    """A cotangent as the loops take it, so that they do not copy it for every window."""
    return np.require(g, requirements=("C", "A", "W")) if m is np and not g.flags.carray else g


def deltas(
    scan: Scan,
    xp: Any,
    g: Array,
    y: Array,
    inputs: tuple[Any, ...],
    saved: Saved,
    powers: Array | None = None,
    keep: bool = False,
    span: range | None = None,
    later: Deltas | None = None,
    shortest: int | None = None,
    start: int = 0,
    **params: Any,
) -> Deltas:
    """The cotangents of the sums and states inside, from those of the result (*lead, [parts,] T, B, H).

    See :func:`..kernels.arrays.backward` for the rest.
    """
    m = xp.module
    _, initial, _, _, _, lengths = scan.operands(inputs)
    parts = len(initial)
    y = y.reshape((parts, *y.shape[-3:]))
    if parts == 1:
        g = g[None]
    elif g.ndim > 4:
        g = m.moveaxis(g, -4, 0)
    dtype = saved.gates.dtype
    return loops(m, dtype).backward(
        scan.cell(m, **params),
        saved.gates,
        [h.astype(dtype, copy=False) for h in initial],
        saved.weight_hh,
        y,
        _ends(lengths, shortest),
        g,
        powers,
        keep,
        span,
        later,
    )


def scan_vjp(
    scan: Scan,
    xp: Any,
    g: Array,
    y: Array,
    *inputs: Any,
    saved: Saved | None = None,
    needed: tuple[bool, ...] | None = None,
    **params: Any,
) -> Cotangents:
    """The cotangents of all inputs, by windows of time: those of all sums are never there at once.

    None for inputs whose cotangents are not needed.
    """
    if saved is None:
        y, saved = run(scan, xp, *inputs, **params)
    setting = scan.setting(xp, y, inputs, needed, **params)
    found: list[Cotangents] = []
    later = None
    g = plain(xp.module, g)
    for steps in reversed(windows(xp.module, saved.gates.shape)):
        later = deltas(scan, xp, g, y, inputs, saved, span=steps, later=later, **params)
        found.insert(0, sent(setting.at(steps), later))
    return joined(xp.module, found, len(scan.parts))


def _define(
    name: str, parts: tuple[str, ...], step: Rule, cell: Callable[..., Any], blocks: int
) -> Scan:
    """Register a scan under its name."""

    def definition(xp: Any, *inputs: Any, **params: Any) -> Any:
        return scan.stacked(xp, scan.unrolled(xp, *inputs, **params))

    def forward(xp: Any, *inputs: Any, **params: Any) -> Any:
        if getattr(xp, "has_loops", False):
            return states_alone(scan, xp, *inputs, **params)
        return definition(ArrayFunctions(xp), *inputs, **params)

    def vjp(xp: Any, g: Array, y: Array, *inputs: Any, **params: Any) -> Cotangents:
        return scan_vjp(scan, xp, g, y, *inputs, **params)

    def keeps(xp: Any, *inputs: Any, **params: Any) -> tuple[Array, Saved | None]:
        if getattr(xp, "has_loops", False):
            return run(scan, xp, *inputs, **params)
        return forward(xp, *inputs, **params), None

    scan = Scan(
        name,
        forward,
        vjp,
        "definition",
        needs="x (T, B, I), states (B, H), weights (blocks·H, I) and (blocks·H, H), bias (blocks·H,)",
        definition=definition,
        keeps=keeps,
        parts=parts,
        step=step,
        cell=cell,
        blocks=blocks,
    )
    PRIMITIVES[name] = scan
    return scan


class ArrayFunctions:
    """The functions that a definition uses, on the arrays of a library: primitives are theirs too."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        if name in PRIMITIVES and name != "stack":  # which takes a list on either side
            return partial(PRIMITIVES[name].forward, self._xp)
        return getattr(self._xp, name)


def held(xp: Any, new: Any, old: Any, running: Any) -> Any:
    """Past a sequence's end the old state stays, as a constant: no gradient comes from there.

    For a complex step a constant is what has no imaginary part.
    """
    if running is None:
        return new
    if hasattr(old, "detach"):
        return xp.where(running, new, old.detach())
    return xp.where(running, new, xp.ordered(old))


def rnn_step(xp: Any, z: Any, state: State, running: Any, nonlinearity: str = "tanh") -> State:
    """h' = σ(z)"""
    new = z if nonlinearity == "identity" else getattr(xp, nonlinearity)(z)
    return (held(xp, new, state[0], running),)


def lstm_step(xp: Any, z: Any, state: State, running: Any) -> State:
    """c' = f ∘ c + i ∘ g, h' = o ∘ tanh(c')"""
    h, c = state
    n = z.shape[-1] // 4
    i, f = xp.sigmoid(z[..., :n]), xp.sigmoid(z[..., n : 2 * n])
    g, o = xp.tanh(z[..., 2 * n : 3 * n]), xp.sigmoid(z[..., 3 * n :])
    c = held(xp, f * c + i * g, c, running)
    return held(xp, o * xp.tanh(c), h, running), c


RNN_SCAN = _define("rnn_scan", ("h",), rnn_step, Vanilla, blocks=1)
LSTM_SCAN = _define("lstm_scan", ("h", "c"), lstm_step, LongShortTerm, blocks=4)
