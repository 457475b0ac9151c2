"""Skip (Q1f): what a ResNet's skips and an LSTM's cell have in common.

Both let the gradient through without a matrix product. A residual network, the plain network of the
same depth and the same initial values, and an LSTM of as many steps read the same numbers; beside
each gradient stand the share that came without a product and the share that came through one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.tables import power_text
from experiments.drawing.words import counted, percent
from experiments.questions.skip import figures as views
from experiments.questions.skip.measure import (
    Branches,
    Depth,
    Kind,
    Products,
    product_shares,
    see_branches,
    see_lstm,
    see_net,
)
from experiments.regressors.flow import FACTOR, FACTOR_DECADES
from experiments.regressors.networks import Nonlinearity

SWEEP = (0.5, 1.0, 2.0, 4.0, 8.0)
"""What weights are multiplied by to find where skips no longer keep the gradient in range."""

MOST_BLOCKS = 12
"""2^12 paths can be followed one by one in seconds."""

MOST_PRODUCTS = 40
"""Matrix products up to which the gradient is split; the cost is that many backward passes."""

CANCELLING = 2.0
"""Sum of the sizes of shares that sum to 1 from which their cancelling is named: half of it is lost."""


@dataclass(frozen=True, kw_only=True)
class SkipOptions(options.NetworkOptions):
    """Options of skip."""

    depth: int = 30
    """Blocks of the residual and the plain network, and time steps of the LSTM."""

    width: int = 32
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
    """What the weights are multiplied by in the curves. Initial values are uniform in ±1/√width."""

    blocks: int = 6
    """Blocks of the small network whose 2^blocks paths are followed one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.at_least("depth", self.depth, 3)
        options.at_least("width", self.width, 1)
        options.at_least("blocks", self.blocks, 1)
        options.positive("scale", *self.scale)
        options.finite("forget-bias", self.forget_bias)
        if self.blocks > MOST_BLOCKS:
            raise OptionError(f"--blocks must be {MOST_BLOCKS} or less, not {self.blocks}")

    @property
    def size(self) -> str:
        """The sizes as a subtitle names them."""
        return (
            f"untrained, {self.depth} {self.nonlinearity} blocks or time steps, width {self.width}"
        )


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
    branches = see_branches(opts.blocks, opts.width, opts.batch, opts.seed, opts.nonlinearity)
    progress.advance(task)
    products = product_shares(
        opts.depth,
        opts.width,
        opts.batch,
        opts.seed,
        nonlinearity=opts.nonlinearity,
        forget_bias=opts.forget_bias,
        max_hops=min(opts.depth - 1, MOST_PRODUCTS),
    )
    progress.advance(task)
    shown = [d for d in found if d.seed == opts.seed and d.scale in opts.scale]
    size = f"{opts.size}, seed {opts.seed}"
    seeds = f"{opts.size}, {counted(opts.repeats, 'seed')}"
    return Result(
        options=opts,
        headline=headline(opts, found),
        reading=sentences(opts, found, products),
        claims=claims(opts, found, branches),
        figures=views.figures(shown, found, branches, products, size, seeds),
        tables=views.tables(found, branches, products),
    )


def see(opts: SkipOptions, scale: float, seed: int) -> list[Depth]:
    """Measure the three networks of a seed."""
    sizes = opts.depth, opts.width, opts.batch, seed
    found = [
        see_net(*sizes, nonlinearity=opts.nonlinearity, scale=scale, skip=skip)
        for skip in (True, False)
    ]
    found.append(see_lstm(*sizes, forget_bias=opts.forget_bias, scale=scale))
    if not all(
        np.isfinite(depth.gradient).all() for depth in found if depth.kind != "plain network"
    ):
        raise OptionError(
            f"A gradient with weights × {scale:g} is 0 or no finite number; choose a smaller --depth "
            "or --scale"
        )
    return found


def growths(found: Sequence[Depth], kind: Kind, scale: float = 1.0) -> list[float]:
    """Decades from the last layer to the first, one for each seed."""
    return [depth.growth for depth in found if (depth.kind, depth.scale) == (kind, scale)]


def claims(opts: SkipOptions, found: Sequence[Depth], branches: Branches) -> tuple[Claim, ...]:
    """Identities of skips and paths, and what skips do at the initial values and beyond them."""
    chain = "The two are equal by the chain rule: the threshold is rounding in float64."
    factor = f"A factor of {FACTOR} counts as vanishing or exploding; this is a convention."
    resnets = [depth for depth in found if depth.kind == "ResNet"]
    scales = sorted({depth.scale for depth in found})
    return (
        Claim(
            "A skip passes the gradient unchanged: largest relative difference between what it passes "
            "and ∂L/∂h_{l+1}",
            max(depth.skip_error for depth in resnets),
            0.0,
            why="The derivative of a sum by its operand is 1: not even rounding is between the two.",
        ),
        Claim(
            "At every layer and step the shares sum to 1 (largest difference, relative to the sum of "
            "their sizes)",
            max(depth.sum_error for depth in found),
            ROUNDING,
            why=chain,
        ),
        Claim(
            f"The gradient by number of branches is the sum over all 2^{opts.blocks} paths, followed "
            "one by one (largest relative error of a class)",
            branches.error,
            ROUNDING,
            why=chain,
        ),
        Claim(
            "Without skips the gradient vanishes at the initial values: decades from the last layer "
            "to the first, most of any seed",
            max(growths(found, "plain network")),
            -FACTOR_DECADES,
            why=factor,
        ),
        Claim(
            "With skips, at the same values, it does not: decades, least of any seed",
            min(growths(found, "ResNet")),
            -FACTOR_DECADES,
            "at least",
            why=factor,
        ),
        Claim(
            "Skips do not keep it from exploding: decades at the scale where they are most, any seed",
            max(max(growths(found, "ResNet", scale)) for scale in scales),
            FACTOR_DECADES,
            "at least",
            why=factor,
        ),
    )


def headline(opts: SkipOptions, found: Sequence[Depth]) -> str:
    """The three gradients at the first layer, and how they got there."""
    parts = {kind: power_text(float(np.median(growths(found, kind)))) for kind in views.KINDS}
    free = {kind: views.typical(found, kind, "free") for kind in ("ResNet", "LSTM")}
    seeds = f", medians of {opts.repeats} seeds" if opts.repeats > 1 else ""
    return (
        f"From layer {opts.depth} back to layer 1 the gradient becomes {parts['plain network']} times what "
        f"it was without skips and {parts['ResNet']} times with them; over as many LSTM steps, "
        f"{parts['LSTM']} times{seeds}. In one step back the skip's signed share is "
        f"{percent(free['ResNet'])} and the cell path's {percent(free['LSTM'])} (median)."
    )


def sentences(
    opts: SkipOptions, found: Sequence[Depth], products: Mapping[Kind, Products]
) -> tuple[str, ...]:
    """What both have in common, what not, and where it breaks."""
    said = [
        by_products("ResNet", products["ResNet"], "branches", "h_1", opts.seed),
        by_products("LSTM", products["LSTM"], "hidden states", "c_1", opts.seed),
        "What differs: a skip's factor is 1 exactly, the cell's is the forget gate f_t, between 0 and "
        "1. Skips therefore keep the path but do not bound the sum over paths.",
    ]
    for kind in views.KINDS:
        scales = sorted({depth.scale for depth in found})
        way = "steps" if kind == "LSTM" else "layers"
        broken = [k for k in scales if max(growths(found, kind, k)) > FACTOR_DECADES]
        said.append(
            f"{kind}: over {opts.depth} {way} it explodes with weights × "
            f"{', '.join(f'{k:g}' for k in broken)}."
            if broken
            else f"{kind}: over {opts.depth} {way} it explodes at no scale tried, up to × {scales[-1]:g}."
        )
    return tuple(said)


def by_products(kind: Kind, split: Products, way: str, state: str, seed: int) -> str:
    """How the gradient at the first layer or step is made up, and whether its parts cancel."""
    most, last = int(np.argmax(split.shares)), len(split.shares) - 1
    said = (
        f"{kind}, seed {seed}: of what reaches {state}, a share of {percent(split.shares[0])} went through "
        f"no matrix product at all; the largest, {percent(split.shares[most])}, went through {most} {way}"
    )
    if split.rest is not None:
        said += (
            f". Only classes up to {last} are told apart: together they have "
            f"{percent(float(split.shares.sum()))}, those over {last} the other {percent(split.rest)}"
        )
    if split.sizes > CANCELLING:
        said += (
            f". Shares of opposite signs cancel: the sum of their sizes is {split.sizes:.3g}, not 1, so "
            "that none of them is a part of the whole by itself"
        )
    return said + "."


EXPERIMENT = Experiment(
    question="What have the skips of a ResNet and the cell of an LSTM in common?",
    options=SkipOptions,
    run=run,
    letter="Q1f",
    predict="Thirty layers with skips, thirty without, and an LSTM of thirty steps, all untrained: "
    "draw the norm of the gradient (a logarithmic axis) against the layer or time step. Then the share "
    "of the gradient that came over the skip, and over the cell: is it nearer to 0, to one half, or to 1?",
)
