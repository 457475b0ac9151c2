"""h-detach: what is lost and won when the gradient through an LSTM's hidden state is blocked.

A gradient goes back over two ways: the cell path, on which it is multiplied by the forget gate, and the
hidden path, on which it is multiplied by a matrix too. h-detach [1]_ blocks the second at each step with a
probability p. The mean of what is left is known exactly: a path through j hidden states stays open with
probability (1 − p)^j, and one pass measures the gradient by the number of hidden states on its way.

How much is won and lost differs from seed to seed. Of seeds 0 to 29, with the default sizes, the gradient
grows by 0.09 to 2.5 decades on its way back with forget bias 5 and weights × 4, and what blocking leaves
has a cosine of -0.03 to 1 with the true gradient of all parameters; no claim is made about that.

References
----------
.. [1] Kanuparthi, Arpit, Kerg, Ke, Mitliagkas and Bengio, "h-detach: Modifying the LSTM Gradient Towards
   Better Optimization", 2019.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result, identity
from experiments.questions.h_detach import figures, words
from experiments.questions.h_detach.measure import Network, arrived, growth, see
from experiments.regressors.data import batch_of
from experiments.regressors.networks import regressor
from experiments.regressors.untrained import UntrainedOptions

HALF = 0.5
"""Below it, more of a gradient is lost than is left."""

LONGEST = 400
"""Most time steps T: a gradient split by hidden states into T parts holds T² · B · H numbers."""


@dataclass(frozen=True, kw_only=True)
class HDetachOptions(UntrainedOptions):
    """Options of h-detach."""

    length: int = 50
    """Time steps T."""

    repeats: int = 3
    """Networks drawn of each kind, with seed, seed + 1, …: claims are about all of them, curves show
    the first."""

    forget_bias: tuple[float, ...] = (0.0, 5.0)
    """Added to the biases of the forget gates: one or several."""

    scale: tuple[float, ...] = (1.0, 4.0)
    """Factors on W_h and W_x. Initial values are uniform in ±1/√H."""

    block: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Probabilities p with which h is blocked at a step, beside 0 and 1, which are always measured."""

    draws: int = 16
    """Draws of the blocked steps from which the noise of a single one is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_most(LONGEST, "length")
        self.finite("forget_bias")
        self.positive("scale")
        self.at_least(1, "draws")
        for value in self.block:
            if not 0 <= value <= 1:
                raise OptionError(f"--block must be a probability from 0 to 1, not {value}")

    @property
    def blocks(self) -> list[float]:
        """Probabilities, once each, from 0 to 1."""
        return sorted({0.0, 1.0, *self.block})


def run(opts: HDetachOptions, progress: Progress) -> Result:
    """Measure the networks of every forget bias, scale and seed."""
    settings = list(
        itertools.product(sorted(set(opts.forget_bias)), sorted(set(opts.scale)), opts.seeds)
    )
    task = progress.add_task("LSTMs", total=len(settings))
    found = []
    for bias, scale, seed in settings:
        progress.update(task, description=f"forget bias {bias:g}, weights × {scale:g}, seed {seed}")
        model = regressor("lstm", opts.hidden_size, seed, forget_bias=bias, scale=scale)
        batch = batch_of(seed, opts.batch, opts.length)
        found.append(
            see(model, batch, opts.blocks, opts.draws, forget_bias=bias, scale=scale, seed=seed)
        )
        progress.advance(task)
    shown = [network for network in found if network.seed == opts.seed]
    return Result(
        options=opts,
        headline=words.headline(found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures(shown, found, f"untrained, {opts.drawn}", opts.seeds_text),
        tables=figures.tables(found),
    )


def claims(opts: HDetachOptions, found: Sequence[Network]) -> tuple[Claim, ...]:
    """Claims on the gain and the loss, then identities of blocking."""
    closed, small = min(opts.forget_bias), min(opts.scale)
    opened, large = max(opts.forget_bias), max(opts.scale)
    wild = [n for n in found if (n.forget_bias, n.scale) == (opened, large)]
    lossy = [n for n in found if (n.forget_bias, n.scale) == (closed, small)]
    return (
        Claim(
            "Won: with h blocked at every step no gradient explodes, whatever the weights",
            max(growth(network.detached.gradient) for network in found),
            0.0,
            how="Largest growth of $‖∂L/∂c_t‖$ over its value at the last step, of any network, in decades",
            why="The forget gates are the only factors left, and they are below 1.",
        ),
        Claim(
            f"With h open, forget bias {opened:g} and weights × {large:g} it grows",
            min(arrived(network.true) for network in wild),
            0.0,
            "at least",
            how="$‖∂L/∂c_0‖ / ‖∂L/∂c_{T−1}‖$ in decades, least of any seed",
            why="Above 0 the gradient is larger at the first step than where it came from.",
        ),
        Claim(
            f"Lost: with forget bias {closed:g} and weights × {small:g}, blocking loses most of what comes "
            "back to the first step",
            max(10.0**network.left for network in lossy),
            HALF,
            how="$‖∂L/∂c_0‖$ with h blocked at every step over the true one, most of any seed",
            why="At one half as much is left as is lost.",
        ),
        Claim(
            "With h blocked at every step nothing comes to a cell state through h",
            max(network.detached.hidden for network in found),
            0.0,
            how="Largest norm that came through h at any step, in units of $‖∂L/∂c_t‖$",
            why="A factor of 0 leaves not even rounding.",
            about="computation",
        ),
        identity(
            "The mean gradient is the sum over hidden states on the way, at every p",
            max(blocked.error for network in found for blocked in network.blocked),
            "Largest difference at any step from $Σ_j (1 − p)^j$ times what went through $j$ hidden "
            "states, in units of the sum of the terms' norms",
        ),
    )


EXPERIMENT = Experiment(
    question="What is lost and what is won when the gradient through an LSTM's hidden state is blocked?",
    options=HDetachOptions,
    run=run,
    predict="An LSTM of 50 steps with the loss at the last one. Detach h where it enters the gates, so "
    "that the gradient comes back over the cell states alone. Draw ‖∂L/∂c_t‖ against t with h and without, "
    "for gates near one half, and for gates near 1 with weights four times as large. Does the gradient of "
    "the parameters still point the same way?",
)
