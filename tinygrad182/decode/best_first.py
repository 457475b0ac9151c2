"""Exact search: prefixes in the order of what they could still reach, until nothing can beat the best."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import backend
from ..modes import modes_kept, no_grad
from .beam import BeamSearch
from .result import Hypothesis, Scoring, SearchResult
from .search import begin
from .step_function import Host, State, Step, Stepper, check_values, whole


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
    """Find the best sequence of all, and prove it.

    Beam search finds a good sequence first. Then prefixes are extended in the order of the best score they
    could still reach (a best-first search whose bound is the certificate's, see :func:`beam_search`), until
    none can beat the best sequence found. Log-probabilities that are peaked are searched fast; flat ones
    leave many prefixes open.

    Parameters
    ----------
    step, state, start, max_length, eos, length_penalty, state_axis
        As :func:`beam_search` takes them.
    beam_width : int
        Width of the first search, and how many prefixes one call of ``step`` is asked about.
    max_expansions : int
        After so many prefixes of each example the search gives up, with the best sequence so far and an
        honest ``bound``.

    Returns
    -------
    SearchResult, or a list of B of them
        One hypothesis, any of those that are equally good; ``certified`` unless the search gave up.

    Raises
    ------
    ArgumentError, DecodingError, DeviceError
        As :func:`beam_search`.

    Examples
    --------
    The second word decides how likely the third is, which a beam of one cannot know:

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
    width = whole(beam_width, "beam_width", 1)
    budget = whole(max_expansions, "max_expansions", 0)
    stepper, tokens, single, end, scoring = begin(
        step, state, start, max_length, eos, length_penalty, state_axis
    )
    with no_grad(), backend.on(tokens):
        seeds = BeamSearch(stepper, width, scoring, end).run(state, tokens)
        host = backend.namespace(tokens).to_numpy(tokens)
        results = []
        for b, seed in enumerate(seeds):
            own = stepper.one(state, b)
            search = _BestFirst(stepper, scoring, end, seed, like=tokens)
            results.append(search.run(Prefix((), int(host[b]), 0.0, own, 0), width, budget))
    return results[0] if single else results


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prefix to extend: its tokens, what ``step`` is given for it, and the state it was chosen in."""

    tokens: tuple[int, ...]
    last: int
    log_probability: float
    states: State
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The continuations of one prefix that can beat the best sequence, most likely first."""

    tokens: tuple[int, ...]
    words: Host
    log_probabilities: Host
    states: State
    row: int

    def __getitem__(self, i: int) -> Prefix:
        word = int(self.words[i])
        value = float(self.log_probabilities[i])
        return Prefix((*self.tokens, word), word, value, self.states, self.row)


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
        # Of each family only the best member not yet extended waits.
        self.heap: list[tuple[float, int, Family, int]] = []
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
            self.pruned = min(self.pruned, self.seed.pruned)  # what beam search has proven holds
        found = [self.best] if self.best else []
        return SearchResult(found, self.pruned, self.expanded)

    def _pop(self, count: int) -> list[Prefix]:
        """The prefixes that could reach most, of one length: a state may depend on it."""
        found: list[Prefix] = []
        while self.heap and len(found) < count and -self.heap[0][0] > self.to_beat:
            _, _, family, i = self.heap[0]
            if found and len(family.tokens) + 1 != len(found[0].tokens):
                break
            heapq.heappop(self.heap)
            found.append(family[i])
            self._push(family, i + 1)
        return found

    def _push(self, family: Family, i: int) -> None:
        if i < len(family.words):
            reach = self.scoring.reach(float(family.log_probabilities[i]), len(family.tokens) + 1)
            heapq.heappush(self.heap, (-reach, next(self.order), family, i))

    def _expand(self, prefixes: Sequence[Prefix]) -> None:
        """Ask the model about some prefixes; keep what can beat the best sequence."""
        xp = self.xp
        tokens = xp.asarray(np.array([prefix.last for prefix in prefixes]))
        given = [self.stepper.one(p.states, p.row) for p in prefixes]
        log_probs, states = self.stepper(tokens, self.stepper.joined(given))
        # They wait on the heap: the step may use its own memory again.
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
            word = int(np.argmax(sums))
            self._offer(prefix, word, float(sums[word]), states, row)
            return
        reach = self.scoring.reach(sums, length)
        open_ = reach > self.to_beat
        if not open_.all():
            self.pruned = max(self.pruned, float(reach[~open_].max()))
        words = np.flatnonzero(open_)
        words = words[np.argsort(-sums[words], kind="stable")]
        self._push(Family(prefix.tokens, words, sums[words], states, row), 0)

    def _offer(self, prefix: Prefix, word: int, value: float, states: State, row: int) -> None:
        """A complete sequence: the best one so far, or not."""
        score = self.scoring.score(value, len(prefix.tokens) + 1)
        if score > self.to_beat:
            state = partial(self.stepper.one, states, row)
            ended = word == self.eos
            self.best = Hypothesis((*prefix.tokens, word), value, score, ended, state)
