"""Beam cost (Q2e): what a hypothesis must store, and what it costs not to.

A search that keeps the state of every hypothesis is timed beside one that keeps the tokens alone and
runs the model from the start at every step: over the length T, the width K and the vocabulary M, both
with the same output. Steps of the model are counted as well, for they do not depend on the machine.
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
"""Log-probabilities that are sums of the same numbers, computed in batches of other sizes."""

MIDWAY = 1.5
"""Between a slope of 1 and one of 2."""


@dataclass(frozen=True, kw_only=True)
class BeamCostOptions(Options):
    """Options of beam-cost."""

    length: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Lengths T that are compared, from the shortest to the longest."""

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
    # Lines cross, and where they do there is one measurement.
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
        figures=figures.figures(found.by_length, found.by_width, found.by_vocabulary),
        tables=figures.tables(found.all),
    )


def claims(opts: BeamCostOptions, found: Costs) -> tuple[Claim, ...]:
    """Same output, linear against quadratic, and where the square is hidden."""
    few = next(iter(found.by_length.values()))
    why = "T·K steps, and K at most of them fewer where the beam is not full yet."
    return (
        Claim(
            f"Storing the state and running again give the same hypotheses in all {len(found.all)} "
            "searches (largest difference of log-probabilities; infinite if tokens differ)",
            max(cost.difference for cost in found.all),
            SAME,
            why="The same sums in float64, of products over batches of other sizes.",
        ),
        Claim(
            "Taking the top k of each hypothesis first, and then the best k of these k², keeps the "
            "beams that the best k of all K·M keep (largest difference, over the widths)",
            found.two_stages,
            SAME,
            why="A candidate that is not among the k best of its own hypothesis has k better ones.",
        ),
        Claim(
            "Steps of the model with the state stored grow linearly with T (log-log slope)",
            slopes(few, "stored_steps"),
            1.1,
            why=why,
        ),
        Claim(
            "Steps of the model without it grow with T² (log-log slope)",
            slopes(few, "again_steps"),
            1.9,
            "at least",
            why="Step t runs t steps: K·T(T+1)/2 in all, whose slope nears 2 from below.",
        ),
        Claim(
            f"M = {few[0].vocabulary}: time with the state stored grows linearly with T (log-log slope)",
            slopes(few, "stored"),
            MIDWAY,
            why="Midway between 1 and 2: timings of a busy machine are off.",
        ),
        Claim(
            f"M = {few[0].vocabulary}: running again takes a time that grows much faster (log-log slope)",
            slopes(few, "again"),
            MIDWAY,
            "at least",
            why="The same; 2 is the limit, for what does not grow with T² takes part of shorter searches.",
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
