"""How the sensitivity grows with the memory, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.words import short
from experiments.questions.sensitivity.cells import Cells
from experiments.questions.sensitivity.measure import FORMS, Unit, fitted_power, memory_of
from experiments.regressors.networks import gate_of

if TYPE_CHECKING:
    from experiments.questions.sensitivity import SensitivityOptions


def headline(units: Sequence[Unit]) -> str:
    """Why it grows, and by how much."""
    plain, _, slow = ([unit for unit in units if unit.form is form] for form in FORMS)
    first, last = plain[0], plain[-1]
    return (
        "λ is used at every step, and a unit with a long memory adds up many uses that say the same: "
        f"from a memory of {short(first.memory)} steps to one of {short(last.memory)} the size of dh_T/dλ "
        f"grows from {short(first.sensitivity)} to {short(last.sensitivity)}, though no gradient ∂h_T/∂h_t "
        "exceeds 1. "
        "With inputs scaled by √(1 − λ²) and the parameter ν, λ = exp(−exp ν), it goes from "
        f"{short(slow[0].sensitivity)} to {short(slow[-1].sensitivity)}."
    )


def sentences(
    opts: SensitivityOptions, units: Sequence[Unit], gated: Sequence[Cells]
) -> tuple[str, ...]:
    """Single uses against their sum, each form's power, and the LSTM."""
    last = max((unit for unit in units if unit.form is FORMS[0]), key=lambda unit: unit.decay)
    peak = float(last.uses.max())
    said = [
        "The use of λ at step t contributes λ^(T−t) h_(t−1), which is never larger than the state before. "
        f"With λ = {last.decay:g} the largest has a size of {short(peak)}; the sum of all {last.length:,} "
        f"has {short(last.sensitivity)}, {short(last.sensitivity / peak)} times as much."
    ]
    for form in FORMS:
        some = [unit for unit in units if unit.form is form]
        power = fitted_power(some, opts.batch)
        said.append(
            f"Parameter {form.name}: {form.why}. So the size of dh_T/dθ should go as the memory to the "
            f"power {form.power:g}; fitted to {', '.join(short(u.sensitivity) for u in some)} at memories "
            f"of {', '.join(short(u.memory) for u in some)} steps, the power is {power.fitted:.2f}."
        )
    ratios = [
        float(np.median([cells.alone for cells in gated if cells.forget_bias == bias]))
        for bias in opts.biases
    ]
    wildest = max(gated, key=lambda cells: cells.whole.max())
    said.append(
        "LSTM with W_h = 0: the slope of its forget gate, σ(1 − σ), shrinks as the number of uses grows. "
        "So a change of the forget bias by a small ε changes the cell state c_T, relative to its size, by "
        f"{', '.join(f'{ratio:.2g}' for ratio in ratios)} times ε at memories of "
        f"{', '.join(short(memory_of(gate_of(b))) for b in opts.biases)} steps (median of all units, "
        f"{opts.seeds_text})."
    )
    said.append(
        "LSTM with W_h as it is: gradients through h come on top, and gates do not bound those. The "
        f"largest of any unit is {short(float(wildest.whole.max()))} times ε, with forget bias "
        f"{wildest.forget_bias:g} and seed {wildest.seed}."
    )
    return tuple(said)
