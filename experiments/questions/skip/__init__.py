"""Skip (Q1f): what a ResNet's skips and an LSTM's cell have in common.

Both let the gradient through without a matrix product. A residual network, a plain network of the same
depth with the same initial values, and an LSTM of as many steps read the same numbers. Each gradient is
split into the share that came without a product and the share that came through one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.options import NetworkOptions
from experiments.app.result import Claim, Result, identity
from experiments.drawing.words import counted
from experiments.questions.skip import figures, words
from experiments.questions.skip.measure import (
    Branches,
    Depth,
    Nonlinearity,
    growths,
    product_shares,
    see,
    see_branches,
)
from experiments.regressors.flow import CONVENTION, FACTOR_DECADES

SWEEP = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Factors on the weights that are always measured, to find where skips no longer help."""

MOST_BLOCKS = 12
"""2^12 paths can be followed one by one in seconds."""

MOST_PRODUCTS = 40
"""Matrix products up to which the gradient is split: each costs a backward pass."""


@dataclass(frozen=True, kw_only=True)
class SkipOptions(NetworkOptions):
    """Options of skip."""

    length: int = 30
    """Blocks of the residual and the plain network, and time steps of the LSTM."""

    hidden_size: int = 32
    """Hidden units of each."""

    batch: int = 32
    """Samples B in a batch."""

    repeats: int = 3
    """Networks drawn of each kind, with seed, seed + 1, …: claims are about all of them, curves
    show the first."""

    nonlinearity: Nonlinearity = "tanh"
    """σ of the blocks."""

    forget_bias: float = 1.0
    """Added to the biases of the LSTM's forget gates."""

    scale: tuple[float, ...] = (1.0, 8.0)
    """Factors on the weights in the curves. Initial values are uniform in ±1/√H."""

    blocks: int = 6
    """Blocks of the small network whose 2^blocks paths are followed one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(3, "length")
        self.at_least(1, "hidden_size", "blocks")
        self.at_most(MOST_BLOCKS, "blocks")
        self.positive("scale")
        self.finite("forget_bias")

    @property
    def size(self) -> str:
        """The sizes as a subtitle names them."""
        kind = f"{self.nonlinearity} blocks or time steps"
        return f"untrained, {self.length} {kind}, width {self.hidden_size}"


def run(opts: SkipOptions, progress: Progress) -> Result:
    """Measure the three kinds at every scale and seed, then paths by their number of products."""
    scales = sorted({1.0, *SWEEP, *opts.scale})
    settings = list(itertools.product(scales, opts.seeds))
    task = progress.add_task("skips, none, and a cell", total=len(settings) + 2)
    found: list[Depth] = []
    for scale, seed in settings:
        found += see(opts, scale, seed)
        progress.advance(task)
    progress.update(task, description=f"{2**opts.blocks} paths")
    branches = see_branches(opts)
    progress.advance(task)
    products = product_shares(opts, min(opts.length - 1, MOST_PRODUCTS))
    progress.advance(task)
    shown = [d for d in found if d.seed == opts.seed and d.scale in opts.scale]
    size = f"{opts.size}, seed {opts.seed}"
    seeds = f"{opts.size}, {counted(opts.repeats, 'seed')}"
    return Result(
        options=opts,
        headline=words.headline(opts, found),
        reading=words.sentences(opts, found, products),
        claims=claims(opts, found, branches),
        figures=figures.figures(shown, found, branches, products, size, seeds),
        tables=figures.tables(found, branches, products),
    )


def claims(opts: SkipOptions, found: Sequence[Depth], branches: Branches) -> tuple[Claim, ...]:
    """Identities of skips and paths, and what skips do at the initial values and beyond them."""
    gained = "Decades that the gradient gains from the last layer back to the first"
    resnets = [depth for depth in found if depth.kind == "ResNet"]
    return (
        Claim(
            "A skip passes the gradient on unchanged",
            max(depth.skip_error for depth in resnets),
            0.0,
            how="Largest relative difference between what it passes and $∂L/∂h_{l+1}$",
            why="The derivative of a sum by its operand is 1: there is not even rounding.",
            about="computation",
        ),
        identity(
            "At every layer and step the shares sum to 1",
            max(depth.sum_error for depth in found),
            "Largest difference from 1, relative to the sum of their sizes",
        ),
        identity(
            f"The gradient by number of branches is the sum over all {2**opts.blocks} paths",
            branches.error,
            "Largest relative error of a class, the paths followed one by one",
        ),
        Claim(
            "Without skips the gradient vanishes",
            max(growths(found, "plain network")),
            -FACTOR_DECADES,
            how=f"{gained}, weights × 1, most of any seed",
            why=CONVENTION,
        ),
        Claim(
            "With skips, and the same weights, it does not vanish",
            min(growths(found, "ResNet")),
            -FACTOR_DECADES,
            "at least",
            how=f"{gained}, weights × 1, least of any seed",
            why=CONVENTION,
        ),
        Claim(
            "Skips do not keep it from exploding",
            max(depth.growth for depth in resnets),
            FACTOR_DECADES,
            "at least",
            how=f"{gained}, any seed, with the weights that make it largest",
            why=CONVENTION,
        ),
    )


EXPERIMENT = Experiment(
    question="What have the skips of a ResNet and the cell of an LSTM in common?",
    options=SkipOptions,
    run=run,
    letter="Q1f",
    predict="Thirty layers with skips, thirty without, and an LSTM of thirty steps, all untrained: "
    "draw the norm of the gradient (a logarithmic axis) against the layer or time step. Then the share "
    "of the gradient that came over the skip, and over the cell: is it nearer to 0, to one half, or to 1?",
)
