"""Cell path (Q1e): three shares of an LSTM's gradient by its cell state, and the forget bias.

Along the cell path ∂c_t/∂c_{t−1} is diag(f_t), without a matrix product. Signed shares say how much of
∂L/∂c_t came that way in one step, how much through the hidden state, and how much from the loss of the
step itself; and, over the whole way back, how much went through no hidden state, through one, two, …
Everything is compared with the gates' own arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result, identity
from experiments.questions.cell_path import figures, words
from experiments.questions.cell_path.lstm_by_hand import sigmoid
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
    """Paths through up to so many hidden states J are shown by their number; the others are added up."""

    target: Target = "last"
    """Steps that enter the loss in training, and in the split by hidden states on the way."""

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
    said = [
        identity(
            "The three shares of a step sum to 1",
            max(paths.sum_error for paths in found),
            "Largest difference from 1 at any step, relative to the sum of their sizes",
        ),
        identity(
            "Each of the three parts is what the gates give by hand",
            max(paths.part_error for paths in found),
            "Largest error at any step, relative to $‖∂L/∂c_t‖$",
        ),
        identity(
            "What went through no hidden state is the product of the forget gates",
            max(paths.hop_error for paths in found),
            "Largest relative error at any step against $(∏ f_s) ∘ ∂L/∂c_{T−1}$ by hand, summed over the "
            "losses",
        ),
    ]
    low, high = opts.biases[0], opts.biases[-1]
    if low <= 0:
        said.append(
            Claim(
                f"With forget bias {low:g} little of the gradient comes the whole way over the cell alone",
                max(abs(float(paths.alone[0])) for paths in pick(found, low)),
                HALF,
                how="Size of the cell path's share of $∂L/∂c_0$, largest of any seed, untrained, loss at "
                "the last step",
                why="Beyond one half a part carries more than all others together.",
            )
        )
    least = float(sigmoid(np.array(high - 1.0)) ** (opts.length - 1))
    said.append(
        Claim(
            f"With forget bias {high:g} the cell path alone lets the gradient pass to the first step",
            min(paths.passed for paths in pick(found, high)),
            least,
            "at least",
            how="Part of the norm of $∂L/∂c_{T−1}$ that it passes to $c_0$, least of any seed, untrained, "
            "loss at the last step",
            why=f"$σ({high - 1:g})^{{{opts.length - 1}}}$: what gates let pass whose input is 1 below the "
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
    predict="An LSTM with random weights and no forget bias runs for 30 steps, with the loss at the last. "
    "Which share of the gradient by the first cell state went through the cell states alone, and not once "
    "through a hidden state? Draw the share against the number of steps back, and again for a forget "
    "bias of 5.",
)
