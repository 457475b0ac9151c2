"""Decoding as the textbook has it: Python lists, one prefix at a time, nothing stored, nothing skipped.

A model is ``next_token(prefix)``: the log-probabilities of all tokens after a tuple of tokens. No search
here keeps a state, shares a batch or stops before ``max_length``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

Prefix = tuple[int, ...]
NextToken = Callable[[Prefix], Sequence[float]]


class Rules(NamedTuple):
    """Options of a search, besides the model."""

    max_length: int
    eos: int | None
    penalty: float

    def score(self, log_probability: float, length: int) -> float:
        return log_probability / length**self.penalty

    def complete(self, tokens: Prefix) -> bool:
        return len(tokens) == self.max_length or (tokens and tokens[-1] == self.eos)

    def reach(self, log_probability: float, length: int) -> float:
        """The best score of any completion of an unfinished prefix: the best over all lengths."""
        lengths = [self.max_length]
        if self.eos is not None:
            lengths = list(range(min(length + 1, self.max_length), self.max_length + 1))
        return max(self.score(log_probability, n) for n in lengths)


class Found(NamedTuple):
    tokens: Prefix
    log_probability: float
    score: float


class Beams(NamedTuple):
    hypotheses: list[Found]
    bound: float
    certified: bool


def everything(next_token: NextToken, rules: Rules) -> list[Found]:
    """All sequences that can be reached, best first; equal ones by their tokens."""

    def completions(tokens: Prefix, total: float) -> list[Found]:
        if rules.complete(tokens):
            return [Found(tokens, total, rules.score(total, len(tokens)))]
        found = []
        for token, value in enumerate(next_token(tokens)):
            if total + value > -math.inf:
                found += completions((*tokens, token), total + value)
        return found

    return sorted(completions((), 0.0), key=lambda one: (-one.score, len(one.tokens)))


def beam(next_token: NextToken, width: int, rules: Rules) -> Beams:
    """Beam search that goes on to the last step, and sorts every candidate and every hypothesis."""
    greedy = width == 1 and not rules.penalty
    live: list[tuple[Prefix, float]] = [((), 0.0)]
    ranked: list[tuple[float, int, int, int, Prefix, float]] = []
    pruned = -math.inf
    for length in range(1, rules.max_length + 1):
        candidates = [
            (total + value, parent, token, (*tokens, token))
            for parent, (tokens, total) in enumerate(live)
            for token, value in enumerate(next_token(tokens))
            if total + value > -math.inf
        ]
        candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
        if greedy:
            dropped, candidates = candidates[1:], candidates[:1]
            pruned = max([pruned, *(c[0] for c in dropped)])
        ends = [c for c in candidates if c[2] == rules.eos]
        going = [c for c in candidates if c[2] != rules.eos]
        pruned = max([pruned, *(rules.reach(c[0], length) for c in going[width:])])
        ends += going[:width] if length == rules.max_length else []
        for total, parent, token, tokens in ends:
            ranked.append((-rules.score(total, length), length, parent, token, tokens, total))
        live = [(tokens, total) for total, _, _, tokens in going[:width]]
    ranked.sort()
    hypotheses = [Found(tokens, total, -score) for score, *_, tokens, total in ranked[:width]]
    best = hypotheses[0].score if hypotheses else -math.inf
    return Beams(hypotheses, max(best, pruned), best >= pruned)


def rescored(next_token: NextToken, tokens: Prefix) -> float:
    """The log-probability of a sequence, from the start, each token given."""
    return math.fsum(next_token(tokens[:n])[token] for n, token in enumerate(tokens))
