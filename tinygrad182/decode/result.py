"""The result of a search: hypotheses with their scores, and a bound on the sequences it pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from ..display.reprs import fold, shown, table, text
from ..errors import ArgumentError, IndexOutOfRangeError

if TYPE_CHECKING:
    from .lattice import Lattice


MOST_TOKENS = 20
"""A hypothesis with more tokens is printed without those in the middle."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A sequence of tokens and its score.

    Attributes
    ----------
    tokens : tuple of int
        Without the start token; the end token is included if the sequence has one.
    log_probability : float
        The sum of the tokens' log-probabilities.
    score : float
        ``log_probability / len(tokens) ** length_penalty``.
    finished : bool
        Whether it ends with the end token.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool
    _state: Callable[[], Any] = field(repr=False, compare=False)

    def __repr__(self) -> str:
        tokens = repr(self.tokens)
        if len(self.tokens) > MOST_TOKENS:
            first, last = (
                ", ".join(map(str, part)) for part in (self.tokens[:6], self.tokens[-2:])
            )
            tokens = f"({first}, … {len(self.tokens) - 8} more …, {last})"
        return (
            f"Hypothesis(tokens={tokens}, log_probability={self.log_probability!r}, "
            f"score={self.score!r}, finished={self.finished})"
        )

    @property
    def state(self) -> Any:
        """The model's state before the last token, with N = 1, for going on.

        ``step(tokens[-1:], state)`` gives the next log-probabilities, and
        ``beam_search(step, state, tokens[-1], ...)`` searches on from here.
        """
        return self._state()


class Hypotheses(Sequence[Hypothesis]):
    """A sequence of hypotheses, which also has the attributes of the first one.

    Attributes
    ----------
    best : Hypothesis
        The first one.
    tokens, log_probability, score, state
        Those of the first one.

    Raises
    ------
    IndexOutOfRangeError
        An attribute is read, and there are no hypotheses.
    """

    def __init__(self, hypotheses: Sequence[Hypothesis]) -> None:
        self._hypotheses = tuple(hypotheses)

    @overload
    def __getitem__(self, index: int) -> Hypothesis: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hypothesis, ...]: ...
    def __getitem__(self, index: int | slice) -> Hypothesis | tuple[Hypothesis, ...]:
        """One hypothesis, or a tuple of several."""
        return self._hypotheses[index]

    def __len__(self) -> int:
        return len(self._hypotheses)

    @property
    def best(self) -> Hypothesis:  # noqa: D102 - described with the class
        if not self._hypotheses:
            raise IndexOutOfRangeError(
                "decode: there is no hypothesis, since every prefix came to a dead end; check len(result)"
            )
        return self._hypotheses[0]

    @property
    def tokens(self) -> tuple[int, ...]:  # noqa: D102
        return self.best.tokens

    @property
    def log_probability(self) -> float:  # noqa: D102
        return self.best.log_probability

    @property
    def score(self) -> float:  # noqa: D102
        return self.best.score

    @property
    def state(self) -> Any:  # noqa: D102
        return self.best.state

    def __repr__(self) -> str:
        return f"<{len(self)} sampled>" if self else "<nothing sampled>"

    def _repr_html_(self) -> str:
        header = ("", "tokens", "log-probability", "score", "length", "ended")
        rows = [
            (i, in_short(h.tokens), h.log_probability, h.score, len(h.tokens), _SAID[h.finished])
            for i, h in enumerate(self._hypotheses, 1)
        ]
        line = text(repr(self).strip("<>"))
        return shown(fold(line, table(header, rows) if rows else "", opened=True))


def in_short(tokens: Sequence[int], most: int = 40) -> str:
    """Write a sequence of tokens as numbers, without the middle of a long one.

    >>> in_short(range(9), most=4)
    '0 1 … 7 8'
    """
    if len(tokens) <= most:
        return " ".join(map(str, tokens))
    half = most // 2
    return f"{in_short(tokens[:half])} … {in_short(tokens[-half:])}"


_SAID = {True: "yes", False: "no"}


class NotTracedError(ArgumentError, AttributeError):
    """A result has no lattice, since the search ran without ``trace=True``."""


class SearchResult(Hypotheses):
    """The hypotheses of a search, best first, and its certificate.

    Log-probabilities are never positive, so a pruned prefix bounds the scores of all its completions. The
    largest of these bounds says how much better the global optimum could be. If it is not above the score
    of the best hypothesis, that hypothesis is proven to be the optimum.

    Attributes
    ----------
    pruned : float
        The best score that any pruned prefix could still have reached; −inf if none was pruned.
    bound : float
        No sequence has a better score. It is the larger of ``pruned`` and the best hypothesis's score.
    gap : float
        ``bound`` minus the best score: the most that the search can have missed.
    certified : bool
        Whether the best hypothesis is proven to be the global optimum.
    expanded : int
        The number of prefixes that the model was run after.
    lattice : Lattice
        Every prefix that was kept, pruned or finished, if the search ran with ``trace=True``.

    Raises
    ------
    ArgumentError
        ``lattice`` is read, and the search ran without ``trace=True``.
    """

    def __init__(
        self,
        hypotheses: Sequence[Hypothesis],
        pruned: float,
        expanded: int,
        lattice: Lattice | None = None,
    ) -> None:
        super().__init__(hypotheses)
        best = hypotheses[0].score if hypotheses else -math.inf
        self.pruned = pruned
        self.bound = max(best, pruned)
        self.gap = 0.0 if self.bound == best else self.bound - best
        self.certified = best >= pruned
        self.expanded = expanded
        self._lattice = lattice

    @property
    def lattice(self) -> Lattice:  # noqa: D102 - described with the class
        if self._lattice is None:
            raise NotTracedError(
                "decode: this result has no lattice; search with trace=True, as in "
                "tg.decode.beam_search(..., trace=True)"
            )
        return self._lattice

    def __repr__(self) -> str:
        best = f"best {self.best.score:.6g}" if self else "nothing was reached"
        gap = "certified" if self.certified else f"gap at most {self.gap:.6g}"
        return f"<{len(self)} hypotheses, {best}, {gap}>"


@dataclass(eq=False)
class Scoring:
    """The score of a sequence, log-probability / length^penalty, and its bound for a prefix.

    Attributes
    ----------
    penalty : float
        The exponent of the length.
    max_length : int
    ends : bool
        Whether sequences can be shorter, because there is an end token.
    """

    penalty: float
    max_length: int
    ends: bool

    def score(self, log_probability: Any, length: int) -> Any:
        """The score of a log-probability, or of an array of them."""
        return log_probability / length**self.penalty if self.penalty else log_probability

    def reach(self, log_probability: Any, length: int) -> Any:
        """The best score that a completion of a prefix can have.

        The log-probability can only fall. With a positive penalty the longest completion has the best
        score, with a negative penalty the shortest.
        """
        shortest = length + 1 if self.ends and length < self.max_length else self.max_length
        return self.score(log_probability, shortest if self.penalty < 0 else self.max_length)
