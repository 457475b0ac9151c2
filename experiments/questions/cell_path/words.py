"""The three shares of the gradient in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing.tables import power_text
from experiments.drawing.words import percent
from experiments.questions.cell_path.measure import Paths, pick

if TYPE_CHECKING:
    from experiments.questions.cell_path import CellPathOptions


HALF = 0.5
"""Above it, a part carries more of the gradient than all others together."""


def headline(opts: CellPathOptions, found: Sequence[Paths]) -> str:
    """One step against the whole way, for the smallest and the largest forget bias."""
    low, high = (pick(found, bias)[0] for bias in (opts.biases[0], opts.biases[-1]))
    said = (
        f"Seed {low.seed}, untrained: with forget bias {low.forget_bias:g} the cell path has a share of "
        f"{percent(low.one_step)} of ∂L/∂c_t in one step (median) and alone, all the way from step "
        f"{opts.length}, a share of {percent(float(low.alone[0]))} of ∂L/∂c_1"
    )
    if high is not low:
        said += (
            f"; with forget bias {high.forget_bias:g} it alone keeps {power_text(high.passed_log10)} of "
            f"the norm of ∂L/∂c_{opts.length}, and has a share of {percent(float(high.alone[0]))} of "
            "∂L/∂c_1"
        )
    return said + "."


def sentences(opts: CellPathOptions, found: Sequence[Paths]) -> tuple[str, ...]:
    """Sentences on the bias, on training, and on where the cell path carries the gradient."""
    said = []
    for bias in opts.biases:
        before = pick(found, bias)
        text = (
            f"Forget bias {bias:g}, untrained, {_seeds(before)}: gates of "
            f"{_each(f'{p.forget.mean():.2f}' for p in before)} on average; ∂L/∂c changes by "
            f"{_each(f'{p.slope:+.3f}' for p in before)} decades a step. The cell path alone keeps "
            f"{_each(power_text(p.passed_log10) for p in before)} of the norm of ∂L/∂c_T and has a "
            f"share of {_each(percent(float(p.alone[0])) for p in before)} of ∂L/∂c_1; first lag with a "
            f"share below one half: {_each(_lag(p) for p in before)}."
        )
        if after := pick(found, bias, "after"):
            text += (
                f" After {opts.steps} training steps, seed {after[0].seed}: gates of "
                f"{after[0].forget.mean():.2f}, {after[0].slope:+.3f} decades a step, a share of "
                f"{percent(float(after[0].alone[0]))}."
            )
        said.append(text)
    untrained = [paths for bias in opts.biases for paths in pick(found, bias)]
    return (*said, highway(untrained))


def highway(untrained: Sequence[Paths]) -> str:
    """For how many networks the cell path alone carries the gradient to step 1, and why it may not."""
    carried = [paths for paths in untrained if paths.alone[0] > HALF]
    open_gates = [paths for paths in untrained if paths.passed > HALF]
    outweighed = [paths for paths in open_gates if paths.alone[0] <= HALF]
    biases = sorted({paths.forget_bias for paths in carried})
    which = f" (forget bias {', '.join(f'{bias:g}' for bias in biases)})" if biases else ""
    said = (
        "∂c_t/∂c_{t−1} = diag(f_t) along the cell path holds always. The highway, more than half of "
        f"∂L/∂c_1 over the cell path alone, is there in {len(carried)} of {len(untrained)} untrained "
        f"networks{which}."
    )
    if outweighed:
        said += (
            f" In {len(outweighed)} of the {len(open_gates)} where it alone keeps more than half of the "
            "norm of ∂L/∂c_T, it has at most half of ∂L/∂c_1: paths that leave the cell through a hidden "
            "state and come back start at every step, add up, and carry as much or more."
        )
    return said


def _each(texts: Iterable[str]) -> str:
    """One for each seed."""
    return ", ".join(texts)


def _lag(paths: Paths) -> str:
    lag = first_lag_below(paths.alone)
    return "none" if lag is None else str(lag)


def _seeds(paths: Sequence[Paths]) -> str:
    first, last = paths[0].seed, paths[-1].seed
    return f"seeds {first} to {last}" if last > first else f"seed {first}"


def first_lag_below(share: np.ndarray) -> int | None:
    """Smallest lag at which the share is under one half; None where there is none."""
    below = np.flatnonzero(share[::-1] < HALF)
    return int(below[0]) if len(below) else None
