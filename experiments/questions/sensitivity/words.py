"""Sentences about the growth of the sensitivity with the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.words import short
from experiments.questions.sensitivity.lstm_cells import Cells
from experiments.questions.sensitivity.measure import FORMS, Unit, fitted_power, memory_of
from experiments.regressors.networks import gate_of

if TYPE_CHECKING:
    from experiments.questions.sensitivity import SensitivityOptions


def headline(units: Sequence[Unit]) -> str:
    """The reason, then by how much it grows."""
    plain, _, slow = ([unit for unit in units if unit.form is form] for form in FORMS)
    first, last = plain[0], plain[-1]
    return (
        "λ is used at every step, and a unit with a long memory adds up many uses that say the same. From "
        f"a memory of {short(first.memory)} steps to one of {short(last.memory)} the size of "
        f"$dh_{{T−1}}/dλ$ grows from {short(first.sensitivity)} to {short(last.sensitivity)}, though no "
        "gradient $∂h_{T−1}/∂h_t$ exceeds 1. With inputs scaled by $√(1 − λ^2)$ and the parameter ν of $λ "
        f"= exp(−exp ν)$, it goes from {short(slow[0].sensitivity)} to {short(slow[-1].sensitivity)}."
    )


def sentences(
    opts: SensitivityOptions, units: Sequence[Unit], gated: Sequence[Cells]
) -> tuple[str, ...]:
    """Single uses against their sum, each form's power, and the LSTM."""
    last = max((unit for unit in units if unit.form is FORMS[0]), key=lambda unit: unit.decay)
    peak = float(last.uses.max())
    said = [
        "A single use stays small: that at step $t$ contributes $λ^{T−1−t} h_{t−1}$, which is never "
        f"larger than the state before. With λ = {last.decay:g} the largest use has a size of "
        f"{short(peak)}; all {last.length:,} together have {short(last.sensitivity)}, "
        f"{short(last.sensitivity / peak)} times as much."
    ]
    for form in FORMS:
        some = [unit for unit in units if unit.form is form]
        power = fitted_power(some, opts.batch)
        said.append(
            f"Parameter {form.name}: {form.why}. So $dh_{{T−1}}/dθ$ should grow as the memory to the power "
            f"{form.power:g}; the fitted power is {power.fitted:.2f}. Measured are "
            f"{', '.join(short(u.sensitivity) for u in some)} at memories of "
            f"{', '.join(short(u.memory) for u in some)} steps."
        )
    ratios = [
        float(np.median([cells.alone for cells in gated if cells.forget_bias == bias]))
        for bias in opts.biases
    ]
    wildest = max(gated, key=lambda cells: cells.whole.max())
    said.append(
        "In an LSTM with $W_h = 0$ the slope of the forget gate, $σ(1 − σ)$, shrinks as the number of uses "
        "grows. So a small change ε of the forget bias changes the cell state, relative to its size, by "
        f"{', '.join(f'{ratio:.2g}' for ratio in ratios)} times ε at memories of "
        f"{', '.join(short(memory_of(gate_of(b))) for b in opts.biases)} steps (median of all units, "
        f"{opts.seeds_text})."
    )
    said.append(
        "With $W_h$ as it is, gradients through h come on top, and gates do not bound those. The largest "
        f"change of any unit is {short(float(wildest.whole.max()))} times ε, with forget bias "
        f"{wildest.forget_bias:g} and seed {wildest.seed}."
    )
    return tuple(said)
