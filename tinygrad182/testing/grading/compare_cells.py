"""``compare_cells``: compare a student's cell with one of ours, step by step and gate by gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...engine.modes import modes_kept, no_grad
from ...errors import ArgumentError, ShapeError, TinygradError, brief
from ...nn.recurrent import Recurrent, RecurrentLayer
from ...tensors.creation import tensor
from ...tensors.tensor import Tensor
from ..samples import Array
from .comparison import CellComparison, Difference, Phase
from .entry_names import Entry, entry_of_input, entry_of_parameter, entry_of_state
from .formulas import Formula, formula_of
from .mistakes import ONE_BIAS, Mistake, mistakes_of
from .mistakes_in_loops import RIGHT, Loop, loops_of
from .return_values import OUTPUT, returned_by_loop
from .run_step import Step, StepResult, run_step, step_of
from .student_cell import Caller

RTOL = 1e-9
FLOOR = 1e-13
"""The rounding error of numbers of size 1; it also affects small differences of such numbers."""


def compare_cells(
    mine: Callable[..., Any],
    reference: Recurrent,
    x: Any,
    state: Any = None,
    *,
    names: Mapping[str, str | tuple[str, ...]] | None = None,
    sequence: bool = False,
    rtol: float = RTOL,
    seed: int = 0,
) -> CellComparison:
    """Compare a cell with one of ours: say where they differ first, and which mistake explains it.

    Both cells use the reference's parameters, in float64. At each step both begin with the reference's
    state, so an error does not carry over to the next step. The function compares the gates, the next
    state, and the gradients of a random linear function of it by the input, the state and each parameter.

    To explain a difference, it plants each known mistake into the right formula. A mistake is named if its
    numbers are the student's at all steps.

    Parameters
    ----------
    mine : Module or callable
        The student's cell, one of

        - a function ``step(x, h, c, **parameters)`` or ``step(x, state, **parameters)`` of Tensors that
          returns the next state. Its parameters are named ``weight_ih`` or ``W_ih``, ``weight_hh`` or
          ``W_hh``, ``bias_ih`` or ``b_ih``, ``bias_hh`` or ``b_hh``, in PyTorch's layout; one ``b`` alone
          is the sum of both, ``W_if`` one gate's block, and ``params`` a dict of all. NumPy's functions
          take Tensors, so a step may be written in NumPy;
        - a module with such parameters, called as ``cell(x, state)``, or an object with such attributes;
        - an instance of your own subclass of :class:`RecurrentCell` or :class:`RecurrentLayer`.

        Gates are compared if they have names: such a subclass declares them, and other code names them by
        :func:`tinygrad182.inspect.mark`: ``i = tg.inspect.mark(i, "i")``.
    reference : RecurrentCell or RecurrentLayer
        ``tg.nn.LSTMCell``, ``GRUCell``, ``RNNCell``, or another cell or layer. A single bias is split at
        random into two that add up to it.
    x : array or Tensor ``(T, B, I)``
        The inputs.
    state : array or tuple of arrays ``(B, H)``, optional
        The state before the first step. By default it is random, because a state of zeros hides errors.
    names : dict of str to str, optional
        The reference's names for the student's parameters and marks that are not recognized:
        ``{"x2h.weight": "weight_ih"}``. ``"weight_ih.T"`` is a transpose, ``"weight_ih_f"`` the block of
        one gate, and ``("weight_hh", "weight_ih")`` are two weights side by side, as in [h, x].
    sequence : bool
        Whether ``mine`` takes a whole sequence, as a layer does: ``mine(x, state)`` with x of shape
        ``(T, B, I)`` returns ``(output, state)``. It is first compared on sequences of one step. If these
        are equal, it is compared on the whole sequence, to find a mistake in its loop over time.
    rtol : float
        The relative tolerance in float64. It is larger if the student's code rounds to a coarser dtype.
    seed : int
        The seed of all random numbers.

    Returns
    -------
    CellComparison
        It is true if the cells are equal, so ``assert comparison, comparison`` is a test. ``first`` says
        where they differ first, and ``mistake`` why.

    Raises
    ------
    ArgumentError, ShapeError
        One of the cells raises an error, takes parameters of unknown names or other shapes,
        or returns a state of another shape.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> def step(x, h, c, W_ih, W_hh, b):
    ...     i, f, o, g = tg.split(x @ W_ih.T + h @ W_hh.T + b, 4, axis=-1)
    ...     c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    ...     return tg.sigmoid(o) * tg.tanh(c), c
    >>> reference, x = tg.nn.LSTMCell(3, 4, rng=0), tg.ones((5, 2, 3))
    >>> comparison = tg.testing.compare_cells(step, reference, x)
    >>> comparison.mistakes[0].sentence
    "your gates are in the order i, f, o, g; PyTorch's and ours is i, f, g, o"
    """
    _check(mine, reference, names)
    sequence = sequence and not isinstance(mine, RecurrentLayer)  # the loop of a layer is ours
    pair = _Pair(mine, reference, x, state, names or {}, sequence, rtol, seed)
    differences = sorted(pair.differences(), key=lambda d: d.phase == "backward")
    mistakes = pair.mistakes() if differences else []
    if sequence and not mistakes:
        more, mistakes = pair.of_the_loop()
        differences = differences or more
    return CellComparison(len(pair.steps), tuple(differences), tuple(mistakes))


_RESULTS = {"forward": "values", "backward": "gradients"}


@dataclass(frozen=True)
class _Ran:
    """The results of both cells in one step."""

    given: dict[str, Array]
    cotangents: dict[str, Array]
    rtol: float
    mine: StepResult
    reference: StepResult

    def excess(self, mine: Array, reference: Array) -> Array:
        """The difference as a multiple of the largest that is allowed."""
        epsilon = self.mine.epsilon
        coarser = max(1.0, epsilon / np.finfo(float).eps)
        largest = np.abs(reference).max(initial=0.0)
        sizes = [np.abs(a).max(initial=1.0) for a in self.given.values()]
        rtol = max(self.rtol, 1e3 * epsilon) if coarser > 1 else self.rtol
        allowed = rtol * largest + FLOOR * coarser * max(sizes) ** 2
        return np.asarray(np.abs(mine - reference) / allowed)

    def close(self, mine: Array, reference: Array) -> bool:
        """Whether all differences are allowed."""
        return bool((self.excess(mine, reference) <= 1).all())


class _LoopComparison(NamedTuple):
    """The differences over a whole sequence, and the mistakes in a loop that explain them."""

    differences: list[Difference]
    mistakes: list[Mistake]


class _Pair:
    """Two cells and their results at each step."""

    def __init__(
        self,
        mine: Callable[..., Any],
        reference: Recurrent,
        x: Any,
        state: Any,
        names: Mapping[str, Any],
        sequence: bool,
        rtol: float,
        seed: int,
    ) -> None:
        self.rtol, rng = rtol, np.random.default_rng(seed)
        scan = reference.scan
        self.gates = scan.gates if len(scan.gates) > 1 else ()  # a single gate is the state
        self.parts, self.units = scan.parts, reference.hidden_size
        self.formula = formula_of(scan, reference._params())
        self.parameters = _parameters_of(reference, rng)
        self.device = next(reference.parameters()).device
        inputs = _inputs(x, reference)
        shape = inputs.shape[1], self.units
        before = _initial(state, self.parts, shape, rng)
        self.mine, self.rng = Caller(mine, self.gates, self.parts, names), rng
        self.reference = step_of(reference, self.gates, self.parts, {})
        steps = step_of(mine, self.gates, self.parts, names, sequence), self.reference
        self.whole = {"x": inputs, **before, **self.parameters}
        self.steps: list[_Ran] = []
        for t, x_t in enumerate(inputs):
            given = {"x": x_t, **before, **self.parameters}
            cotangents: dict[str, Array] = {p: rng.standard_normal(shape) for p in self.parts}
            results = [self._run(t, step, given, cotangents) for step in steps]
            self.steps.append(_Ran(given, cotangents, rtol, *results))
            before = {part: results[1].values[part] for part in self.parts}

    def _run(
        self, t: int, step: Step, given: dict[str, Array], cotangents: dict[str, Array]
    ) -> StepResult:
        try:
            return run_step(step, given, cotangents, self.device)
        except (ArgumentError, ShapeError) as error:
            if str(error).startswith("compare_cells"):
                raise
            raise _failed(t, error, given) from error
        except Exception as error:
            raise _failed(t, error, given) from error

    # --- differences ----------------------------------------------------------------------------

    def differences(self) -> Iterator[Difference]:
        """Yield one difference for each array that differs, step by step."""
        for t, ran in enumerate(self.steps):
            computed = (*self.gates, *reversed(self.parts))  # in the order of a step: h is the last
            both = ran.mine.values.keys() & ran.reference.values.keys()
            inputs = (*self.parameters, *self.parts, "x")
            yield from self._differing("forward", t, [n for n in computed if n in both], ran)
            yield from self._differing("backward", t, inputs, ran)

    def _differing(
        self, phase: Phase, t: int | None, names: Iterable[str], ran: _Ran
    ) -> Iterator[Difference]:
        """Yield the differences in values or gradients of these names; without ``t``, in all steps."""
        ours, theirs = (getattr(r, _RESULTS[phase]) for r in (ran.reference, ran.mine))
        for name in names:
            mine, reference = theirs[name], ours[name]
            excess = np.nan_to_num(ran.excess(mine, reference), nan=np.inf)
            if (excess <= 1).all():
                continue
            if t is None and excess.ndim == 3:  # the first step that differs
                excess[1 + int(np.argmax((excess > 1).any(axis=(1, 2)))) :] = 0
            index = np.unravel_index(int(np.argmax(excess)), mine.shape)
            entry = self._entry(name, index, t)
            yield Difference(phase, name, entry, float(mine[index]), float(reference[index]))

    def _entry(self, name: str, index: Any, t: int | None) -> Entry:
        if t is None and name in (OUTPUT, "x"):
            t, *index = map(int, index)
        if name == "x":
            return entry_of_input(index, t)
        if name in self.parameters:
            return entry_of_parameter(index, t, self.gates, self.units)
        return entry_of_state(index, t, name if name in self.gates else None)

    # --- a loop over time -----------------------------------------------------------------------

    def of_the_loop(self) -> _LoopComparison:
        """Compare the whole sequence; return the differences and the mistakes that explain them."""
        given, parts = self.whole, self.parts
        steps, batch, _ = given["x"].shape
        shape = steps, batch, self.units
        cotangents: dict[str, Array] = {p: self.rng.standard_normal(shape[1:]) for p in parts}
        cotangents[OUTPUT] = self.rng.standard_normal(shape)
        last = steps - 1

        def run(loop: Loop, step: Step) -> StepResult:
            return run_step(lambda x: loop(step, x, parts), given, cotangents, self.device)

        mine = self._run(
            last, lambda x: returned_by_loop(self.mine(x), parts, shape), given, cotangents
        )
        right = run(RIGHT, self.reference)
        ran = _Ran(given, cotangents, self.rtol, mine, right)
        differences = [
            *self._differing("forward", None, (OUTPUT, *parts), ran),
            *self._differing("backward", None, given, ran),
        ]
        if not differences:
            return _LoopComparison([], [])

        def agrees(result: StepResult, what: str) -> bool:
            arrays = getattr(result, what)
            return all(ran.close(getattr(mine, what)[n], y) for n, y in arrays.items())

        results = [(loop.mistake, run(loop, self.formula)) for loop in loops_of(parts)]
        by_values = [(m, result) for m, result in results if agrees(result, "values")]
        exact = [m for m, result in by_values if agrees(result, "gradients")]
        forward = any(d.phase == "forward" for d in differences)
        return _LoopComparison(differences, exact or [m for m, _ in by_values if forward])

    # --- mistakes -------------------------------------------------------------------------------

    def mistakes(self) -> list[Mistake]:
        """Return the mistakes that give the student's values and gradients.

        If there is none and the values are wrong, return the mistakes that give these values.
        """
        planted = [(m, m.planted_in(self.formula)) for m in mistakes_of(self.formula)]
        for lines in ONE_BIAS if not self.gates else ():
            base = self.formula.changed(lines)
            others = (m for m in mistakes_of(base) if m.lines and m.lines.keys().isdisjoint(lines))
            planted += [(m, m.planted_in(base)) for m in others]
        exact = [m for m, f in planted if self._agrees(f, self._values, self._gradients)]
        if exact or self._agrees(self.formula, self._values):
            return list(dict.fromkeys(exact))
        return list(dict.fromkeys(m for m, f in planted if self._agrees(f, self._values)))

    def _agrees(self, formula: Formula, *pairs_of: Callable[..., Any]) -> bool:
        """Whether a formula gives the student's numbers at all steps; most formulas differ at the first."""
        try:
            return all(
                ran.close(*pair)
                for ran in self.steps
                for pairs in pairs_of
                for pair in pairs(formula, ran)
            )
        except TinygradError:  # W is not square, so W h has no meaning
            return False

    def _values(self, formula: Formula, ran: _Ran) -> Iterator[tuple[Array, Array]]:
        found = self._computed(formula, ran)
        for part in self.parts:
            yield ran.mine.values[part], found[part].numpy()

    @modes_kept
    def _computed(self, formula: Formula, ran: _Ran) -> dict[str, Tensor]:
        with no_grad():
            return formula({n: tensor(a, device=self.device) for n, a in ran.given.items()})

    def _gradients(self, formula: Formula, ran: _Ran) -> Iterator[tuple[Array, Array]]:
        found = run_step(formula, ran.given, ran.cotangents, self.device).gradients
        for name, mine in ran.mine.gradients.items():
            yield mine, found[name]


# --- checks of the arguments ----------------------------------------------------------------------


def _check(mine: Any, reference: Any, names: Any) -> None:
    if not callable(mine):
        raise ArgumentError(
            f"compare_cells: mine is {brief(mine)}; pass a function step(x, h, c, ...) or a module"
        )
    if not isinstance(reference, Recurrent):
        raise ArgumentError(
            f"compare_cells: the reference is {brief(reference)}; pass a cell or layer such as "
            "tg.nn.LSTMCell(3, 4, rng=0)"
        )
    roles = names.values() if isinstance(names, Mapping) else [names]
    if names is not None and not all(
        isinstance(each, (str, tuple)) and names is not each for each in roles
    ):
        raise ArgumentError(
            f"compare_cells: names is {brief(names)}; pass a dict such as {{'x2h.weight': 'weight_ih'}}"
        )
    if isinstance(mine, type):
        raise ArgumentError(
            f"compare_cells: mine is the class {mine.__name__}; pass an instance, {mine.__name__}(...)"
        )
    for layer in (mine, reference):
        if isinstance(layer, RecurrentLayer) and (layer.num_layers > 1 or layer.bidirectional):
            raise ArgumentError(
                "compare_cells: a layer must have num_layers=1 and one direction, so that it is one cell"
            )


def _parameters_of(reference: Recurrent, rng: np.random.Generator) -> dict[str, Array]:
    """The parameters by PyTorch's names. A single bias is split into two that add up to it."""
    named = dict(reference.named_parameters())
    found = {n.removesuffix("_l0"): p.numpy().astype(float) for n, p in named.items()}
    bias = found.get("bias_ih", np.zeros(len(found["weight_hh"])))
    second = rng.standard_normal(bias.shape) if "bias_ih" in found else bias
    biases = {"bias_ih": bias, "bias_hh": found.get("bias_hh", second)}
    if "bias_hh" not in found:
        biases["bias_ih"] = bias - second
    weights = {name: found[name] for name in ("weight_ih", "weight_hh")}
    others = {n: p for n, p in found.items() if not n.startswith(("weight_", "bias_"))}
    return biases | weights | others


def _inputs(x: Any, reference: Recurrent) -> Array:
    inputs = _host(x)
    if inputs.ndim != 3 or inputs.shape[2] != reference.input_size or 0 in inputs.shape:
        raise ShapeError(
            f"compare_cells: x has shape {inputs.shape}; it must be (T, B, {reference.input_size}), at "
            "least one step of one sequence"
        )
    return inputs


def _initial(
    state: Any, parts: tuple[str, ...], shape: tuple[int, int], rng: np.random.Generator
) -> dict[str, Array]:
    """The state before the first step: the given one, or a random one."""
    if state is None:
        return {part: 0.5 * rng.standard_normal(shape) for part in parts}
    given = state if isinstance(state, (tuple, list)) else (state,)
    arrays = [_host(part) for part in given]
    if [a.shape for a in arrays] != [shape] * len(parts):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ShapeError(
            f"compare_cells: the state has shapes {shapes}; pass {', '.join(parts)}, each (B, H) = {shape}"
        )
    return dict(zip(parts, arrays, strict=True))


def _host(x: Any) -> Array:
    array: Array = (x if isinstance(x, Tensor) else tensor(x)).numpy().astype(float)
    if not np.isfinite(array).all():
        raise ArgumentError("compare_cells: x or the state has numbers that are not finite")
    return array


def _failed(t: int, error: Exception, given: Mapping[str, Array]) -> ArgumentError:
    text = f"compare_cells: step {t} fails: {type(error).__name__}: {error}"
    if isinstance(error, (ShapeError, ValueError)):
        shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in given.items())
        text += (
            f"\nIt was given {shapes}. Rows of x and h are sequences, and weights have PyTorch's layout: "
            "the sums are x @ weight_ih.T + h @ weight_hh.T"
        )
    return ArgumentError(text)
