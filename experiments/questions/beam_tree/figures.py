"""The tree and its searches, as charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import altair as alt

import tinygrad182 as tg
from experiments.drawing.tables import Column, Figure, Row, Table
from experiments.drawing.words import counted
from experiments.questions.beam_tree.measure import Search
from experiments.questions.beam_tree.tree import LENGTH, WORDS, in_words


def figures(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Figure, ...]:
    """The whole tree, and the part of it that each width visits."""
    return (
        Figure(
            "tree",
            "The whole tree",
            "At every edge stands the log-probability of its word given those before, at every node the "
            "sum. The orange path is the most likely sequence, though its second word is not the likelier "
            "one.",
            chart(whole.lattice, whole.best, "All eight sequences"),
        ),
        *(
            Figure(
                f"beam_{each.width}",
                f"Beam width {each.width}",
                "Blue is stored, after the last word green; grey was a candidate and is not. "
                + (
                    "The most likely sequence is never dropped."
                    if each.dropped is None
                    else f"The orange path ends after {counted(each.dropped, 'word')}: from there on the "
                    "most likely sequence cannot be found."
                ),
                chart(each.lattice, each.optimum, f"Beam search, K = {each.width}"),
            )
            for each in found
        ),
    )


def chart(
    lattice: tg.decode.Lattice, optimum: tg.decode.Hypothesis, title: str
) -> alt.TopLevelMixin:
    """A lattice drawn as a tree."""
    return lattice.chart(words=WORDS, optimum=optimum.tokens, most=8, title=title)


def tables(found: Sequence[Search], whole: tg.decode.SearchResult) -> tuple[Table, ...]:
    """The certificates, what is stored, and all sequences."""
    stored: list[Row] = [
        {"width": each.width, "step": length, "rank": rank, "prefix": words, "log_probability": v}
        for each in found
        for length in range(1, LENGTH + 1)
        for rank, (words, v) in enumerate(each.stored(length), 1)
    ]
    number = Column("log_probability", "log-probability (nats)", ".2f")
    return (
        Table(
            "searches",
            "What each width finds, and what it knows about it",
            found,
            (
                Column("width", "width K"),
                Column("found", "best found", get=lambda e: in_words(e.result.tokens)),
                replace(number, get=lambda e: e.result.log_probability),
                Column("bound", "bound (nats)", ".2f", get=lambda e: e.result.bound),
                Column("gap", "gap (nats)", ".2f", get=lambda e: e.result.gap),
                Column("missed", "missed (nats)", ".2f"),
                Column("certified", "certified", get=lambda e: e.result.certified),
                Column("dropped", "optimum dropped after (words)"),
                Column("asked", "prefixes asked about", get=lambda e: e.result.expanded),
            ),
            note="No sequence is likelier than the bound. The gap is the most that can have been missed; "
            "what was missed is known from an exhaustive search.",
            printed=True,
        ),
        Table(
            "stored",
            "What is stored after each word",
            stored,
            (
                Column("width", "width K"),
                Column("step", "words"),
                Column("rank"),
                Column("prefix", "prefix"),
                number,
            ),
            printed=True,
        ),
        Table(
            "sequences",
            "All sequences, by exhaustive search",
            list(enumerate(whole, 1)),
            (
                Column("rank", "rank", get=lambda e: e[0]),
                Column("sequence", "sequence", get=lambda e: in_words(e[1].tokens)),
                replace(number, get=lambda e: e[1].log_probability),
            ),
        ),
    )
