"""A recurrence over a whole sequence as one primitive: :class:`Scan`.

A cell declares one step in elementary operations. The unrolled step is the primitive's definition: it runs
on any library, is differentiated for higher derivatives, and is what the inspector opens. On NumPy and CuPy
the loops of :mod:`..kernels` run the step's program instead, and save residuals for backward.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from ..arrays.namespaces import HALF, SCALARS, Array, namespace
from ..engine.backpropagation import ancestors
from ..engine.modes import in_step_of, modes_kept, no_grad
from ..engine.recording import Node, apply, node_of, wrap
from ..kernels import loops
from ..kernels.products import (
    InputCotangents,
    NeedsGrad,
    ProductOperands,
    input_cotangents,
    join_windows,
    products,
)
from ..kernels.program import Program
from ..kernels.runs import (
    FULL_LENGTH,
    Lengths,
    Run,
    StepCotangents,
    Weights,
    forward_windows,
    windows,
)
from ..primitives import Primitive
from ..primitives.primitive import Rule
from ..tensors import functions
from .fingerprints import fingerprint
from .tracing import Derived, derive

SINGLE = np.dtype("float32")

State = tuple[Any, ...]
"""The parts of a state: (h,) or (h, c)."""


class Operands(NamedTuple):
    """The operands of a scan by name.

    Attributes
    ----------
    x : (T, B, I)
    initial : tuple of (B, H)
        The parts of the initial state.
    weight_ih, weight_hh : (gates·H, I), (gates·H, H)
    bias_ih, bias_hh : (gates·H,), or the number 0
    others : tuple of (blocks·H,)
        Further weights of the cell.
    lengths : int (B,), or None
        The number of steps of each sequence.
    """

    x: Any
    initial: State
    weight_ih: Any
    weight_hh: Any
    bias_ih: Any
    bias_hh: Any
    others: tuple[Any, ...]
    lengths: Any


class Residuals(NamedTuple):
    """The values that the forward loop saves for backward.

    Attributes
    ----------
    values : array (T, B, slots·H)
    weight_hh : array (gates·H, H)
    others : tuple of array (blocks·H,)
    program : Program
        The program that was run.
    """

    values: Array
    weight_hh: Array
    others: tuple[Array, ...]
    program: Program


class Window(NamedTuple):
    """The cotangents that backward computed at some steps of a scan.

    Attributes
    ----------
    steps : range
        Counted from 0, the scan's first.
    sum_cotangents : StepCotangents
        The cotangents of the sums x and h, and of the states if they were asked for.
    operands : ProductOperands
        The arrays of these steps that the products with the cotangents take.
    """

    steps: range
    sum_cotangents: StepCotangents
    operands: Any

    def products(self) -> InputCotangents:
        """The cotangents of the inputs, with the powers of two that they are to be multiplied by."""
        return products(self.operands, self.sum_cotangents)

    def without_sums(self) -> Window:
        """Return the window with the cotangents of the states alone, which take less memory."""
        found = self.sum_cotangents
        return Window(self.steps, StepCotangents(None, found.powers, None, 0, found.states), None)


@dataclass(frozen=True, slots=True, eq=False)
class Scan(Primitive):
    """A recurrence over a whole sequence.

    Its operands are ``x, *initial, weight_ih, weight_hh, bias_ih, bias_hh, *others[, lengths]``; a bias
    may be the number 0. The result is ``(T, B, H)``, or ``(parts, T, B, H)`` for a state of several parts.

    Attributes
    ----------
    gates : tuple of str
        The names of the gates. Each has a block of H rows in the weights.
    parts : tuple of str
        The names of the parts of the state. W_h is applied to the first.
    weights : dict of str to int
        Further weights, and the number of blocks of H that each has.
    step : callable
        ``step(xp, x, h, state, **weights, **params) -> state`` of the sums x = x_t W_xᵀ + b_x and
        h = h_{t−1} W_hᵀ + b_h, in elementary operations.
    """

    gates: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("h",)
    weights: Any = None
    step: Rule = lambda: None

    @staticmethod
    def of(
        name: str,
        step: Rule,
        gates: tuple[str, ...],
        parts: tuple[str, ...],
        weights: dict[str, int] | None = None,
    ) -> Scan:
        """Make the primitive of a cell, with its forward and derivative rule."""

        def definition(xp: Any, *inputs: Any, **params: Any) -> Any:
            return scan._stacked(xp, scan.unrolled(xp, *inputs, **params))

        def forward_with_residuals(
            xp: Any, *inputs: Any, **params: Any
        ) -> tuple[Array, Residuals | None]:
            return scan._run(xp, inputs, params, save=True)

        def forward(xp: Any, *inputs: Any, **params: Any) -> Any:
            return scan._run(xp, inputs, params, save=False)[0]

        def vjp(
            xp: Any,
            g: Array,
            y: Array,
            *inputs: Any,
            residuals: Residuals,
            needs_grad: Any = None,
            **params: Any,
        ) -> tuple[Any, ...]:
            found = [
                input_cotangents(window.operands, window.sum_cotangents)
                for window in scan.inside(
                    xp, g, y, inputs, residuals, needs_grad=needs_grad, **params
                )
            ]
            return join_windows(xp.module, found[::-1], len(parts))

        scan = Scan(
            name,
            forward,
            vjp,
            "definition",
            requirement="x (T, B, I), states (B, H), weights (gates·H, I) and (gates·H, H), "
            "biases (gates·H,)",
            definition=definition,
            forward_with_residuals=forward_with_residuals,
            leading_axes=True,
            gates=gates,
            parts=parts,
            weights=weights or {},
            step=step,
        )
        return scan

    # --- the program -----------------------------------------------------------------------------

    def program(self, **params: Any) -> Program | None:
        """The step as instructions, or None for a cell whose hidden units depend on each other.

        It is derived once for each set of parameters, and again if the step, or a function among the
        parameters, reads other values from outside.
        """
        return self._derivation(params).program

    def why_unrolled(self, **params: Any) -> str:
        """The reason why the step has no program; empty if it has one."""
        return self._derivation(params).reason

    def _derivation(self, params: dict[str, Any]) -> Derived:
        key = self, fingerprint(self.step), *params, *map(fingerprint, params.values())
        try:
            return _DERIVED[key]
        except KeyError:
            derived = derive(self, params)
        if (program := derived.program) is not None:
            derived = Derived(_BY_TEXT.setdefault(program.text, program), "")
        if len(_DERIVED) >= REMEMBERED:
            _DERIVED.clear()
        _DERIVED[key] = derived
        return derived

    def program_for(self, xp: Any, params: dict[str, Any]) -> Program | None:
        """The program, or None if there are no loops for the library."""
        if not getattr(xp, "has_loops", False):
            return None
        return self.program(**step_params(params))

    @property
    def separate(self) -> bool:
        """Whether ``bias_hh`` matters beside ``bias_ih``: it does not if the step uses only x + h."""
        defaults = inspect.signature(self.step).parameters.values()
        program = self.program(**{p.name: p.default for p in defaults if p.default is not p.empty})
        return program is None or program.separate

    # --- operands --------------------------------------------------------------------------------

    def operands(self, inputs: tuple[Any, ...]) -> Operands:
        """The inputs by name."""
        n = 1 + len(self.parts)
        end = n + 4 + len(self.weights)
        lengths = inputs[end] if len(inputs) > end else None
        a, b, c, d = inputs[n : n + 4]
        return Operands(inputs[0], inputs[1:n], a, b, c, d, inputs[n + 4 : end], lengths)

    def checked(self, inputs: tuple[Any, ...]) -> Operands:
        """The operands, after a check of their shapes, which compiled loops do not make.

        Raises
        ------
        ValueError
        """
        _check_shapes(self, tuple([getattr(x, "shape", x) for x in inputs]))
        given = self.operands(inputs)
        lengths = given.lengths
        if lengths is not None and getattr(lengths.dtype, "kind", "i") not in "iu":
            raise ValueError(f"lengths of dtype {lengths.dtype} are not whole numbers")
        return given

    # --- the definition --------------------------------------------------------------------------

    def unrolled(
        self, xp: Any, *inputs: Any, shortest: int | None = None, start: int = 0, **params: Any
    ) -> Iterator[State]:
        """Compute the states step by step; the first one is the initial state."""
        given = self.checked(inputs)
        state, lengths = given.initial, given.lengths
        projected = xp.matmul(given.x, given.weight_ih.T)  # all steps in one product
        projected = projected + given.bias_ih if hasattr(given.bias_ih, "shape") else projected
        weight = given.weight_hh.T
        others = dict(zip(self.weights, given.others, strict=True))
        yield state
        for t in range(given.x.shape[0]):
            h = xp.matmul(state[0], weight)
            h = h + given.bias_hh if hasattr(given.bias_hh, "shape") else h
            x = projected[t, ...]
            new = in_step_of(self).run(self.step, xp, x, h, state, **others, **params)
            new = _as_new_values(new, state)
            if lengths is not None and t >= (shortest or 0):
                new = _freeze_finished(xp, new, state, xp.greater(lengths, t)[:, None])
            state = new
            yield state

    def _stacked(self, xp: Any, states: Iterator[State]) -> Any:
        """The result of the primitive, from the states of all steps."""
        _, *steps = states
        wholes = [xp.stack(list(part), axis=0) for part in zip(*steps, strict=True)]
        return wholes[0] if len(wholes) == 1 else xp.stack(wholes, axis=0)

    @modes_kept
    def _by_definition(self, *inputs: Any, **params: Any) -> Array:
        """The result on arrays, from the definition."""
        given = [x if type(x) in SCALARS else wrap(x) for x in inputs]
        with no_grad():
            return self.definition(functions, *given, **params)._data  # type: ignore[misc]

    # --- the loops -------------------------------------------------------------------------------

    def _run(
        self, xp: Any, inputs: tuple[Any, ...], params: dict[str, Any], save: bool
    ) -> tuple[Array, Residuals | None]:
        """The result and, with ``save``, residuals; None if backward will differentiate the definition.

        With the states themselves, 6 H numbers are saved for each step and sequence of an LSTM, 5 H of a
        GRU and H of a vanilla RNN. Without ``save``, steps run window by window to use less memory.
        """
        program = self.program_for(xp, params)
        if program is None:
            return self._by_definition(*inputs, **params), None
        m = xp.module
        given, dtype = _in_one_type(m, self.checked(inputs))
        x, wide = given.x, given.x.dtype  # halves are computed in float32
        kernel = loops(program, m, wide)
        if kernel is None:
            return self._by_definition(*inputs, **params), None
        (T, B, _), H = x.shape, given.weight_hh.shape[1]
        bias_ih, bias_hh = _array_or_none(given.bias_ih), _array_or_none(given.bias_hh)
        weights = Weights(given.weight_ih, given.weight_hh, bias_ih, bias_hh, given.others)
        states = m.empty((len(given.initial), T, B, H), wide)
        spans = () if save else forward_windows(m, (T, B, program.columns * H))
        values = m.empty((max(map(len, spans), default=T), B, program.saved * H), wide)
        lengths = _lengths(given.lengths, params.get("shortest"))
        run = Run(program, m, weights, list(given.initial), values, states, lengths)
        if len(spans) < 2:
            kernel.forward(run, x)
        else:
            for span in spans:
                here = slice(span.start, span.stop)
                part = m.empty((len(states), len(span), B, H), wide)
                run = run._replace(
                    saved=values[: len(span)], states=part, lengths=lengths.after(span.start)
                )
                kernel.forward(run, x[here])
                states[:, here] = part
                run = run._replace(initial=list(part[:, -1]))
        if dtype is not wide:
            with np.errstate(over="ignore"):  # beyond float16 it is infinite
                states, values = states.astype(dtype), values.astype(dtype)
        residuals = Residuals(values, given.weight_hh, given.others, program) if save else None
        return (states[0] if len(states) == 1 else states), residuals

    def inside(
        self,
        xp: Any,
        g: Array,
        y: Array,
        inputs: tuple[Any, ...],
        residuals: Residuals,
        powers: Array | None = None,
        with_states: bool = False,
        needs_grad: tuple[bool, ...] | None = None,
        until: int = 0,
        shortest: int | None = None,
        start: int = 0,
        **params: Any,
    ) -> Iterator[Window]:
        """Run backward through time. It is the only way to cotangents inside a recurrence.

        Parameters
        ----------
        g : array (*lead, [parts,] T, B, H)
            The cotangent of the result ``y``.
        inputs, residuals
            The operands of the scan, and what the forward saved.
        powers : int array (*lead, T, B), optional
            Powers of two by which the rows of ``g`` are multiplied.
        with_states : bool
            Whether the cotangents of the states are wanted too.
        needs_grad : tuple of bool, optional
            For each input, whether its cotangent is wanted; by default all are.
        until : int
            The step at which to stop.

        Yields
        ------
        Window
            The last steps first, so that the cotangents of all sums never take memory at once.
        """
        program = residuals.program
        m, given = xp.module, self.operands(inputs)
        parts, dtype = len(self.parts), residuals.weight_hh.dtype
        states = y.reshape((parts, *y.shape[-3:]))
        g = g.astype(dtype, copy=False)
        if m is np and not g.flags.carray:  # otherwise the loops copy it for every window
            g = g.copy()
        g = g[None] if parts == 1 else m.moveaxis(g, -4, 0) if g.ndim > 4 else g
        weights = Weights(None, residuals.weight_hh, None, None, residuals.others)
        initial = [h.astype(dtype, copy=False) for h in given.initial]
        values, wide = (a.astype(dtype, copy=False) for a in (residuals.values, states))
        run = Run(program, m, weights, initial, values, wide, _lengths(given.lengths, shortest))
        kernel = loops(program, m, dtype)
        operands = self._operands(program, m, given, states[0], needs_grad)
        later: StepCotangents | None = None
        T, B, H = states.shape[1:]
        for window in reversed(windows(m, (T, B, program.columns * H))):
            span = range(max(window.start, until), window.stop)
            later = kernel.backward(run, g, powers, with_states, span, later)
            yield Window(span, later, operands.at(span))
            if span.start == until:
                return

    def _operands(
        self,
        program: Program,
        m: Any,
        given: Operands,
        states: Array,
        needs_grad: tuple[bool, ...] | None,
    ) -> ProductOperands:
        """The arrays that backward multiplies with the cotangents of the sums."""
        biases = hasattr(given.bias_ih, "shape"), hasattr(given.bias_hh, "shape")
        wanted = NeedsGrad(True, True, True, *biases, bool(given.others))
        if needs_grad is not None:
            n = 1 + len(self.parts)
            wanted = NeedsGrad._make(
                (needs_grad[0], *needs_grad[n : n + 4], any(needs_grad[n + 4 :]))
            )
        rest = given.weight_ih, given.lengths is not None, wanted
        return ProductOperands(m, program, given.x, given.initial[0], states, *rest)


def is_scan(node: Node) -> bool:
    """Whether a node is a recurrence over a whole sequence."""
    return isinstance(node.primitive, Scan)


def by_definition(node: Node) -> bool:
    """Whether a node is a recurrence that ran by its definition, because there are no loops for it."""
    return isinstance(node.primitive, Scan) and node.residuals is None


def steps_of_scan(node: Node) -> range:
    """The time steps of a scan."""
    start = node.params.get("start", 0)
    return range(start, start + node.value.shape[-3])


def step_params(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the step, without those of the whole run."""
    if "start" not in params and "shortest" not in params:
        return params
    return {k: v for k, v in params.items() if k not in ("start", "shortest")}


_DERIVED: dict[Any, Derived] = {}
"""The programs by scan, options and fingerprints, which keep no functions alive."""

REMEMBERED = 1024
"""How many programs are kept, because there is no limit to the options a program may use."""

_BY_TEXT: WeakValueDictionary[str, Program] = WeakValueDictionary()
"""Programs by their instructions, so that functions with equal programs share compiled code."""

RESERVED = frozenset(
    p.name
    for run in (Scan.inside, Scan.unrolled, Scan.program, apply)
    for p in inspect.signature(run).parameters.values()
    if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
)
"""Names that an option of a step cannot have, because the functions that pass options on use them."""


@lru_cache(maxsize=256)
def _check_shapes(scan: Scan, shapes: tuple[Any, ...]) -> None:
    """Raise ValueError if the shapes of a scan's operands do not agree.

    ``shapes`` has the number itself for an operand that is a number. Results are cached, because a layer
    runs with the same shapes many times.
    """
    least = len(scan.parts) + 5 + len(scan.weights)
    if len(shapes) not in (least, least + 1):
        raise ValueError(f"{len(shapes)} operands, not {least}, or {least + 1} with lengths")
    given = scan.operands(shapes)
    T, B, size = _with_axes(given.x, "x", 3)
    H = _with_axes(given.weight_hh, "weight_hh", 2)[1]
    N = len(scan.gates) * H
    wanted: list[tuple[Any, str, tuple[int, ...]]]
    wanted = [(given.weight_ih, "weight_ih", (N, size)), (given.weight_hh, "weight_hh", (N, H))]
    wanted += [(h, f"{name}_0", (B, H)) for h, name in zip(given.initial, scan.parts, strict=True)]
    for bias, name in ((given.bias_ih, "bias_ih"), (given.bias_hh, "bias_hh")):
        if bias != 0:
            wanted.append((bias, name, (N,)))
    others = zip(given.others, scan.weights.items(), strict=True)
    wanted += [(weight, name, (blocks * H,)) for weight, (name, blocks) in others]
    if given.lengths is not None:
        wanted.append((given.lengths, "lengths", (B,)))
    for shape, name, right in wanted:
        if shape != right:
            raise ValueError(f"{name} has shape {_shape_of(shape)}, not {right}")
    if not T:
        raise ValueError("x has no steps")


def _with_axes(shape: Any, name: str, axes: int) -> tuple[int, ...]:
    """A shape; raise ValueError unless it has so many axes."""
    found = _shape_of(shape)
    if len(found) != axes:
        raise ValueError(f"{name} has shape {found}, not {axes} axes")
    return found


def _shape_of(shape: Any) -> tuple[int, ...]:
    """The shape of an operand; () for a number."""
    return shape if isinstance(shape, tuple) else ()


def _array_or_none(bias: Any) -> Any:
    return bias if hasattr(bias, "shape") else None


def _in_one_type(m: Any, given: Operands) -> tuple[Operands, Any]:
    """The operands in one type that holds all of them (float32 for halves), and the type of the result."""
    arrays = [given.x, *given.initial, given.weight_ih, given.weight_hh, *given.others]
    arrays += [bias for bias in (given.bias_ih, given.bias_hh) if hasattr(bias, "dtype")]
    dtype = given.x.dtype
    if len({a.dtype for a in arrays}) == 1 and dtype != HALF:
        return given, dtype
    dtype = m.result_type(*arrays)
    wide = SINGLE if dtype == HALF else dtype

    def cast(a: Any) -> Any:
        return a.astype(wide, copy=False) if hasattr(a, "dtype") else a

    x, initial, weight_ih, weight_hh, bias_ih, bias_hh, others, lengths = given
    weights = cast(weight_ih), cast(weight_hh), cast(bias_ih), cast(bias_hh)
    initial, others = tuple(map(cast, initial)), tuple(map(cast, others))
    return Operands(cast(x), initial, *weights, others, lengths), dtype


def _lengths(lengths: Array | None, shortest: int | None) -> Lengths:
    return FULL_LENGTH if lengths is None else Lengths(lengths, shortest or 0)


def _as_new_values(new: State, old: State) -> State:
    """The new state, where each part is a new value, even if the step returns a part unchanged or twice."""
    found: list[Any] = []
    for part in new:
        found.append(part * 1 if any(part is x for x in (*old, *found)) else part)
    return tuple(found)


def _freeze_finished(xp: Any, new: State, old: State, running: Any) -> State:
    """Keep the old state, as a constant, in the rows of sequences that have ended.

    If the step computes one part from another (an LSTM's h from c), the record is changed so that it is
    computed from the frozen part, and the gradient by that part includes it.
    """
    parts = list(new)
    order = sorted(range(len(new)), key=lambda k: node_of(new[k]).order)
    for i, k in enumerate(order):
        part = xp.where(running, parts[k], _as_constant(old[k]))
        for later in order[i + 1 :]:
            parts[later] = _replaced(parts[later], parts[k], part)
        parts[k] = part
    return tuple(parts)


def _as_constant(x: Any) -> Any:
    """A Tensor through which no gradient goes; in a complex step it has no imaginary part."""
    array = x._data
    xp = namespace(array)
    if not xp.is_complex(array):
        return x.detach()
    with xp.on(array):
        return wrap(xp.real(array))


def _replaced(x: Any, before: Any, after: Any) -> Any:
    """A recorded Tensor, recorded again with ``after`` in the place of ``before`` among its ancestors."""
    twins: dict[Any, Node] = {node_of(before): node_of(after)}
    for node in ancestors([node_of(x)], oldest=node_of(before).order):
        if node not in twins and any(y in twins for y in node.inputs or ()):
            twins[node] = node.again(tuple([twins.get(y, y) for y in node.inputs or ()]))
    twin = twins.get(node_of(x))
    return x if twin is None else wrap(twin.value, twin)
