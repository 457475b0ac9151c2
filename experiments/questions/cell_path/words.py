"""The three shares of the gradient in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import counted, per_step, percent
from experiments.questions.cell_path.measure import Paths, pick

if TYPE_CHECKING:
    from experiments.questions.cell_path import CellPathOptions


HALF = 0.5
"""Above it, a part carries more of the gradient than all others together."""


def headline(opts: CellPathOptions, found: Sequence[Paths]) -> str:
    """The reason, then one step against the whole way, for the smallest and the largest forget bias."""
    low, high = (pick(found, bias)[0] for bias in (opts.biases[0], opts.biases[-1]))
    said = (
        "The cell state is multiplied by the forget gate alone, never by a matrix. But paths that leave "
        "the cell through a hidden state and come back start at every step, and over many steps they add "
        f"up. With forget bias {low.forget_bias:g} the cell path brings {percent(low.one_step)} of "
        "$∂L/∂c_t$ in one step (median); alone, all the way from the last step, it brings "
        f"{percent(float(low.alone[0]))} of $∂L/∂c_0$"
    )
    if high is not low:
        said += (
            f". With forget bias {high.forget_bias:g} the gates let {power_text(high.passed_log10)} of the "
            f"gradient's norm pass, and the cell path alone brings {percent(float(high.alone[0]))} of "
            "$∂L/∂c_0$"
        )
    return f"{said} (seed {low.seed}, untrained, loss at the last of {opts.length} steps)."


def sentences(opts: CellPathOptions, found: Sequence[Paths]) -> tuple[str, ...]:
    """Sentences on the bias, on training, and on where the cell path carries the gradient."""
    said = []
    for bias in opts.biases:
        before = pick(found, bias)
        text = (
            f"Untrained with forget bias {bias:g}, the gates are "
            f"{_each(f'{p.forget.mean():.2f}' for p in before)} on average ({opts.seeds_text}). Going "
            f"back, $∂L/∂c_t$ {per_step(p.slope for p in before)}. The cell path alone keeps "
            f"{_each(power_text(p.passed_log10) for p in before)} of the norm on its way to $c_0$, and "
            f"brings {_each(percent(float(p.alone[0])) for p in before)} of what arrives there. Its share "
            f"falls below one half {_each(_lag(p) for p in before)}."
        )
        if after := pick(found, bias, "after"):
            text += (
                f" After {counted(opts.steps, 'training step')} (seed {after[0].seed}) the gates are "
                f"{after[0].forget.mean():.2f}, the gradient {per_step([after[0].slope])}, and the cell "
                f"path alone brings {percent(float(after[0].alone[0]))}."
            )
        said.append(text)
    untrained = [paths for bias in opts.biases for paths in pick(found, bias)]
    return (*said, highway(untrained))


def highway(untrained: Sequence[Paths]) -> str:
    """Count the networks whose cell path alone carries the gradient, and say why others do not."""
    carried = [paths for paths in untrained if paths.alone[0] > HALF]
    open_gates = [paths for paths in untrained if paths.passed > HALF]
    outweighed = [paths for paths in open_gates if paths.alone[0] <= HALF]
    biases = sorted({paths.forget_bias for paths in carried})
    which = f", with forget bias {', '.join(f'{bias:g}' for bias in biases)}" if biases else ""
    said = (
        "Along the cell path one step multiplies the gradient by $f_t$, always. But more than half of "
        f"$∂L/∂c_0$ comes over the cell path alone in {len(carried)} of {len(untrained)} untrained "
        f"networks{which}."
    )
    if outweighed:
        said += (
            f" In {len(outweighed)} of the {len(open_gates)} where the gates let more than half of the "
            "norm pass, the cell path still brings at most half: paths that leave the cell through a "
            "hidden state and come back start at every step, add up, and carry as much or more."
        )
    return said


def _each(texts: Iterable[str]) -> str:
    """Join one text for each seed."""
    return ", ".join(texts)


def _lag(paths: Paths) -> str:
    lag = first_lag_below(paths.alone)
    return "nowhere" if lag is None else f"{counted(lag, 'step')} back"


def first_lag_below(share: np.ndarray) -> int | None:
    """The number of steps back at which the share first falls below one half; None where it never does."""
    below = np.flatnonzero(share[::-1] < HALF)
    return int(below[0]) if len(below) else None
