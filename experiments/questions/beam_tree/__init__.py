"""Beam tree (Q2a to Q2d): what beam search keeps on the course's tree, and what it misses.

The tree has eight sequences of three words, so everything can be looked at: what each width keeps at
each step, where the most likely sequence is dropped, and what the certificate knew without looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress import Progress

import tinygrad182 as tg
from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.options import Options
from experiments.app.result import Claim, Result
from experiments.drawing.numbers import ROUNDING
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.questions.beam_tree.tree import LENGTH, START, WORDS, in_words, initial, step

if TYPE_CHECKING:
    import altair as alt

SOURCE = [
    [("neural", -0.65), ("network", -0.73)],
    [("neural network", -1.25), ("network neural", -1.33)],
    [("neural network network", -1.85), ("network neural network", -1.93)],
]
"""What the course's solution says a beam of 2 stores after each step."""

OPTIMUM = ("neural neural neural", -1.46)
"""What it says is the most likely sequence of all."""


@dataclass(frozen=True, kw_only=True)
class BeamTreeOptions(Options):
    """Options of beam-tree."""

    beam_width: tuple[int, ...] = (1, 2, 3)
    """Widths K of the beam: one or several; the claims are about 2 and 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options.one_or_more("beam-width", self.beam_width)
        for width in self.beam_width:
            options.at_least("beam-width", width, 1)


@dataclass(frozen=True)
class Search:
    """A search of one width, and what became of the true optimum."""

    width: int
    result: tg.decode.SearchResult
    lattice: tg.decode.Lattice
    optimum: tg.decode.Hypothesis

    @property
    def dropped(self) -> int | None:
        """The step at which the optimum was dropped."""
        return self.lattice.dropped(self.optimum.tokens)

    @property
    def missed(self) -> float:
        """How much better the optimum is."""
        return self.optimum.score - self.result.score

    def kept(self, length: int) -> list[tuple[str, float]]:
        """What is stored after a step, best first."""
        nodes = self.lattice.nodes()[length - 1]
        return [(in_words(n.tokens), n.log_probability) for n in nodes if n.fate != "pruned"]


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
        headline=headline(found),
        reading=tuple(sentence(each) for each in found),
        claims=claims(found, whole),
        figures=figures(found, whole),
        tables=tables(found, whole),
    )


def search(device: str, width: int, optimum: tg.decode.Hypothesis) -> Search:
    """Search the tree with one width."""
    result = tg.decode.beam_search(step, initial(device), START, width, LENGTH, trace=True)
    assert isinstance(result, tg.decode.SearchResult)
    return Search(width, result, result.lattice, optimum)


def claims(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Claim, ...]:
    """The course's answers, and the certificate."""
    why = "Sums of at most three numbers: the threshold is rounding in float64."
    said = []
    for each in found:
        if each.width == 2:
            for length, expected in enumerate(SOURCE, 1):
                said.append(
                    Claim(
                        f"K = 2 stores after step {length}: "
                        + ", ".join(f"“{words}” ({value})" for words, value in expected)
                        + " (largest difference; infinite if the words differ)",
                        difference(each.kept(length), expected),
                        ROUNDING,
                        why=why,
                    )
                )
    said.append(
        Claim(
            f"The most likely sequence of all {len(whole)} is “{OPTIMUM[0]}” ({OPTIMUM[1]})",
            difference([(in_words(whole.tokens), whole.log_probability)], [OPTIMUM]),
            ROUNDING,
            why=why,
        )
    )
    for each in found:
        said.append(
            Claim(
                f"K = {each.width}: what was missed is at most the gap that the certificate states "
                "(gap minus what was missed)",
                each.result.gap - each.missed,
                -ROUNDING,
                "at least",
                why="No completion of a pruned prefix has a larger log-probability than the prefix.",
            )
        )
        if each.width in (2, 3):
            proven = each.width == 3
            said.append(
                Claim(
                    f"K = {each.width} is {'' if proven else 'not '}certified (1: it is)",
                    float(each.result.certified),
                    float(proven),
                    "at least" if proven else "at most",
                    why="Whether the best hypothesis is as good as the best prefix that was pruned.",
                )
            )
    return tuple(said)


def difference(found: Sequence[tuple[str, float]], expected: Sequence[tuple[str, float]]) -> float:
    """The largest difference of log-probabilities; infinite where the words differ."""
    if [words for words, _ in found] != [words for words, _ in expected]:
        return float("inf")
    return max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True))


def headline(found: Sequence[Search]) -> str:
    """What the widths find, and whether they know that they found the best."""
    said = []
    for each in found:
        best = each.result.best
        text = f"K = {each.width} returns “{in_words(best.tokens)}” ({best.log_probability:.2f})"
        if each.result.certified:
            text += ", certified to be the most likely of all"
        else:
            text += f", with a gap of at most {each.result.gap:.2f} (in truth {each.missed:.2f})"
        said.append(text)
    return "; ".join(said) + "."


def sentence(each: Search) -> str:
    """What one width stores, and where it drops the optimum."""
    steps = [
        f"after step {length} {', '.join(f'“{words}” {value:.2f}' for words, value in kept)}"
        for length in range(1, LENGTH + 1)
        for kept in [each.kept(length)]
    ]
    optimum = in_words(each.optimum.tokens)
    fate = (
        f"“{optimum}” is never dropped"
        if each.dropped is None
        else f"“{optimum}” is dropped at step {each.dropped}, where its first {each.dropped} words are "
        "not among the best"
    )
    return f"K = {each.width} stores {'; '.join(steps)}. {fate}."


def figures(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Figure, ...]:
    """The whole tree, and what each width sees of it."""
    drawn = [
        Figure(
            "tree",
            "The whole tree",
            "Every edge carries the log-probability of its word given those before; every node the sum. "
            "The orange path is the most likely sequence: its second word is not the likelier one.",
            chart(whole.lattice, whole.best, "All eight sequences"),
        )
    ]
    for each in found:
        drawn.append(
            Figure(
                f"beam_{each.width}",
                f"Beam width {each.width}",
                "Blue is stored, at the last step green; grey was a candidate and is not. "
                + (
                    "The most likely sequence survives every step."
                    if each.dropped is None
                    else f"The orange path ends at step {each.dropped}: from there on the most likely "
                    "sequence cannot be found."
                ),
                chart(each.lattice, each.optimum, f"Beam search, K = {each.width}"),
            )
        )
    return tuple(drawn)


def chart(
    lattice: tg.decode.Lattice, optimum: tg.decode.Hypothesis, title: str
) -> alt.TopLevelMixin:
    """A lattice as the course draws its tree."""
    return lattice.chart(words=WORDS, optimum=optimum.tokens, most=8, title=title)


def tables(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Table, ...]:
    """The certificates, what is stored, and all sequences."""
    summary: list[Row] = [
        {
            "width": each.width,
            "found": in_words(each.result.tokens),
            "log_probability": each.result.log_probability,
            "bound": each.result.bound,
            "gap": each.result.gap,
            "missed": each.missed,
            "certified": each.result.certified,
            "dropped": each.dropped,
            "asked": each.result.expanded,
        }
        for each in found
    ]
    stored: list[Row] = [
        {"width": each.width, "step": length, "rank": rank, "prefix": words, "log_probability": v}
        for each in found
        for length in range(1, LENGTH + 1)
        for rank, (words, v) in enumerate(each.kept(length), 1)
    ]
    every: list[Row] = [
        {"rank": rank, "sequence": in_words(h.tokens), "log_probability": h.log_probability}
        for rank, h in enumerate(whole, 1)
    ]
    number = Column("log_probability", "log-probability", ".2f")
    return (
        Table(
            "searches",
            "What each width finds, and what it knows about it",
            summary,
            (
                Column("width", "K"),
                Column("found", "best found"),
                number,
                Column("bound", "bound", ".2f"),
                Column("gap", "gap", ".2f"),
                Column("missed", "missed", ".2f"),
                Column("certified", "certified"),
                Column("dropped", "optimum dropped at step"),
                Column("asked", "prefixes asked about"),
            ),
            note="No sequence is better than the bound; the gap is what can have been missed at most, "
            "“missed” what was, by exhaustive search.",
            printed=True,
        ),
        Table(
            "stored",
            "What is stored after each step",
            stored,
            (Column("width", "K"), Column("step", "step"), Column("prefix", "prefix"), number),
            printed=True,
        ),
        Table(
            "sequences",
            "All sequences, by exhaustive search",
            every,
            (Column("rank", "rank"), Column("sequence", "sequence"), number),
        ),
    )


EXPERIMENT = Experiment(
    question="What does beam search store at each step, does it find the most likely sequence, and does "
    "it know whether it did?",
    options=BeamTreeOptions,
    run=run,
    letter="Q2a–d",
    pictures=("tree", "beam_2"),
    predict="The decoder says neural −0.65 or network −0.73; after neural, neural −0.8 or network −0.6; "
    "after network, neural −0.6 or network −0.8; after neural network and after network neural, neural "
    "−0.8 or network −0.6; after neural neural, neural −0.01 or network −4.6; after network network −0.7 "
    "each. What does a beam of 2 store after each of three steps? Which sequence does it return, and is "
    "it the most likely one?",
)
