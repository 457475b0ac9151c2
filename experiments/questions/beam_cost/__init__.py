"""Beam cost (Q2e): what a hypothesis must store, and what it costs not to.

One search stores the state of every hypothesis; the other stores the tokens alone and runs the model from
the start at every step. Both give the same output. They are timed over the length T, the width K and the
vocabulary M, and the steps of the model are counted, which do not depend on the machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.questions.beam_cost import figures, words
from experiments.questions.beam_cost.measure import (
    Costs,
    Decoder,
    compare_with_two_stages,
    slopes,
    time_both,
)

SAME = 1e-10
"""Largest difference by rounding: the same sums computed in batches of other sizes."""

MIDWAY = 1.5
"""Between a slope of 1 and one of 2."""


@dataclass(frozen=True, kw_only=True)
class BeamCostOptions(Options):
    """Options of beam-cost."""

    length: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Lengths T that are compared."""

    beam_width: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Widths K that are compared, at --at-length."""

    vocabulary: tuple[int, ...] = (50, 500, 5000)
    """Vocabulary sizes M: the lengths are compared with the smallest and the largest."""

    at_length: int = 64
    """Length T at which widths and vocabularies are compared."""

    at_beam_width: int = 5
    """Width K at which lengths and vocabularies are compared."""

    hidden_size: int = 64
    """Hidden units H of the LSTM."""

    repeats: int = 5
    """Runs of each search; the fastest counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "length", "beam_width", "vocabulary")
        self.at_least(1, "at_length", "at_beam_width", "hidden_size", "repeats")
        if len(set(self.length)) < 2:
            raise OptionError("--length needs two different lengths: a slope is measured over them")


def run(opts: BeamCostOptions, progress: Progress) -> Result:
    """Time every search, both ways."""
    lengths, widths = sorted(set(opts.length)), sorted(set(opts.beam_width))
    sizes = sorted(set(opts.vocabulary))
    ends = sorted({sizes[0], sizes[-1]})
    by_length = {M: [(M, T, opts.at_beam_width) for T in lengths] for M in ends}
    by_width = [(sizes[0], opts.at_length, K) for K in widths]
    by_vocabulary = [(M, opts.at_length, opts.at_beam_width) for M in sizes]
    # Where these lines cross, there is one measurement.
    places = dict.fromkeys(itertools.chain(*by_length.values(), by_width, by_vocabulary))
    task = progress.add_task("searches", total=opts.repeats * len(places))
    costs = {}
    for vocabulary, length, width in places:
        progress.update(task, description=f"T = {length}, K = {width}, M = {vocabulary}")
        decoder = Decoder(vocabulary, opts.hidden_size, opts.seed, opts.device)
        costs[vocabulary, length, width] = time_both(
            decoder, length, width, opts.repeats, lambda: progress.advance(task)
        )
    found = Costs(
        {M: [costs[place] for place in line] for M, line in by_length.items()},
        [costs[place] for place in by_width],
        [costs[place] for place in by_vocabulary],
        compare_with_two_stages(opts, sizes[0], widths),
    )
    return Result(
        options=opts,
        headline=words.headline(found),
        reading=words.sentences(opts, found),
        claims=claims(opts, found),
        figures=figures.figures(found),
        tables=figures.tables(found.all),
    )


def claims(opts: BeamCostOptions, found: Costs) -> tuple[Claim, ...]:
    """Claims on equal outputs, and on linear against quadratic growth."""
    few = next(iter(found.by_length.values()))
    size = f"M = {few[0].vocabulary}: slope of log time over log T"
    return (
        Claim(
            f"Both ways give the same hypotheses in all {len(found.all)} searches",
            max(cost.difference for cost in found.all),
            SAME,
            how="Largest difference of log-probabilities; infinite if tokens differ",
            why="The sums in float64 are the same, of products over batches of other sizes.",
            about="computation",
        ),
        Claim(
            "The best K of each hypothesis's best K tokens are the best K of all K·M",
            found.two_stages,
            SAME,
            how="Largest difference of log-probabilities, over the widths",
            why="A candidate that is not among the K best of its own hypothesis has K better ones.",
            about="computation",
        ),
        Claim(
            "With the state stored, the steps of the model grow as T",
            slopes(few, "stored_steps"),
            1.1,
            how="Slope of log steps over log T",
            why="There are T·K steps, and at most K fewer where the beam is not full yet.",
        ),
        Claim(
            "Without it they grow as T²",
            slopes(few, "again_steps"),
            1.9,
            "at least",
            how="Slope of log steps over log T",
            why="The search runs t steps for its t-th token: K·T(T+1)/2 in all, whose slope nears 2 from "
            "below.",
        ),
        Claim(
            "With the state stored, the time grows as T",
            slopes(few, "stored"),
            MIDWAY,
            how=size,
            why="Midway between 1 and 2: timings of a busy machine are off.",
        ),
        Claim(
            "Without it the time grows much faster",
            slopes(few, "again"),
            MIDWAY,
            "at least",
            how=size,
            why="Midway between 1 and 2. The limit is 2; in shorter searches a part does not grow as T².",
        ),
    )


EXPERIMENT = Experiment(
    question="What must be stored for each hypothesis of a beam search, and what does it cost not to?",
    options=BeamCostOptions,
    run=run,
    letter="Q2e",
    pictures=("over_length", "over_vocabulary"),
    predict="A search of K = 5 hypotheses over T = 256 steps takes a certain time when each hypothesis "
    "keeps its hidden and cell state. How many times as long does it take if only the tokens are kept and "
    "the LSTM is run again from the start at every step? And if the vocabulary is 100 times as large?",
)
