"""Sentences on the loss at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.words import counts, spread
from experiments.questions.target.measure import Targets
from experiments.regressors.flow import FACTOR, FACTOR_DECADES

if TYPE_CHECKING:
    from experiments.questions.target import TargetOptions


def headline(opts: TargetOptions, found: Sequence[Targets]) -> str:
    """The total against a single loss, at the smallest radius."""
    drawn = [each for each in found if each.radius == found[0].radius]
    totals = [float(each.every[0] - each.every[-1]) for each in drawn]
    singles = [float(each.decay[-1, 0]) for each in drawn]
    words = [becomes(totals), becomes(singles)]
    link = "and" if words[0] == words[1] else "but"
    return (
        "With a loss at every step each state has a loss nearby, but no loss reaches further back than "
        f"without the others. At spectral radius {found[0].radius:g} ({opts.seeds_text}), the total "
        f"gradient {words[0]} on its way to step 0 ($‖∂L/∂h_0‖ / ‖∂L/∂h_{{T−1}}‖$ is {spread(totals)}), "
        f"{link} the gradient of the last loss alone {words[1]} ({spread(singles)} of it reaches step 0, "
        "whatever other losses there are)."
    )


def becomes(changes: Sequence[float]) -> str:
    """Verb for gradients that change by these decades."""
    vanished = sum(not change >= -FACTOR_DECADES for change in changes)
    if 0 < vanished < len(changes):
        return f"vanishes in {vanished} of {len(changes)} networks"
    return "vanishes" if vanished else "does not vanish"


def sentences(opts: TargetOptions, found: Sequence[Targets]) -> tuple[str, ...]:
    """Say what is the same at every radius, and where a single loss keeps reaching the first step."""
    said = []
    for radius in dict.fromkeys(each.radius for each in found):
        drawn = [each for each in found if each.radius == radius]
        total, single = (
            spread(float(values[0] - values[-1]) for values in each)
            for each in ([e.every for e in drawn], [e.last for e in drawn])
        )
        own = spread(float(log) for each in drawn for log in np.diag(each.matrix))
        local = sorted(float(np.nanmean(each.local)) for each in drawn)
        said.append(
            f"Spectral radius {radius:g}, {opts.seeds_text}: back to step 0 the total gradient is "
            f"multiplied by {total} with a loss at every step, by {single} with the last alone. The first "
            f"{counts(each.reach for each in drawn)} of {opts.length} losses make up 90% of $∂L/∂h_0$. The "
            f"local gradient $‖∂L_k/∂h_k‖$ is {own}; its mean share in $∂L/∂h_t$ is "
            f"{' to '.join(dict.fromkeys(f'{share:.0%}' for share in (local[0], local[-1])))}."
        )
    if kept := [each for each in found if float(each.decay[-1, 0]) > -FACTOR_DECADES]:
        names = ", ".join(f"{each.radius:g} (seed {each.seed})" for each in kept)
        said.append(
            f"The decay depends on the initial values: more than 1/{FACTOR} of the last loss's gradient "
            f"reaches step 0 at spectral radius {names}."
        )
    return tuple(said)
