"""``compare_cells``: a cell that somebody wrote against one of ours, step by step and gate by gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...display.reprs import fold, shown, table, text
from ...engine.modes import modes_kept, no_grad
from ...errors import ArgumentError, ShapeError, TinygradError, brief
from ...nn.recurrent import Recurrent, RecurrentLayer
from ...tensors.creation import tensor
from ...tensors.tensor import Tensor
from ..samples import Array
from .calling import Caller
from .entry_names import Entry, entry_of_input, entry_of_parameter, entry_of_state
from .formulas import Formula, formula_of
from .mistakes import ONE_BIAS, Mistake, mistakes_of
from .mistakes_in_loops import OUTPUT, RIGHT, Loop, loops_of, read
from .run_step import Step, StepResult, run_step, step_of

RTOL = 1e-9
FLOOR = 1e-13
"""Rounding of numbers of size 1, which stays where a difference of such numbers is small."""


@dataclass(frozen=True)
class Difference:
    """An entry in which two cells differ: of all entries of one array, the one that differs most.

    Attributes
    ----------
    phase : {"forward", "backward"}
        Whether it is a value, or a gradient.
    name : str
        A gate or a part of the state; in the backward phase, what the gradient is taken by: ``"x"``, a part
        of the state before the step, or a parameter.
    entry : Entry
        Its step, gate, sequence and unit.
    mine, reference : float
        Both values.
    """

    phase: Literal["forward", "backward"]
    name: str
    entry: Entry
    mine: float
    reference: float

    @property
    def step(self) -> int | None:
        """The step, counted from 0."""
        return self.entry.step

    @property
    def gate(self) -> str | None:
        """The gate that the entry belongs to; None for one of a state or an input."""
        return self.entry.gate

    def __str__(self) -> str:
        what = "" if self.name == self.gate else f"{self.name}, "
        what = what if self.phase == "forward" else f"gradient by {self.name}, "
        values = f"yours is {self.mine:.9g}, the reference's {self.reference:.9g}"
        return f"{self.phase}, {what}{self.entry}: {values}"


@dataclass(frozen=True)
class CellComparison:
    """What :func:`compare_cells` found. It is true where the cells are equal.

    Attributes
    ----------
    steps : int
        How many steps were compared.
    differences : tuple of Difference
        One for each array that differs: values of all steps first, then gradients.
    mistakes : tuple of Mistake
        Those that give the student's numbers: more than one where they give the same numbers.
    """

    steps: int
    differences: tuple[Difference, ...] = ()
    mistakes: tuple[Mistake, ...] = field(default=())

    @property
    def equal(self) -> bool:
        """Whether all values and gradients are equal to rounding."""
        return not self.differences

    @property
    def first(self) -> Difference | None:
        """Where the cells differ first."""
        return self.differences[0] if self.differences else None

    @property
    def mistake(self) -> str | None:
        """The name of the mistake that was recognized; None where there is none."""
        return self.mistakes[0].name if self.mistakes else None

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:
        if self.first is None:
            return f"equal in {self.steps} steps, forward and backward"
        lines = [f"different: {self.first}"]
        lines += [f"mistake: {mistake}" for mistake in self.mistakes]
        return "\n".join(lines if self.mistakes else [*lines, "mistake: none that is known"])

    def _repr_html_(self) -> str:
        rows = [(d.phase, d.name, str(d.entry), d.mine, d.reference) for d in self.differences]
        header = ("phase", "of", "entry", "yours", "reference")
        head = "<br>".join(map(text, repr(self).splitlines()))
        return shown(fold(head, table(header, rows) if rows else "", opened=True))


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
    """Compare a cell with one of ours, and say where they differ first and which mistake explains it.

    Both cells run on the reference's parameters, in float64. At each step both begin with the reference's
    state, so the first step that differs is one whose rule differs, and nothing is carried to it from an
    earlier step. Compared are the gates, the next state, and the gradients by the input, the state and
    each parameter, of a loss that is a random linear function of the next state.

    A difference is then explained, if a known mistake explains it: each mistake is planted into the right
    formula, and those are named whose numbers are the student's at all steps.

    Parameters
    ----------
    mine : Module or callable
        One of

        - a function ``step(x, h, c, **parameters)`` or ``step(x, state, **parameters)`` of Tensors that
          returns the next state. Its parameters are named ``weight_ih`` or ``W_ih``, ``weight_hh`` or
          ``W_hh``, ``bias_ih`` or ``b_ih``, ``bias_hh`` or ``b_hh``, in PyTorch's layout; one ``b`` alone
          is the sum of both, ``W_if`` one gate's block, and ``params`` a dict of all. NumPy's functions
          take Tensors, so a step written in NumPy will do;
        - a module with such parameters, called as ``cell(x, state)``, or an object that keeps them as
          attributes;
        - a class of one's own of :class:`RecurrentCell` or :class:`RecurrentLayer`.

        Gates are compared where they can be seen: those that such a class declares, and in other code those
        that :func:`tinygrad182.inspect.mark` names: ``i = tg.inspect.mark(i, "i")``.
    reference : RecurrentCell or RecurrentLayer
        ``tg.nn.LSTMCell``, ``GRUCell`` or ``RNNCell``, or any other; of a layer, its one layer is used.
        Where it has one bias, that is drawn apart into two that add up to it.
    x : array or Tensor ``(T, B, I)``
        The inputs.
    state : array or tuple of arrays ``(B, H)``, optional
        The state before the first step; by default drawn, for errors do not show in a state of zeros.
    names : dict of str to str, optional
        What parameters and marks of the student are called in the reference, where they have other names:
        ``{"x2h.weight": "weight_ih"}``. ``"weight_ih.T"`` is a transpose, ``"weight_ih_f"`` the block of
        one gate, and ``("weight_hh", "weight_ih")`` both side by side, for a product with [h, x].
    sequence : bool
        Whether ``mine`` takes a whole sequence, as a layer does: ``mine(x, state)`` with x of shape
        ``(T, B, I)``, which returns ``(output, state)``. It is compared on sequences of one step first;
        where these are equal, on the whole sequence, so that a mistake in its loop over time is found.
    rtol : float
        The relative tolerance in float64. Where the student's code rounds to a coarser type, it is larger.
    seed : int
        Of what is drawn.

    Returns
    -------
    CellComparison
        True where the cells are equal, so that ``assert comparison, comparison`` is a test. Its ``first``
        says where they differ, its ``mistake`` why.

    Raises
    ------
    ArgumentError, ShapeError
        The cells cannot be compared: one fails, takes parameters of unknown names or other shapes, or
        returns another state.

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
    sequence = sequence and not isinstance(mine, RecurrentLayer)  # its loop is ours
    pair = _Pair(mine, reference, x, state, names or {}, sequence, seed)
    differences = sorted(pair.differences(rtol), key=lambda d: d.phase == "backward")
    mistakes = pair.mistakes(rtol) if differences else []
    if sequence and not mistakes:
        more, mistakes = pair.of_the_loop(rtol)
        differences = differences or more
    return CellComparison(len(pair.steps), tuple(differences), tuple(mistakes))


_OF = {"forward": "values", "backward": "gradients"}


@dataclass(frozen=True)
class _Ran:
    """A step that both cells ran."""

    given: dict[str, Array]
    cotangents: dict[str, Array]
    mine: StepResult
    reference: StepResult


class _Pair:
    """Two cells, and what they gave at each step."""

    def __init__(
        self,
        mine: Callable[..., Any],
        reference: Recurrent,
        x: Any,
        state: Any,
        names: Mapping[str, Any],
        sequence: bool,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        scan = reference.scan
        self.gates = scan.gates if len(scan.gates) > 1 else ()  # a single one is the state
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
            own, ours = (self._run(t, step, given, cotangents) for step in steps)
            self.steps.append(_Ran(given, cotangents, own, ours))
            before = {part: ours.values[part] for part in self.parts}

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

    def differences(self, rtol: float) -> Iterator[Difference]:
        """Yield one for each array that differs, step by step."""
        for t, ran in enumerate(self.steps):
            seen = [name for name in self._order() if name in ran.mine.values]
            for name in seen:
                found = ran.mine.values[name], ran.reference.values.get(name)
                yield from self._difference("forward", t, name, found, ran, rtol)
            for name in (*self.parameters, *self.parts, "x"):
                found = ran.mine.gradients[name], ran.reference.gradients[name]
                yield from self._difference("backward", t, name, found, ran, rtol)

    def _order(self) -> tuple[str, ...]:
        """Gates and states in the order in which a step computes them: the output last."""
        return (*self.gates, *reversed(self.parts))

    def _difference(
        self, phase: Any, t: int | None, name: str, found: Any, ran: _Ran, rtol: float
    ) -> Iterator[Difference]:
        mine, reference = found
        if reference is None:
            return
        excess = _excess(mine, reference, ran, rtol)
        if not (excess <= 1).all():
            excess = np.nan_to_num(excess, nan=np.inf)
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

    def of_the_loop(self, rtol: float) -> tuple[list[Difference], list[Mistake]]:
        """Return the differences over a whole sequence, and the mistakes in a loop that give them."""
        given, parts = self.whole, self.parts
        steps, batch, _ = given["x"].shape
        shape = steps, batch, self.units
        cotangents: dict[str, Array] = {p: self.rng.standard_normal(shape[1:]) for p in parts}
        cotangents[OUTPUT] = self.rng.standard_normal(shape)
        last = steps - 1

        def run(loop: Loop, step: Step) -> StepResult:
            return run_step(lambda x: loop(step, x, parts), given, cotangents, self.device)

        mine = self._run(last, lambda x: read(self.mine(x), parts, shape), given, cotangents)
        right = run(RIGHT, self.reference)
        ran = _Ran(given, cotangents, mine, right)
        differences: list[Difference] = []
        for phase, names in (("forward", (OUTPUT, *parts)), ("backward", tuple(given))):
            for name in names:
                found = getattr(mine, _OF[phase])[name], getattr(right, _OF[phase])[name]
                differences += self._difference(phase, None, name, found, ran, rtol)
        if not differences:
            return [], []

        def agrees(found: StepResult, *of: str) -> bool:
            pairs = [(getattr(mine, w)[n], y) for w in of for n, y in getattr(found, w).items()]
            return all((_excess(a, b, ran, rtol) <= 1).all() for a, b in pairs)

        tried = [(loop.mistake, run(loop, self.formula)) for loop in loops_of(parts)]
        close = [(m, found) for m, found in tried if agrees(found, "values")]
        exact = [m for m, found in close if agrees(found, "gradients")]
        forward = any(d.phase == "forward" for d in differences)
        return differences, exact or [m for m, _ in close if forward]

    # --- mistakes -------------------------------------------------------------------------------

    def mistakes(self, rtol: float) -> list[Mistake]:
        """List the mistakes that give what the student's cell gives.

        If none gives all its values and gradients, those that give its values, if these are wrong.
        """
        planted = [(m, m.planted_in(self.formula)) for m in mistakes_of(self.formula)]
        for lines in ONE_BIAS if not self.gates else ():
            base = self.formula.changed(lines)
            others = (m for m in mistakes_of(base) if m.lines and m.lines.keys().isdisjoint(lines))
            planted += [(m, m.planted_in(base)) for m in others]
        exact = [m for m, f in planted if self._agrees(f, rtol, self._values, self._gradients)]
        if exact or self._agrees(self.formula, rtol, self._values):
            return list(dict.fromkeys(exact))
        return list(dict.fromkeys(m for m, f in planted if self._agrees(f, rtol, self._values)))

    def _agrees(self, formula: Formula, rtol: float, *find: Callable[..., Any]) -> bool:
        """Whether a formula gives what the student's cell gives, at all steps; most differ at the first."""
        try:
            pairs = (pair for ran in self.steps for each in find for pair in each(formula, ran))
            return all((_excess(a, b, ran, rtol) <= 1).all() for a, b, ran in pairs)
        except TinygradError:  # W h has no meaning where W is not square
            return False

    def _values(self, formula: Formula, ran: _Ran) -> Iterator[tuple[Array, Array, _Ran]]:
        found = self._computed(formula, ran)
        for part in self.parts:
            yield ran.mine.values[part], found[part].numpy(), ran

    @modes_kept
    def _computed(self, formula: Formula, ran: _Ran) -> dict[str, Tensor]:
        with no_grad():
            return formula({n: tensor(a, device=self.device) for n, a in ran.given.items()})

    def _gradients(self, formula: Formula, ran: _Ran) -> Iterator[tuple[Array, Array, _Ran]]:
        found = run_step(formula, ran.given, ran.cotangents, self.device).gradients
        for name, mine in ran.mine.gradients.items():
            yield mine, found[name], ran


def _excess(mine: Array, reference: Array, ran: _Ran, rtol: float) -> Array:
    """How many times the difference is what is allowed."""
    epsilon = ran.mine.epsilon
    coarser = max(1.0, epsilon / np.finfo(float).eps)
    largest = np.abs(reference).max(initial=0.0)
    sizes = [np.abs(a).max(initial=1.0) for a in ran.given.values()]
    allowed = max(rtol, 1e3 * epsilon * (coarser > 1)) * largest + FLOOR * coarser * max(sizes) ** 2
    return np.asarray(np.abs(mine - reference) / allowed)


# --- what is given --------------------------------------------------------------------------------


def _check(mine: Any, reference: Any, names: Any) -> None:
    if not callable(mine):
        raise ArgumentError(
            f"compare_cells: mine is {brief(mine)}; pass a function step(x, h, c, ...) or a module"
        )
    if not isinstance(reference, Recurrent):
        raise ArgumentError(
            f"compare_cells: the reference is {brief(reference)}; pass a cell or layer of ours, such as "
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
    """The parameters by PyTorch's names, with two biases that add up to the one of ours."""
    named = dict(reference.named_parameters())
    found = {n.removesuffix("_l0"): p.numpy().astype(float) for n, p in named.items()}
    whole = found.get("bias_ih", np.zeros(len(found["weight_hh"])))
    second = rng.standard_normal(whole.shape) if "bias_ih" in found else whole
    second = found.get("bias_hh", second)
    if "bias_hh" not in found:
        whole = whole - second
    others = {n: p for n, p in found.items() if not n.startswith(("weight_", "bias_"))}
    return {
        "bias_ih": whole,
        "bias_hh": second,
        "weight_ih": found["weight_ih"],
        "weight_hh": found["weight_hh"],
        **others,
    }


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
    """The state before the first step, drawn where none is given."""
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
            f"\nIt was given {shapes}: rows are sequences, and weights lie as in PyTorch, so that the sums "
            "are x @ weight_ih.T + h @ weight_hh.T"
        )
    return ArgumentError(text)
