"""The mistakes that students make in a loop over time: a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...tensors.functions import stack
from .mistakes import Mistake
from .return_values import OUTPUT
from .student_cell import Given

State = dict[str, Any]
"""The parts of a state, by their names."""


@dataclass(frozen=True)
class Loop:
    """A loop over time, right or with one mistake.

    Attributes
    ----------
    name, sentence : str
        The mistake.
    begins : callable
        ``begins(before, first)`` returns the state that a later step begins with, from the state after the
        step before it and the initial state.
    first : callable
        ``first(initial)`` returns the state that the first step begins with.
    input : callable
        ``input(t, T)`` returns the index of the input that step t reads, of T inputs.
    output : callable
        ``output(states, t)`` returns the state that is the output of step t; ``states[0]`` is the initial
        state.
    last : int
        The index of the state that is returned as the last.
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
        """The mistake, as compare_cells reports it."""
        return Mistake(self.name, self.sentence)

    def __call__(
        self, step: Callable[[Given], Mapping[str, Any]], given: Given, parts: Sequence[str]
    ) -> State:
        """Run the step over a sequence and return the outputs and the last state."""
        initial = self.first({part: given[part] for part in parts})
        states, steps = [initial], given["x"].shape[0]
        for t in range(steps):
            begin = initial if t == 0 else self.begins(states[-1], initial)
            after = step({**given, **begin, "x": given["x"][self.input(t, steps)]})
            states.append({part: after[part] for part in parts})
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
        "no gradient goes from a step to the state that it begins with: it was detached, or computed "
        "outside of the graph (numpy(), .data, no_grad)",
        begins=lambda before, first: _detached(before), first=_detached),
)
# fmt: on
"""Mistakes in a loop over time whose step is right."""


def loops_of(parts: tuple[str, ...]) -> Iterator[Loop]:
    """Yield the loops with a mistake, for a state of these parts."""
    yield from LOOPS
    if len(parts) > 1:
        for part in parts:
            yield _not_carried_on(part)


def _not_carried_on(part: str) -> Loop:
    return Loop(
        f"{part} not carried on",
        f"every step begins with the initial {part}; it has to begin with {part} after the step before",
        begins=lambda before, first: {**before, part: first[part]},
    )
