"""Beam tree (Q2a to Q2d): what beam search stores on a small tree, and what it misses.

The tree has eight sequences of three words, so everything can be looked at: what each width stores after
each word, where the most likely sequence is dropped, and what the certificate knew without looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.catalogue import Experiment
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.words import counted
from experiments.questions.beam_tree import figures, words
from experiments.questions.beam_tree.measure import Search, search
from experiments.questions.beam_tree.tree import LENGTH, START, in_words, initial, step

BY_HAND = [
    [("neural", -0.65), ("network", -0.73)],
    [("neural network", -1.25), ("network neural", -1.33)],
    [("neural network network", -1.85), ("network neural network", -1.93)],
]
"""The prefixes that a beam of 2 stores after each word, worked out by hand."""

OPTIMUM = ("neural neural neural", -1.46)
"""The most likely sequence of all, worked out by hand."""


@dataclass(frozen=True, kw_only=True)
class BeamTreeOptions(Options):
    """Options of beam-tree."""

    beam_width: tuple[int, ...] = (1, 2, 3)
    """Widths K of the beam: one or several; the claims are about 2 and 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "beam_width")


def run(opts: BeamTreeOptions, progress: Progress) -> Result:
    """Search with every width, and exhaustively."""
    task = progress.add_task("widths", total=len(set(opts.beam_width)) + 1)
    whole = tg.decode.exhaustive(step, initial(opts.device), START, LENGTH, trace=True)
    assert isinstance(whole, tg.decode.SearchResult)
    progress.advance(task)
    found = []
    for width in sorted(set(opts.beam_width)):
        found.append(search(opts.device, width, whole.best))
        progress.advance(task)
    return Result(
        options=opts,
        headline=words.headline(found),
        reading=tuple(words.sentence(each) for each in found),
        claims=claims(found, whole),
        figures=figures.figures(found, whole),
        tables=figures.tables(found, whole),
    )


def claims(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Claim, ...]:
    """The answers by hand, and the certificate."""
    answers = [
        (f"K = 2 stores after {counted(length, 'word')}", each.stored(length), expected)
        for each in found
        if each.width == 2
        for length, expected in enumerate(BY_HAND, 1)
    ]
    best = in_words(whole.tokens), whole.log_probability
    answers.append((f"The most likely sequence of all {len(whole)} is", [best], [OPTIMUM]))
    said = [
        Claim(
            f"{what} " + ", ".join(f"“{words}” ({value})" for words, value in expected),
            difference(searched, expected),
            ROUNDING,
            how="Largest difference of log-probabilities from those by hand; infinite if the words differ",
            why="Sums of at most three numbers: the threshold is rounding in float64.",
        )
        for what, searched, expected in answers
    ]
    for each in found:
        said.append(
            Claim(
                f"K = {each.width} misses at most as much as its certificate says",
                each.result.gap - each.missed,
                -ROUNDING,
                "at least",
                how="The certificate's gap minus what was missed (nats)",
                why="No completion of a pruned prefix has a larger log-probability than the prefix.",
            )
        )
        if each.width in (2, 3):
            proven = each.width == 3
            said.append(
                Claim(
                    f"K = {each.width} {'proves' if proven else 'does not prove'} that its answer is the "
                    "best",
                    float(each.result.certified),
                    float(proven),
                    "at least" if proven else "at most",
                    how="1 if the search is certified, 0 if not",
                    why="It is where the best hypothesis is as good as the best prefix that was pruned.",
                )
            )
    return tuple(said)


def difference(found: Sequence[tuple[str, float]], expected: Sequence[tuple[str, float]]) -> float:
    """The largest difference of log-probabilities; infinite where the words differ."""
    if [words for words, _ in found] != [words for words, _ in expected]:
        return float("inf")
    return max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True))


EXPERIMENT = Experiment(
    question="What does beam search store after each word, does it find the most likely sequence, and does "
    "it know whether it did?",
    options=BeamTreeOptions,
    run=run,
    letter="Q2a–d",
    pictures=("tree", "beam_2"),
    predict="The decoder says neural −0.65 or network −0.73; after neural, neural −0.8 or network −0.6; "
    "after network, neural −0.6 or network −0.8; after neural network and after network neural, neural "
    "−0.8 or network −0.6; after neural neural, neural −0.01 or network −4.6; after network network −0.7 "
    "each. What does a beam of 2 store after each of three words? Which sequence does it return, and is "
    "it the most likely one?",
)
