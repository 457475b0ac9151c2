"""Cell path (Q1e): three shares of an LSTM's gradient by its cell state, and the forget bias.

Along the cell path ∂c_t/∂c_{t−1} is diag(f_t), without a matrix product. How much of ∂L/∂c_{t−1}
comes that way in one step, how much through the hidden state and time, and how much from the local
loss is measured as signed shares; and, over the whole way back, how much went through no hidden
state at all, through one, through two … Everything stands beside the gates' own arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.catalogue import Experiment
from experiments.common import cell_views, options
from experiments.common.cell_paths import Paths, see_paths
from experiments.common.cell_views import percent
from experiments.common.cells import batch_of, regressor
from experiments.common.data import RandomSequences
from experiments.common.errors import OptionError
from experiments.common.fitting import fit
from experiments.common.flow import Target
from experiments.common.gates import sigmoid
from experiments.common.result import Claim, Result
from experiments.common.study import Moment
from experiments.common.untrained import UntrainedOptions
from models import RecurrentRegressor

ROUNDING = 1e-12
"""Largest relative error that rounding explains: 4,500 roundings of float64, for products along
T steps."""

HALF = 0.5
"""Above it, a part carries more of the gradient than all others together."""


@dataclass(frozen=True, kw_only=True)
class CellPathOptions(UntrainedOptions):
    """Options of cell-path."""

    forget_bias: tuple[float, ...] = (0.0, 1.0, 3.0, 5.0)
    """Added to the biases of the forget gates: one or several."""

    hops: int = 3
    """Hidden hops J that are told apart; what made more is summed up."""

    target: Target = "last"
    """Steps that enter the loss in training, and in the split by hops."""

    steps: int = 100
    """Training steps of the first network of each forget bias; with 0 none is trained."""

    learning_rate: float = 0.01
    """Step size of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.one_or_more("forget-bias", self.forget_bias)
        for bias in self.forget_bias:
            if not np.isfinite(bias):
                raise OptionError(f"--forget-bias must be a finite number, not {bias}")
        options.at_least("hops", self.hops, 0)
        options.at_least("steps", self.steps, 0)
        options.positive("learning-rate", self.learning_rate)

    @property
    def biases(self) -> list[float]:
        """Forget biases, once each."""
        return sorted(set(self.forget_bias))


def run(opts: CellPathOptions, progress: Progress) -> Result:
    """Measure the networks of every forget bias and seed, and train one of each bias."""
    networks = list(itertools.product(opts.biases, opts.seeds))
    total = len(networks) + len(opts.biases) * (opts.steps + bool(opts.steps))
    task = progress.add_task("forget biases", total=total)
    found = []
    for bias, seed in networks:
        model = regressor("lstm", opts.hidden_size, seed, forget_bias=bias)
        found += see(opts, model, bias, seed, "before")
        progress.advance(task)
        if not opts.steps or seed != opts.seed:
            continue
        progress.update(task, description=f"training, forget bias {bias:g}")
        training = fit(
            model,
            RandomSequences(opts.batch, opts.length),
            np.random.default_rng((seed, 2)),
            target=opts.target,
            steps=opts.steps,
            learning_rate=opts.learning_rate,
            advance=lambda: progress.advance(task),
        )
        if training.stopped:
            raise OptionError(f"{training.stopped}; choose a smaller --learning-rate")
        found += see(opts, model, bias, seed, "after")
        progress.advance(task)
    shown = [paths for paths in found if paths.seed == opts.seed]
    size = f"{opts.size}, seed {opts.seed}"
    return Result(
        options=opts,
        headline=headline(opts, found),
        reading=sentences(opts, found),
        claims=claims(opts, found),
        figures=cell_views.figures(shown, opts.target, size),
        tables=cell_views.tables(found, opts.target),
    )


def see(
    opts: CellPathOptions, model: RecurrentRegressor, bias: float, seed: int, moment: Moment
) -> list[Paths]:
    """Measure one network with both losses."""
    batch = batch_of(seed, opts.batch, opts.length)
    return [
        see_paths(model, batch, target, opts.hops, forget_bias=bias, seed=seed, moment=moment)
        for target in ("last", "all")
    ]


def pick(found: Sequence[Paths], bias: float, moment: str = "before") -> list[Paths]:
    """The networks of a forget bias, the loss at the last step, one for each seed."""
    return [p for p in found if (p.forget_bias, p.moment, p.target) == (bias, moment, "last")]


def claims(opts: CellPathOptions, found: Sequence[Paths]) -> tuple[Claim, ...]:
    """Three identities, and what forget gates near one half and near 1 do."""
    why = "The two are equal by the chain rule: the threshold is rounding in float64."
    said = [
        Claim(
            "At every step the three signed shares of ∂L/∂c_t sum to 1 (largest difference, "
            "relative to the sum of their sizes)",
            max(paths.sum_error for paths in found),
            ROUNDING,
            why=why,
        ),
        Claim(
            "Each of the three parts is what the gates give by hand (largest error at any step, "
            "relative to ‖∂L/∂c_t‖)",
            max(paths.part_error for paths in found),
            ROUNDING,
            why=why,
        ),
        Claim(
            "What went through no hidden state is (∏ f_s) ∘ δ_{c_T}, summed over the losses, by "
            "hand from the gates (largest relative error at any step)",
            max(paths.hop_error for paths in found),
            ROUNDING,
            why=why,
        ),
    ]
    majority = "One half: beyond it a part carries more than all others together."
    low, high = opts.biases[0], opts.biases[-1]
    if low <= 0:
        said.append(
            Claim(
                f"Untrained with forget bias {low:g}, the cell path alone is no highway: size of "
                "its share at step 1, largest of any seed, loss at the last step",
                max(abs(float(paths.alone[0])) for paths in pick(found, low)),
                HALF,
                why=majority,
            )
        )
    least = float(sigmoid(np.array(high - 1.0)) ** (opts.length - 1))
    said.append(
        Claim(
            f"With forget bias {high:g} the cell path alone lets ∂L/∂c_T pass to step 1: part of its "
            "norm that does, least of any seed, untrained, loss at the last step",
            min(paths.passed for paths in pick(found, high)),
            least,
            "at least",
            why=f"σ({high - 1:g})^{opts.length - 1}: what gates let pass whose input is 1 below the "
            "forget bias at every step.",
        )
    )
    return tuple(said)


def headline(opts: CellPathOptions, found: Sequence[Paths]) -> str:
    """One step against the whole way, for the smallest and the largest forget bias."""
    low, high = (pick(found, bias)[0] for bias in (opts.biases[0], opts.biases[-1]))
    said = (
        f"Untrained with forget bias {low.forget_bias:g}, {percent(low.one_step)} of ∂L/∂c comes over "
        f"the cell path in one step, and {percent(float(low.alone[0]))} of what reaches step 1 stayed "
        f"on it all the way from step {opts.length}"
    )
    if high is not low:
        said += (
            f"; with forget bias {high.forget_bias:g} the cell path lets {percent(high.passed)} pass, "
            f"which is {percent(float(high.alone[0]))} of what arrives"
        )
    return said + "."


def sentences(opts: CellPathOptions, found: Sequence[Paths]) -> tuple[str, ...]:
    """Where the highway is too simple a picture, and what the bias and training do."""
    said = []
    for bias in opts.biases:
        before = pick(found, bias)
        gone = [first_lag_below(paths.alone) for paths in before]
        lags = f"lag {min(lag for lag in gone if lag is not None)}" if any(gone) else None
        alone = ", ".join(f"{paths.alone[0]:+.2f}" for paths in before)
        text = (
            f"Forget bias {bias:g}, untrained: gates of {before[0].forget.mean():.2f} on average, "
            f"∂L/∂c changes by {before[0].slope:+.3f} decades a step. The cell path alone lets "
            f"{percent(before[0].passed)} pass to step 1 and has a share of {alone} there (one number "
            "per seed)"
        )
        text += f"; it is below one half first at {lags}." if lags else "."
        if after := pick(found, bias, "after"):
            text += (
                f" After {opts.steps} training steps: gates of {after[0].forget.mean():.2f}, "
                f"{after[0].slope:+.3f} decades a step, a share of {after[0].alone[0]:+.2f}."
            )
        said.append(text)
    said.append(
        "∂c_t/∂c_{t−1} = diag(f_t) along the cell path holds always; the highway, a gradient that "
        "reaches the past over it, does not. A gate of one half lets 2^−k pass after k steps. Where "
        "gates are open the path does let the gradient pass, but the paths that leave the cell "
        "through a hidden state and come back start from it at every step, add up, and can carry "
        "more than the path itself."
    )
    return tuple(said)


def first_lag_below(share: np.ndarray) -> int | None:
    """Smallest lag at which the share is under one half; None where there is none."""
    below = np.flatnonzero(share[::-1] < HALF)
    return int(below[0]) if len(below) else None


EXPERIMENT = Experiment(
    question="Why does an LSTM's gradient vanish more slowly: which way does it take back through "
    "time, and what does the forget bias change?",
    options=CellPathOptions,
    run=run,
    letter="Q1e",
    predict="An LSTM with random weights and no forget bias: of the gradient by the cell state at "
    "step 1, with the loss at step 30, which share went through the cell states alone, and not once "
    "through a hidden state? Draw the share against the number of steps back, and again for a forget "
    "bias of 5.",
)
