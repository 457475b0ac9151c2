"""Sentences on what each width finds and misses."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.drawing.words import counted
from experiments.questions.beam_tree.measure import Search
from experiments.questions.beam_tree.tree import LENGTH, in_words


def headline(found: Sequence[Search]) -> str:
    """The reason, then the best found by each width, and whether the search knows that it is the best."""
    said = []
    for each in found:
        best = each.result.best
        text = f"K = {each.width} returns “{in_words(best.tokens)}” ({best.log_probability:.2f})"
        if each.result.certified:
            text += " and knows that it is the most likely of all"
        else:
            text += f" and knows that it misses at most {each.result.gap:.2f} (in truth {each.missed:.2f})"
        said.append(text)
    return (
        "A beam drops a prefix that looks worse now, even if its best continuation would win later. It "
        "remembers the best prefix it dropped, and nothing it missed can be likelier than that. "
        f"{'; '.join(said)}."
    )


def sentence(each: Search) -> str:
    """Say what one width stores, and where it drops the optimum."""
    stored = [
        f"after {counted(length, 'word')} "
        + ", ".join(f"“{words}” {value:.2f}" for words, value in each.stored(length))
        for length in range(1, LENGTH + 1)
    ]
    optimum = in_words(each.optimum.tokens)
    fate = (
        f"“{optimum}” is never dropped"
        if each.dropped is None
        else f"“{optimum}” is dropped after {counted(each.dropped, 'word')}, since its beginning is not "
        "among the best then"
    )
    return f"K = {each.width} stores {'; '.join(stored)}. {fate}."
