"""Beam search: the best prefixes of each length go on, and the best one that does not is remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from .lattice import Lattice, LatticeStep
from .result import Hypothesis, Scoring, SearchResult
from .selection import best_candidates
from .step_function import Host, State, Stepper, check_values

ALL = 10**15
"""A width at which nothing is pruned."""


class Expansion(NamedTuple):
    """One step of the examples still searched: what it extended and what it kept.

    Attributes
    ----------
    length : int
        Tokens in a prefix after the step.
    places : dict of int to int
        Example → its row in the arrays.
    before : array (A, K')
        Log-probabilities of the beams that were extended; −inf in one that holds nothing.
    top : array (A, K')
        The largest log-probability of a next token after each of them.
    ends : array (A, K') or None
        The log-probability of each of them with the end token behind it.
    kept, parents, tokens : arrays (A, K)
        The beams after the step: log-probability, the beam extended, and by which token.
    pruned : array (A, 1) or (A, 0)
        Log-probability of the best candidate that was not kept, if there was one.
    candidates : array (A, K', M) or None
        Log-probability of every continuation, the end token included, for the lattice.
    """

    length: int
    places: dict[int, int]
    before: Array
    top: Array
    ends: Array | None
    kept: Array
    parents: Array
    tokens: Array
    pruned: Array
    candidates: Array | None


@dataclass(slots=True, eq=False)
class Complete:
    """A complete sequence: its last step, the beam that it extended there, and its last token."""

    score: float
    log_probability: float
    length: int
    parent: int
    token: int
    state: Callable[[], State] = field(default=lambda: None)


class BeamSearch:
    """One search over a batch of examples; :func:`~tinygrad182.decode.beam_search` says what it does.

    Prefixes are kept as links, each to a beam of the step before and a token, and read back at the end.
    The host reads a step's numbers when they are made if they are there already, or if it has to know: an
    example can stop early if there is an end token, and a search that prunes nothing grows with every step.
    On a GPU that is one transfer a step; any other search is read in one transfer after its last step.
    """

    def __init__(
        self, stepper: Stepper, width: int, scoring: Scoring, eos: int | None, trace: bool = False
    ) -> None:
        self.stepper = stepper
        self.width = width
        self.scoring = scoring
        self.eos = eos
        self.trace = trace
        # Without a penalty a beam of one takes the most likely token, as greedy decoding does.
        self.greedy = width == 1 and not scoring.penalty

    def run(self, state: State, tokens: Array) -> list[SearchResult]:
        """Search from each of the start tokens (B,)."""
        B = tokens.shape[0]
        self.xp = xp = backend.namespace(tokens)
        reads = self.eos is not None or self.width >= ALL or xp.device(tokens) == "cpu"
        self.steps: list[Expansion] = []  # what the host has read
        self.complete: list[list[Complete]] = [[] for _ in range(B)]
        self.pruned = np.full(B, -math.inf)
        self.counted: dict[tuple[int, int], list[int]] = {}
        self.expanded = np.zeros(B, int)
        self.lattices = [Lattice(self.scoring, self.eos) for _ in range(B if self.trace else 0)]
        places = {b: b for b in range(B)}
        beams = xp.zeros((B, 1), dtype=xp.dtype("float64"))
        state = self.stepper.gather(state, xp.arange(B))  # the step may write into its own
        unread: list[Expansion] = []
        for length in range(1, self.scoring.max_length + 1):
            log_probs, state = self.stepper(tokens, state)
            step = self._expand(length, places, beams, log_probs)
            going: Collection[int]
            if reads:
                self._read([step])
                going = self._settle(self.steps[-1], state)
            else:
                unread.append(step)
                going = list(places)
            if not going or length == self.scoring.max_length:
                break
            places, beams, rows, tokens = self._advance(step, going)
            state = self.stepper.gather(state, rows)
        self._read(unread)
        self._account()
        self._complete_unfinished(going, state)
        if self.trace:
            self._note()
        return self._results()

    def _expand(
        self, length: int, places: dict[int, int], beams: Array, log_probs: Array
    ) -> Expansion:
        """Extend every beam by every token, and choose."""
        found = best_candidates(beams, log_probs, self.width + 1, without=self.eos)
        n = min(self.width, found.token.shape[1])
        return Expansion(
            length=length,
            places=places,
            before=beams,
            top=found.top,
            ends=self._ends(beams, log_probs),
            kept=found.log_probability[:, :n],
            parents=found.parent[:, :n],
            tokens=found.token[:, :n],
            pruned=found.log_probability[:, n:],
            candidates=self._candidates(beams, log_probs) if self.trace else None,
        )

    def _ends(self, beams: Array, log_probs: Array) -> Array | None:
        if self.eos is None:
            return None
        return beams + self.xp.reshape(log_probs[:, self.eos], beams.shape)

    def _candidates(self, beams: Array, log_probs: Array) -> Array:
        return beams[:, :, None] + self.xp.reshape(log_probs, (*beams.shape, log_probs.shape[1]))

    def _advance(
        self, step: Expansion, going: Collection[int]
    ) -> tuple[dict[int, int], Array, Array, Array]:
        """The beams of the examples that go on, the rows of the state they go on from, and their tokens."""
        xp, places = self.xp, step.places
        beams, parents, tokens = step.kept, step.parents, step.tokens
        chosen = xp.arange(len(places))
        if len(going) < len(places):
            chosen = xp.asarray(np.array([places[b] for b in going]))
            beams, parents, tokens = (xp.take(x, chosen, axis=0) for x in (beams, parents, tokens))
            places = {b: i for i, b in enumerate(going)}
        if going is not step.places:
            # A beam that holds nothing goes along as a copy of the first one: the step is asked about
            # prefixes that can be reached, and no others.
            empty = beams == -math.inf
            parents = xp.where(empty, parents[:, :1], parents)
            tokens = xp.where(empty, tokens[:, :1], tokens)
        rows = parents + step.before.shape[1] * chosen[:, None]
        return places, beams, xp.reshape(rows, (-1,)), xp.reshape(tokens, (-1,))

    # --- what the host reads --------------------------------------------------------------------

    def _read(self, steps: Sequence[Expansion]) -> None:
        """Bring steps to the host, in one transfer, and check their numbers."""
        steps = steps if self.xp is backend.NUMPY else self.stepper.read(steps)
        self.steps += steps
        for step in steps:
            if not step.top.max() <= 0:
                wrong = (step.before > -math.inf) & ~(step.top <= 0)
                if wrong.any():
                    check_values(step.top[wrong], self._where(step, wrong))

    def _settle(self, step: Expansion, state: State) -> Collection[int]:
        """Count what ended at a step; the examples that can still get better.

        ``step.places`` itself where all do and no beam is empty.
        """
        if self.eos is None and min(step.kept[:, -1].tolist()) > -math.inf:
            return step.places
        going = []
        for b, i in step.places.items():
            if self.eos is not None:
                self._end(b, step, self.eos)
            if self._can_improve(b, step.kept[i], step.length):
                going.append(b)
        self._keep_states(step, state)
        return going

    def _account(self) -> None:
        """Count the prefixes extended, and find the best score that those pruned could have reached."""
        for _, same in groupby(self.steps, key=lambda step: id(step.places)):
            steps = list(same)
            examples = list(steps[0].places)
            before = np.concatenate([step.before for step in steps], axis=1)
            reach = [self.scoring.reach(step.pruned, step.length) for step in steps]
            best = np.concatenate(reach, axis=1).max(axis=1, initial=-math.inf)
            self.expanded[examples] += (before > -math.inf).sum(axis=1)
            self.pruned[examples] = np.maximum(self.pruned[examples], best)

    def _end(self, b: int, step: Expansion, eos: int) -> None:
        """Count the end token behind every beam of an example."""
        i = step.places[b]
        ended: list[float] = step.ends[i].tolist()  # type: ignore[index]
        parents = [
            parent
            for parent, value in enumerate(ended)
            if value > -math.inf and self._counts(step, b, value, step.kept[i], eos)
        ]
        self.counted[b, step.length] = parents
        for parent in parents:
            self._add(b, step, ended[parent], parent, eos)
        self._rank(b)

    def _counts(self, step: Expansion, b: int, ended: float, kept: Host, eos: int) -> bool:
        """Whether an end token is taken: from every beam, unless decoding is greedy."""
        if not self.greedy or not len(kept) or ended > kept[0]:
            return True
        if ended == kept[0] and eos < int(step.tokens[step.places[b], 0]):
            return True
        self.pruned[b] = max(self.pruned[b], self.scoring.score(ended, step.length))
        return False

    def _can_improve(self, b: int, kept: Host, length: int) -> bool:
        """Whether a beam of an example can still get among its best hypotheses."""
        if not len(kept) or kept[0] == -math.inf:
            return False
        reach = self.scoring.reach(float(kept[0]), length)
        ranked = self.complete[b]
        if len(ranked) < self.width or reach > ranked[-1].score:
            return True
        if length == self.scoring.max_length and reach == ranked[-1].score:
            return True  # of equal length: parent and token decide
        self.pruned[b] = max(self.pruned[b], reach)
        return False

    def _add(self, b: int, step: Expansion, value: float, parent: int, token: int) -> None:
        score = self.scoring.score(value, step.length)
        self.complete[b].append(Complete(score, value, step.length, parent, token))

    def _rank(self, b: int) -> None:
        """Keep the best complete sequences; equals go by length, parent and token."""
        self.complete[b].sort(key=lambda one: (-one.score, one.length, one.parent, one.token))
        del self.complete[b][self.width :]

    def _complete_unfinished(self, examples: Collection[int], state: State) -> None:
        """Count the beams that reached the greatest length."""
        step = self.steps[-1]
        for b in examples:
            i = step.places[b]
            columns = (x[i].tolist() for x in (step.kept, step.parents, step.tokens))
            for value, parent, token in zip(*columns, strict=True):
                if value > -math.inf:
                    self._add(b, step, value, parent, token)
            self._rank(b)
        self._keep_states(step, state)

    def _keep_states(self, step: Expansion, state: State) -> None:
        """Give the sequences completed at a step the states that chose their last tokens."""
        rows, new = [], []
        for b, i in step.places.items():
            own = [sequence for sequence in self.complete[b] if sequence.length == step.length]
            rows += [i * step.before.shape[1] + sequence.parent for sequence in own]
            new += own
        if new:
            kept = self.stepper.gather(state, self.xp.asarray(np.array(rows)))
            for n, sequence in enumerate(new):
                sequence.state = partial(self.stepper.one, kept, n)

    def _note(self) -> None:
        """Write all steps into the lattices."""
        for step in self.steps:
            for b, i in step.places.items():
                there = step.kept[i] > -math.inf
                self.lattices[b].steps.append(
                    LatticeStep(
                        step.candidates[i],  # type: ignore[index]
                        step.kept[i][there],
                        step.parents[i][there],
                        step.tokens[i][there],
                        tuple(self.counted.get((b, step.length), ())),
                    )
                )

    # --- what comes out -------------------------------------------------------------------------

    def _results(self) -> list[SearchResult]:
        complete = [one for sequences in self.complete for one in sequences]
        hypotheses = [
            Hypothesis(
                (*prefix, one.token),
                one.log_probability,
                one.score,
                one.token == self.eos,
                one.state,
            )
            for prefix, one in zip(self._prefixes(complete), complete, strict=True)
        ]
        found = iter(hypotheses)
        return [
            SearchResult(
                list(islice(found, len(sequences))),
                float(self.pruned[b]),
                int(self.expanded[b]),
                self.lattices[b] if self.trace else None,
            )
            for b, sequences in enumerate(self.complete)
        ]

    def _prefixes(self, complete: Sequence[Complete]) -> list[list[int]]:
        """The tokens of each sequence but the last one, read from the links, all sequences at once."""
        longest_first = sorted(range(len(complete)), key=lambda n: -complete[n].length)
        example = np.repeat(np.arange(len(self.complete)), [len(one) for one in self.complete])
        example = example[longest_first]
        beam = np.array([complete[n].parent for n in longest_first], int)
        words = np.empty((len(complete), len(self.steps)), int)
        places, row = None, example
        begun = 0
        for step in reversed(self.steps[:-1]):
            while begun < len(complete) and complete[longest_first[begun]].length > step.length:
                begun += 1
            if step.places is not places:
                places = step.places
                row = np.array([places.get(b, 0) for b in range(len(self.complete))])[example]
            if begun:
                at = row[:begun], beam[:begun]
                words[:begun, step.length - 1] = step.tokens[at]
                beam[:begun] = step.parents[at]
        found: list[list[int]] = [[]] * len(complete)
        for n, prefix in zip(longest_first, words, strict=True):
            found[n] = prefix[: complete[n].length - 1].tolist()
        return found

    def _where(self, step: Expansion, wrong: Host) -> str:
        """The first of the beams that a step got a wrong number for, in words."""
        i, beam = (int(n) for n in np.argwhere(wrong)[0])
        b = next(b for b, place in step.places.items() if place == i)
        place = f"at step {step.length}, parent {beam}, example {b}"
        words: list[int] = []
        for earlier in reversed(self.steps[: step.length - 1]):
            at = earlier.places[b], beam
            words.append(int(earlier.tokens[at]))
            beam = int(earlier.parents[at])
        return f"{place}, after tokens {words[::-1]}"
