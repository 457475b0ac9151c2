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

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.questions.cell_path import figures, words
from experiments.questions.cell_path.gates import sigmoid
from experiments.questions.cell_path.measure import Paths, pick, see
from experiments.questions.cell_path.words import HALF
from experiments.regressors.data import RandomSequences
from experiments.regressors.fitting import fit
from experiments.regressors.flow import Target
from experiments.regressors.networks import regressor
from experiments.regressors.untrained import UntrainedOptions


@dataclass(frozen=True, kw_only=True)
class CellPathOptions(UntrainedOptions):
    """Options of cell-path."""

    forget_bias: tuple[float, ...] = (0.0, 1.0, 3.0, 5.0)
    """Added to the biases of the forget gates: one or several."""

    hops: int = 3
    """Hidden hops J that are shown one by one; paths with more are summed up."""

    target: Target = "last"
    """Steps that enter the loss in training, and in the split by hops."""

    steps: int = 100
    """Training steps of the first network of each forget bias; with 0 none is trained."""

    learning_rate: float = 0.01
    """Step size of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.finite("forget_bias")
        self.at_least(0, "hops", "steps")
        self.positive("learning_rate")

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
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures(shown, opts.target, opts.drawn),
        tables=figures.tables(found, opts.target),
    )


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
