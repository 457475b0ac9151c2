"""What tokens are called in texts and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._html import legible
from ..errors import ArgumentError, brief

Words = Sequence[str] | Callable[[int], str] | None
"""What tokens are called: by number, by a function, or None for their numbers."""

BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def namer(words: Words) -> Callable[[int], str]:
    """A function from tokens to what they are called.

    Raises
    ------
    ArgumentError
        Neither a sequence nor a function.
    """
    if words is None:
        return str
    if not callable(words) and not hasattr(words, "__getitem__"):
        raise ArgumentError(
            f"lattice: words {brief(words)} must be a sequence of strings or a function"
        )

    def name(token: int) -> str:
        if callable(words):
            return visible(str(words(token)))
        return visible(str(words[token])) if token < len(words) else str(token)

    return name


def visible(word: str) -> str:
    """A word whose line ends, blanks and control characters can be seen."""
    return str(legible("".join(BLANKS.get(letter, letter) for letter in word)))
