"""Find the known mistake that gives the gradients of a derivative written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ...errors import TinygradError
from ..grading.formulas import GRU_FORMULA, LSTM_FORMULA, PARAMETERS, RNN_FORMULA, Formula
from ..grading.mistakes import Mistake, mistakes_of
from ..grading.parameter_names import role_of
from ..grading.run_step import StepResult, run_step
from ..samples import Array
from .parameter_layout import Layout

Arrays = Mapping[str, Array]


class KnownCell:
    """A step in NumPy as one of our formulas, with PyTorch's names and layout of the parameters.

    ``given`` has the input, the state and the parameters by the student's names.
    """

    def __init__(self, given: Arrays, state: tuple[str, ...], layout: Layout) -> None:
        self.layout = layout
        roles = {name: role_of(name, dict.fromkeys(PARAMETERS), {}) for name in layout.shapes}
        self.names = {n: "bias_ih" if role == "bias" else role for n, role in roles.items()}
        self.names |= {name: name for name in ("x", *state)}
        self.formula = _formula(layout.gates, state)
        self.given = self._translated(given)
        rows = len(self.given.get("weight_hh", ()))
        for bias in ("bias_ih", "bias_hh"):
            self.given.setdefault(bias, np.zeros(rows))

    def _translated(self, arrays: Arrays) -> dict[str, Array]:
        """Return inputs and parameters, or their gradients, by PyTorch's names and in its layout."""
        found = {}
        for name, array in arrays.items():
            if name not in self.layout.shapes:
                found[name] = array.T if self.layout.columns else array
            elif self.layout.is_bias(name):
                found[str(self.names[name])] = array.ravel()
            else:
                found[str(self.names[name])] = array if self.layout.in_rows else array.T
        return found

    def mistakes(
        self, after: Arrays, cotangents: Arrays, gradients: Arrays, close: Callable[..., bool]
    ) -> list[Mistake]:
        """Return the mistakes that give these gradients; none if the step is not our formula."""
        wanted = self._translated(gradients)
        after, cotangents = self._translated(after), self._translated(cotangents)
        if self.formula is None or not {"weight_ih", "weight_hh"} <= self.given.keys():
            return []
        run = partial(self._gives, cotangents=cotangents, values=after, close=close)
        if len(wanted) < len(gradients) or not run(self.formula, gradients={}):
            return []
        return [
            mistake
            for mistake in mistakes_of(self.formula)
            if run(mistake.planted_in(self.formula), gradients=wanted)
        ]

    def _gives(
        self,
        formula: Formula,
        cotangents: Arrays,
        values: Arrays,
        gradients: Arrays,
        close: Callable[..., bool],
    ) -> bool:
        try:
            found: StepResult = run_step(formula, self.given, cotangents, "cpu")
        except TinygradError:  # W is not square, so W h has no meaning
            return False
        pairs = [(values[name], found.values[name]) for name in values]
        pairs += [(gradients[name], found.gradients[name]) for name in gradients]
        return all(a.shape == b.shape and close(a, b) for a, b in pairs)


def _formula(gates: tuple[str, ...], state: tuple[str, ...]) -> Formula | None:
    """Return the formula of a cell with these gates in this order, if there is one."""
    for formula in (LSTM_FORMULA, GRU_FORMULA):
        if sorted(gates) == sorted(formula.gates) and state == formula.state:
            return formula.changed({}, gates=gates)
    return RNN_FORMULA if not gates and state == RNN_FORMULA.state else None
