"""A loop over time that somebody wrote: one step of it, the whole of it, and what goes wrong in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError, brief
from ...tensors.creation import tensor
from ...tensors.functions import stack
from ...tensors.tensor import Tensor
from .calling import Given
from .mistakes import Mistake

State = dict[str, Any]
"""The parts of a state, by their names."""

OUTPUT = "output"
"""What a sequence gives beside the last state: the first part of the state at every step."""


# --- what a loop returns --------------------------------------------------------------------------


def read(result: Any, state: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the outputs and the last state, in whatever a loop over time returns.

    Parameters
    ----------
    result : Any
        ``(output, h)`` or ``(output, (h, c))``, as our layers return them; the states of all steps, one
        array for each part; or the outputs alone where the state has no other part.
    state : tuple of str
    shape : tuple of int
        That of the outputs, ``(T, B, H)``.

    Raises
    ------
    ArgumentError
        It is none of these.
    """
    items = list(result) if isinstance(result, tuple) else [result]
    items = [_stacked(item, shape) for item in items]
    output, rest = items[0], items[1:]
    if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
        rest = list(rest[0])
    if isinstance(output, Tensor) and output.shape == shape:
        if len(rest) >= len(state):
            last = [_last(part, shape) for part in rest[: len(state)]]
            if all(part is not None for part in last):
                return {OUTPUT: output, **dict(zip(state, last, strict=True))}
        last = [_last(part, shape) for part in [output, *rest][: len(state)]]
        if len(last) == len(state) and all(part is not None for part in last):
            return {OUTPUT: output, **dict(zip(state, last, strict=True))}
    wanted = state[0] if len(state) == 1 else f"({', '.join(state)})"
    raise ArgumentError(
        f"compare_cells: yours returns {brief(result)} for a sequence; return (output, {wanted}), with "
        f"output of shape (T, B, H), which is {shape} here, and the last state"
    )


def _stacked(item: Any, shape: tuple[int, ...]) -> Any:
    """A list of the states of all steps as one array."""
    if isinstance(item, np.ndarray):
        return tensor(item)
    if not isinstance(item, list) or len(item) != shape[0]:
        return item
    return (
        stack(item) if all(isinstance(y, Tensor) and y.shape == shape[1:] for y in item) else item
    )


def _last(part: Any, shape: tuple[int, ...]) -> Any:
    """The last state, of one array: of itself, of one layer, or of all steps."""
    if not isinstance(part, Tensor):
        return None
    if part.shape == shape[1:]:
        return part
    return part[-1] if part.shape in (shape, (1, *shape[1:])) else None


# --- a right loop, and wrong ones -----------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """A loop over time, and where it differs from a right one.

    Attributes
    ----------
    name, sentence : str
        The mistake.
    begins : callable
        ``begins(before, first)``: the state that a step begins with, of the state after the step before and
        the initial state.
    first : callable
        ``first(initial)``: the state that the first step begins with.
    input : callable
        ``input(t, T)``: which of the T inputs step t reads.
    output : callable
        ``output(states, t)``: which state is the output of step t; ``states[0]`` is the initial one.
    last : int
        Which state is returned as the last.
    """

    name: str = ""
    sentence: str = ""
    begins: Callable[[State, State], State] = lambda before, first: before
    first: Callable[[State], State] = lambda initial: initial
    input: Callable[[int, int], int] = lambda t, steps: t
    output: Callable[[list[State], int], State] = lambda states, t: states[t + 1]
    last: int = -1

    @property
    def mistake(self) -> Mistake:
        """What is said of it."""
        return Mistake(self.name, self.sentence)

    def __call__(
        self, step: Callable[[Given], Mapping[str, Any]], given: Given, parts: Sequence[str]
    ) -> State:
        """Run a step over a sequence; return the outputs and the last state."""
        initial = self.first({part: given[part] for part in parts})
        states, steps = [initial], given["x"].shape[0]
        for t in range(steps):
            begin = initial if t == 0 else self.begins(states[-1], initial)
            found = step({**given, **begin, "x": given["x"][self.input(t, steps)]})
            states.append({part: found[part] for part in parts})
        outputs = [self.output(states, t)[parts[0]] for t in range(steps)]
        return {OUTPUT: stack(outputs), **states[self.last]}


RIGHT = Loop()


def _detached(state: State) -> State:
    return {part: value.detach() for part, value in state.items()}


def _zeros(state: State) -> State:
    return {part: 0 * value for part, value in state.items()}


# fmt: off
LOOPS = (
    Loop("state not carried on",
        "every step begins with the initial state; it has to begin with the state after the step before",
        begins=lambda before, first: first),
    Loop("initial state left out",
        "the loop begins with a state of zeros; it has to begin with the state that it is given",
        first=_zeros),
    Loop("same input at every step", "every step reads the first input; step t has to read x[t]",
        input=lambda t, steps: 0),
    Loop("same input at every step", "every step reads the last input; step t has to read x[t]",
        input=lambda t, steps: steps - 1),
    Loop("time reversed", "the steps read the inputs from the last to the first",
        input=lambda t, steps: steps - 1 - t),
    Loop("outputs in reverse order", "the output of the last step comes first",
        output=lambda states, t: states[len(states) - 1 - t]),
    Loop("output before the step",
        "the output of step t is the state before it; it has to be the state after it",
        output=lambda states, t: states[t]),
    Loop("same output at every step", "the output of every step is that of the last",
        output=lambda states, t: states[-1]),
    Loop("not the last state", "the state that is returned is that after the first step", last=1),
    Loop("not the last state", "the state that is returned is the initial one", last=0),
    Loop("gradient cut between steps",
        "no gradient goes from a step to the step before: the state was detached, or computed outside of "
        "the graph (numpy(), .data, no_grad)",
        begins=lambda before, first: _detached(before)),
    Loop("gradient cut between steps",
        "no gradient goes from a step to the state that it begins with: that was detached, or computed "
        "outside of the graph (numpy(), .data, no_grad)",
        begins=lambda before, first: _detached(before), first=_detached),
)
# fmt: on
"""What goes wrong in a loop over time whose step is right."""


def loops_of(parts: tuple[str, ...]) -> Iterator[Loop]:
    """Yield every mistake that a loop over a state of these parts can have."""
    yield from LOOPS
    if len(parts) > 1:
        for part in parts:
            yield _without(part)


def _without(part: str) -> Loop:
    return Loop(
        f"{part} not carried on",
        f"every step begins with the initial {part}; it has to begin with {part} after the step before",
        begins=lambda before, first: {**before, part: first[part]},
    )
