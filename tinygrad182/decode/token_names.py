"""Names of tokens in the text and the picture of a lattice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..display.pages import legible
from ..errors import ArgumentError, brief

Words = Sequence[str] | Callable[[int], str] | None
"""Names of tokens: a sequence by number, a function, or None to write their numbers."""

BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def namer(words: Words) -> Callable[[int], str]:
    """Return a function from tokens to their names.

    Raises
    ------
    ArgumentError
        ``words`` is neither a sequence nor a function.
    """
    if words is None:
        return str
    if not callable(words) and not hasattr(words, "__getitem__"):
        raise ArgumentError(
            f"lattice: words {brief(words)} must be a sequence of strings or a function"
        )

    def name(token: int) -> str:
        if callable(words):
            return _visible(str(words(token)))
        return _visible(str(words[token])) if token < len(words) else str(token)

    return name


def _visible(word: str) -> str:
    """Replace line ends, blanks and control characters by visible signs."""
    return str(legible("".join(BLANKS.get(letter, letter) for letter in word)))
