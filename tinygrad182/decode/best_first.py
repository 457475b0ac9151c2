"""Exact search by best-first search: extend the most promising prefix until none can beat the best.

This is A* with the bound of beam search's certificate: log-probabilities are never positive, so the score
of a prefix bounds the scores of all its completions.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._numbers import check_whole
from ..arrays import backend
from ..engine.modes import modes_kept, no_grad
from .beam import BeamSearch
from .result import Hypothesis, Scoring, SearchResult
from .step_function import Host, State, Step, Stepper, check_arguments, check_values


@modes_kept
def exact_search(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None = None,
    length_penalty: float = 0.0,
    state_axis: int = 0,
    *,
    beam_width: int = 8,
    max_expansions: int = 10_000,
) -> SearchResult | list[SearchResult]:
    """Find the best sequence of all, and prove that it is the best.

    First :func:`beam_search` finds a good sequence. Then a best-first search extends the prefix that could
    still reach the best score, until none can beat the best sequence found. The search is fast if
    log-probabilities are peaked; if they are flat, many prefixes stay open.

    Parameters
    ----------
    step, state, start, max_length, eos, length_penalty, state_axis
        See :func:`beam_search`.
    beam_width : int
        The width of the beam search, and the most prefixes in one call of ``step``.
    max_expansions : int
        The search of an example gives up after so many prefixes, with the best sequence so far and a
        ``bound`` that still holds.

    Returns
    -------
    SearchResult, or a list of B of them
        One hypothesis, any of the best if there are ties. It is ``certified`` unless the search gave up.

    Raises
    ------
    ArgumentError, DecodingError, DeviceError
        See :func:`beam_search`.

    Examples
    --------
    The likelier first token leads to the less likely sequence, so a beam of one misses the best:

    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> table = np.log([[0.6, 0.4], [0.5, 0.5], [0.01, 0.99]])   # after the start, after 0, after 1
    >>> def step(tokens, state):
    ...     return table[np.where(state == 0, 0, tokens + 1)], state + 1
    >>> state = np.zeros(1, int)
    >>> tg.decode.beam_search(step, state, 0, beam_width=1, max_length=2).best.tokens
    (0, 0)
    >>> tg.decode.exact_search(step, state, 0, max_length=2).best.tokens
    (1, 1)
    """
    width = check_whole("exact_search", "beam_width", beam_width, 1)
    budget = check_whole("exact_search", "max_expansions", max_expansions, 0)
    given = check_arguments(step, state, start, max_length, eos, length_penalty, state_axis)
    stepper, tokens, single, end, scoring = given
    with no_grad(), backend.on(tokens):
        seeds = BeamSearch(stepper, width, scoring, end).run(state, tokens)
        host = backend.namespace(tokens).to_numpy(tokens)
        results = []
        for b, seed in enumerate(seeds):
            root = Prefix((), int(host[b]), 0.0, stepper.one(state, b), 0)
            search = _BestFirst(stepper, scoring, end, seed, like=tokens)
            results.append(search.run(root, width, budget))
    return results[0] if single else results


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prefix to extend: its tokens, the last of them, and its row of the state before that one."""

    tokens: tuple[int, ...]
    last: int
    log_probability: float
    states: State
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Extensions:
    """The extensions of one prefix that can beat the best sequence, most likely first."""

    tokens: tuple[int, ...]
    new: Host  # the last token of each
    log_probabilities: Host
    states: State
    row: int

    def __getitem__(self, i: int) -> Prefix:
        token, value = int(self.new[i]), float(self.log_probabilities[i])
        return Prefix((*self.tokens, token), token, value, self.states, self.row)


class _BestFirst:
    """The search for one example."""

    def __init__(
        self, stepper: Stepper, scoring: Scoring, eos: int | None, seed: SearchResult, like: Any
    ) -> None:
        self.stepper = stepper
        self.scoring = scoring
        self.eos = eos
        self.seed = seed
        self.xp = backend.namespace(like)
        self.best: Hypothesis | None = seed.best if seed else None
        self.pruned = -math.inf
        self.expanded = seed.expanded
        # For each parent, only its best extension that was not yet taken waits in the heap.
        self.heap: list[tuple[float, int, Extensions, int]] = []
        self.order = itertools.count()

    @property
    def to_beat(self) -> float:
        return self.best.score if self.best else -math.inf

    def run(self, root: Prefix, width: int, budget: int) -> SearchResult:
        """Extend prefixes until none can beat the best sequence, or the budget is spent."""
        if self.seed.certified or not budget:
            self.pruned = self.seed.pruned
        else:
            self._expand([root])
            budget -= 1
            while budget and (prefixes := self._pop(min(width, budget))):
                self._expand(prefixes)
                budget -= len(prefixes)
            if self.heap:
                self.pruned = max(self.pruned, -self.heap[0][0])
            self.pruned = min(self.pruned, self.seed.pruned)  # both bounds hold
        found = [self.best] if self.best else []
        return SearchResult(found, self.pruned, self.expanded)

    def _pop(self, count: int) -> list[Prefix]:
        """The most promising prefixes, all of one length, since a state may depend on the length."""
        found: list[Prefix] = []
        while self.heap and len(found) < count and -self.heap[0][0] > self.to_beat:
            _, _, extensions, i = self.heap[0]
            if found and len(extensions.tokens) + 1 != len(found[0].tokens):
                break
            heapq.heappop(self.heap)
            found.append(extensions[i])
            self._push(extensions, i + 1)
        return found

    def _push(self, extensions: Extensions, i: int) -> None:
        if i < len(extensions.new):
            reach = self.scoring.reach(
                float(extensions.log_probabilities[i]), len(extensions.tokens) + 1
            )
            heapq.heappush(self.heap, (-reach, next(self.order), extensions, i))

    def _expand(self, prefixes: Sequence[Prefix]) -> None:
        """Run the step after some prefixes, and store the extensions that can beat the best sequence."""
        xp = self.xp
        tokens = xp.asarray(np.array([prefix.last for prefix in prefixes]))
        before = [self.stepper.one(p.states, p.row) for p in prefixes]
        log_probs, states = self.stepper(tokens, self.stepper.joined(before))
        # States wait in the heap, so they need memory that the step does not write to again.
        states = self.stepper.gather(states, xp.arange(len(prefixes)))
        [table] = self.stepper.fetch([log_probs])
        table = table.astype(np.float64)
        for row, prefix in enumerate(prefixes):
            check_values(table[row], f"after tokens {list(prefix.tokens)}")
            self._extend(prefix, prefix.log_probability + table[row], states, row)
        self.expanded += len(prefixes)

    def _extend(self, prefix: Prefix, sums: Host, states: State, row: int) -> None:
        length = len(prefix.tokens) + 1
        if self.eos is not None:
            self._offer(prefix, self.eos, float(sums[self.eos]), states, row)
            sums[self.eos] = -math.inf
        if length == self.scoring.max_length:
            token = int(np.argmax(sums))
            self._offer(prefix, token, float(sums[token]), states, row)
            return
        reach = self.scoring.reach(sums, length)
        open_ = reach > self.to_beat
        if not open_.all():
            self.pruned = max(self.pruned, float(reach[~open_].max()))
        new = np.flatnonzero(open_)
        new = new[np.argsort(-sums[new], kind="stable")]
        self._push(Extensions(prefix.tokens, new, sums[new], states, row), 0)

    def _offer(self, prefix: Prefix, token: int, value: float, states: State, row: int) -> None:
        """Take a complete sequence as the best one if it beats the best so far."""
        score = self.scoring.score(value, len(prefix.tokens) + 1)
        if score > self.to_beat:
            state = partial(self.stepper.one, states, row)
            ended = token == self.eos
            self.best = Hypothesis((*prefix.tokens, token), value, score, ended, state)
