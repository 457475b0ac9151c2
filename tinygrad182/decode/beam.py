"""Beam search: the best prefixes of each length go on, and the best one that does not is remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..backend import Array
from .lattice import Lattice, LatticeStep
from .result import Hypothesis, Scoring, SearchResult
from .selection import best_candidates
from .stepping import State, Stepper, check_values

Host = np.ndarray[Any, Any]


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


@dataclass(slots=True, eq=False)
class Complete:
    """A complete sequence: its last step, the row of the prefix it extended there, and its last token."""

    score: float
    log_probability: float
    length: int
    row: int
    token: int
    state: Callable[[], State] = field(default=lambda: None)


class BeamSearch:
    """One search over a batch of examples; :func:`~tinygrad182.decode.beam_search` says what it does.

    Prefixes are kept as links, each to a row of the step before and a token, and read back at the end.
    Numbers are read by the host where they are there already, or where it has to know: an example can only
    stop early if there is an end token, so on a GPU a search without one is not waited for before its end.
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
        reads = self.eos is not None or self.trace or xp.device(tokens) == "cpu"
        self.steps: list[Expansion] = []
        self.links: list[tuple[Array, Array]] = []
        self.complete: list[list[Complete]] = [[] for _ in range(B)]
        self.pruned = np.full(B, -math.inf)
        self.counted: dict[int, list[int]] = {}
        self.expanded = np.zeros(B, int)
        self.lattices = [Lattice(self.scoring, self.eos) for _ in range(B if self.trace else 0)]
        places = {b: b for b in range(B)}
        beams = xp.zeros((B, 1), dtype=xp.dtype("float64"))
        state = self.stepper.gather(state, xp.arange(B))  # the step may write into its own
        for length in range(1, self.scoring.max_length + 1):
            log_probs, state = self.stepper(tokens, state)
            step = self._expand(places, beams, log_probs)
            self.steps.append(step)
            going = self._settle(step, state) if reads else list(places)
            if self.trace:
                self._note(step, log_probs)
            if not going or length == self.scoring.max_length:
                break
            places, beams, rows, tokens = self._advance(step, going)
            self.links.append((rows, tokens))
            state = self.stepper.gather(state, rows)
        if not reads:
            for step in self.steps:
                self._read(step)
        self._account()
        self._complete_unfinished(going, state)
        return self._results()

    def _expand(self, places: dict[int, int], beams: Array, log_probs: Array) -> Expansion:
        """Extend every beam by every token, and choose."""
        found = best_candidates(beams, log_probs, self.width + 1, without=self.eos)
        n = min(self.width, found.token.shape[1])
        return Expansion(
            length=len(self.steps) + 1,
            places=places,
            before=beams,
            top=found.top,
            ends=self._ends(beams, log_probs),
            kept=found.log_probability[:, :n],
            parents=found.parent[:, :n],
            tokens=found.token[:, :n],
            pruned=found.log_probability[:, n:],
        )

    def _ends(self, beams: Array, log_probs: Array) -> Array | None:
        if self.eos is None:
            return None
        return beams + self.xp.reshape(log_probs[:, self.eos], beams.shape)

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

    def _read(self, step: Expansion) -> tuple[Host, Host]:
        """Check a step's numbers; the log-probabilities kept and ended."""
        ends = step.before[:, :0] if step.ends is None else step.ends
        before, top, kept, ended = _fetch(self.xp, [step.before, step.top, step.kept, ends])
        if not top.max() <= 0:
            wrong = (before > -math.inf) & ~(top <= 0)
            if wrong.any():
                check_values(top[wrong], self._where(step, wrong))
        return kept, ended

    def _settle(self, step: Expansion, state: State) -> Collection[int]:
        """Count what ended at a step; the examples that can still get better.

        ``step.places`` itself where all do and no beam is empty.
        """
        kept, ended = self._read(step)
        if self.eos is None and min(kept[:, -1].tolist()) > -math.inf:
            return step.places
        going = []
        for b, i in step.places.items():
            if self.eos is not None:
                self._end(b, step, self.eos, ended[i].tolist(), kept[i])
            if self._can_improve(b, kept[i], step.length):
                going.append(b)
        self._keep_states(step, state)
        return going

    def _account(self) -> None:
        """Count the prefixes extended, and find the best score that those pruned could have reached."""
        xp = self.xp
        # Steps of the same examples go together: one transfer for all of them.
        for _, same in groupby(self.steps, key=lambda step: id(step.places)):
            steps = list(same)
            examples = list(steps[0].places)
            before = xp.concat([step.before for step in steps], axis=1)
            reach = [self.scoring.reach(step.pruned, step.length) for step in steps]
            best = xp.to_numpy(xp.concat(reach, axis=1)).max(axis=1, initial=-math.inf)
            self.expanded[examples] += (xp.to_numpy(before) > -math.inf).sum(axis=1)
            self.pruned[examples] = np.maximum(self.pruned[examples], best)

    def _end(self, b: int, step: Expansion, eos: int, ended: list[float], kept: Host) -> None:
        """Count the end token behind every beam of an example."""
        self.counted[b] = [
            parent
            for parent, value in enumerate(ended)
            if value > -math.inf and self._counts(step, b, value, kept, eos)
        ]
        for parent in self.counted[b]:
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
        row = step.places[b] * step.before.shape[1] + parent
        self.complete[b].append(Complete(score, value, step.length, row, token))

    def _rank(self, b: int) -> None:
        """Keep the best complete sequences; equals go by length, parent and token."""
        self.complete[b].sort(key=lambda one: (-one.score, one.length, one.row, one.token))
        del self.complete[b][self.width :]

    def _complete_unfinished(self, examples: Collection[int], state: State) -> None:
        """Count the beams that reached the greatest length."""
        step = self.steps[-1]
        kept, parents, tokens = (
            self.xp.to_numpy(x) for x in (step.kept, step.parents, step.tokens)
        )
        for b in examples:
            i = step.places[b]
            rows = zip(kept[i].tolist(), parents[i].tolist(), tokens[i].tolist(), strict=True)
            for value, parent, token in rows:
                if value > -math.inf:
                    self._add(b, step, value, parent, token)
            self._rank(b)
        self._keep_states(step, state)

    def _keep_states(self, step: Expansion, state: State) -> None:
        """Give the sequences completed at a step the states that chose their last tokens."""
        new = [
            sequence
            for b in step.places
            for sequence in self.complete[b]
            if sequence.length == step.length
        ]
        if new:
            rows = np.array([sequence.row for sequence in new])
            kept = self.stepper.gather(state, self.xp.asarray(rows))
            for n, sequence in enumerate(new):
                sequence.state = partial(self.stepper.one, self.xp, kept, n)

    def _note(self, step: Expansion, log_probs: Array) -> None:
        """Write a step into the lattices."""
        arrays = (step.before, step.kept, step.parents, step.tokens)
        before, kept, parents, tokens = (self.xp.to_numpy(x) for x in arrays)
        table = self.xp.to_numpy(log_probs).reshape(*before.shape, -1)
        for b, i in step.places.items():
            there = kept[i] > -math.inf
            self.lattices[b].steps.append(
                LatticeStep(
                    before[i][:, None] + table[i],
                    kept[i][there],
                    parents[i][there],
                    tokens[i][there],
                    tuple(self.counted.get(b, ())),
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
        rows = np.array([complete[n].row for n in longest_first], int)
        words = np.empty((len(complete), len(self.links)), int)
        begun = 0
        for length in range(len(self.links), 0, -1):
            while begun < len(complete) and complete[longest_first[begun]].length > length:
                begun += 1
            if begun:
                before, tokens = (self.xp.to_numpy(x) for x in self.links[length - 1])
                words[:begun, length - 1] = tokens.take(rows[:begun])
                rows[:begun] = before.take(rows[:begun])
        found: list[list[int]] = [[]] * len(complete)
        for n, prefix in zip(longest_first, words, strict=True):
            found[n] = prefix[: complete[n].length - 1].tolist()
        return found

    def _where(self, step: Expansion, wrong: Host) -> str:
        """The first of the beams that a step got a wrong number for, in words."""
        i, parent = (int(n) for n in np.argwhere(wrong)[0])
        b = next(b for b, place in step.places.items() if place == i)
        row = i * step.before.shape[1] + parent
        words: list[int] = []
        for before, tokens in reversed(self.links[: step.length - 1]):
            words.append(int(tokens[row]))
            row = int(before[row])
        return f"at step {step.length}, parent {parent}, example {b}, after tokens {words[::-1]}"


def _fetch(xp: Any, arrays: Sequence[Array]) -> list[Host]:
    """Arrays (A, ·) on the host, in one transfer."""
    if xp is backend.NUMPY:
        return list(arrays)
    wide = [xp.astype(x, "float64") for x in arrays]
    splits = np.cumsum([x.shape[1] for x in arrays])[:-1]
    return np.split(xp.to_numpy(xp.concat(wide, axis=1)), splits, axis=1)
