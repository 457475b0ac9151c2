"""Sentences on what each width finds and misses."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.questions.beam_tree.measure import Search
from experiments.questions.beam_tree.tree import LENGTH, in_words


def headline(found: Sequence[Search]) -> str:
    """The best found by each width, and whether the search knows that it is the best."""
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
    """Say what one width stores, and where it drops the optimum."""
    steps = [
        f"after step {length} {', '.join(f'“{words}” {value:.2f}' for words, value in stored)}"
        for length in range(1, LENGTH + 1)
        for stored in [each.stored(length)]
    ]
    optimum = in_words(each.optimum.tokens)
    fate = (
        f"“{optimum}” is never dropped"
        if each.dropped is None
        else f"“{optimum}” is dropped at step {each.dropped}, where its first {each.dropped} words are "
        "not among the best"
    )
    return f"K = {each.width} stores {'; '.join(steps)}. {fate}."
