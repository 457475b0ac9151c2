"""Cell path (Q1e): three shares of an LSTM's gradient by its cell state, and the forget bias.

Along the cell path ∂c_t/∂c_{t−1} is diag(f_t), without a matrix product. How much of ∂L/∂c_{t−1}
comes that way in one step, how much through the hidden state and time, and how much from the local
loss is measured as signed shares; and, over the whole way back, how much went through no hidden
state at all, through one, through two … Everything stands beside the gates' own arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.tables import power_text
from experiments.drawing.words import percent
from experiments.questions.cell_path import figures as views
from experiments.questions.cell_path.gates import sigmoid
from experiments.questions.cell_path.measure import Paths, see_paths
from experiments.regressors.data import RandomSequences, batch_of
from experiments.regressors.fitting import fit
from experiments.regressors.flow import Target
from experiments.regressors.networks import regressor
from experiments.regressors.study import Moment
from experiments.regressors.untrained import UntrainedOptions
from models import RecurrentRegressor

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
        options.finite("forget-bias", *self.forget_bias)
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
    return Result(
        options=opts,
        headline=headline(opts, found),
        reading=sentences(opts, found),
        claims=claims(opts, found),
        figures=views.figures(shown, opts.target, opts.drawn),
        tables=views.tables(found, opts.target),
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
                f"Untrained with forget bias {low:g}, the cell path alone is not a highway: size of "
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
    """What the bias and training do, and where the highway is there."""
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
