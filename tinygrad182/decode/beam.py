"""Beam search, and the two searches that are beam searches of another width: greedy and exhaustive.

At each step the most likely prefixes of one length live on. The best prefix that does not live on is
remembered: it bounds what the search can have missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from .._numbers import check_whole
from ..arrays import backend
from ..arrays.namespaces import Array
from ..engine.modes import modes_kept, no_grad
from ..errors import ArgumentError
from .lattice import Lattice, LatticeStep
from .result import Hypothesis, Scoring, SearchResult
from .selection import best_candidates
from .step_function import Host, State, Step, Stepper, check_arguments, check_values

UNLIMITED = 10**15
"""A beam width at which nothing is pruned."""

MOST_SEQUENCES = 1_000_000
"""The most candidates that :func:`exhaustive` compares at one step."""


@modes_kept
def beam_search(
    step: Step,
    state: State,
    start: Any,
    beam_width: int,
    max_length: int,
    eos: int | None = None,
    length_penalty: float = 0.0,
    state_axis: int = 0,
    trace: bool = False,
) -> SearchResult | list[SearchResult]:
    """Search for the most likely sequences, and bound how much better the best of all can be.

    At each step every live prefix is extended by every token. Extensions by the end token are complete
    sequences, and all of them count. Of the others the ``beam_width`` most likely live on. An example stops
    when no live prefix can still get among its ``beam_width`` best complete sequences. Prefixes of
    ``max_length`` tokens are complete without an end token. With ``beam_width=1`` and no penalty this is
    greedy decoding: only the most likely token is taken, be it the end token or another.

    Parameters
    ----------
    step : callable
        The model: ``step(tokens, state) -> (log_probabilities, state)``. ``tokens`` is an int64 array (N,),
        the last token of each prefix. ``log_probabilities`` is an array or Tensor (N, M) for the next one.
        It runs on the device of the state, and no gradients are recorded.
    state : nested tuples, lists and dicts of arrays or Tensors
        The state before the start token. Every array has a row for each example on ``state_axis`` (one row
        if ``start`` is one token). Other values are passed on unchanged.
    start : int or sequence of int (B,), array or Tensor
        The first token of one example, or of each of B examples that are searched together. It is not a
        prompt: run the model over all tokens of a prompt but the last, and pass the last token with the
        state after the others. A list of several tokens needs a state with a row for each; without a state,
        pass an array. Numbers, lists and NumPy arrays are moved to the device of the state, or to the
        default device if the state has no array. A Tensor, or an array on a GPU, must be on the device of
        the state; if the state has no array, the search runs on the device of ``start``.
    beam_width, max_length : int
        K and T.
    eos : int, optional
        The end token. It counts as a token of its sequence.
    length_penalty : float
        Complete sequences are ranked by log-probability / length^penalty. Live prefixes have one length,
        and are ranked by log-probability.
    state_axis : int
        Use 1 for the ``(layers, N, H)`` states of ``tg.nn.LSTM``.
    trace : bool
        Store the lattice: every prefix that was kept, pruned or finished.

    Returns
    -------
    SearchResult, or a list of B of them
        Hypotheses, best first, with the certificate ``certified``, ``gap`` and ``bound``. There are fewer
        than ``beam_width`` if fewer sequences can be reached. Ties are broken by length, parent and token.

    Raises
    ------
    DecodingError
        A log-probability is NaN or above 0 (the message names the step and the parent), an array is not
        (N, M), or the state has no row for each prefix.
    ArgumentError
        A width, length, penalty, start token or end token is out of range.
    DeviceError
        Log-probabilities, start tokens or an array of the state are on another device than the state.
    IndexOutOfRangeError
        The step indexes beyond a table. On a GPU this is raised when the host reads the step.

    Notes
    -----
    Log-probabilities are at most 0, so no completion of a pruned prefix has a larger log-probability than
    the prefix itself. Let U be the best score that any pruned prefix could still reach. Then ``bound`` is
    max(best, U), and the best hypothesis is the global optimum if its score is at least U. This holds even
    if probabilities do not add up to 1. Sums are float64 whatever the dtype of the model.

    On a GPU the host waits once for a whole search without ``eos``, and once a step with ``eos``. A
    ``trace`` without ``eos`` holds K · M numbers a step on the GPU until the end.

    Examples
    --------
    A model without a state that prefers token 1, and whose token 0 ends a sequence:

    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> result = tg.decode.beam_search(step, None, start=0, beam_width=2, max_length=3)
    >>> result.tokens, round(result.log_probability, 4), result.certified
    ((1, 1, 1), -2.0794, False)
    >>> result[1].tokens, round(result.gap, 4)     # a pruned sequence could be better by at most 0.47
    ((1, 1, 2), 0.47)
    >>> result = tg.decode.beam_search(step, None, start=0, beam_width=2, max_length=3, eos=0)
    >>> result.tokens, result.certified
    ((0,), True)
    """
    width = check_whole("beam_search", "beam_width", beam_width, 1)
    given = check_arguments(step, state, start, max_length, eos, length_penalty, state_axis)
    with no_grad(), backend.on(given.tokens):
        search = BeamSearch(given.stepper, width, given.scoring, given.eos, trace)
        results = search.run(state, given.tokens)
    return results[0] if given.single else results


def greedy(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None = None,
    state_axis: int = 0,
    trace: bool = False,
) -> SearchResult | list[SearchResult]:
    """Take the most likely token at each step: :func:`beam_search` with ``beam_width=1``.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> result = tg.decode.greedy(step, None, start=0, max_length=3, eos=0)
    >>> result.tokens, result.certified            # (0,) is likelier, and was pruned
    ((1, 1, 1), False)
    """
    return beam_search(step, state, start, 1, max_length, eos, 0.0, state_axis, trace)


def exhaustive(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None = None,
    length_penalty: float = 0.0,
    state_axis: int = 0,
    trace: bool = False,
) -> SearchResult | list[SearchResult]:
    """Return all sequences, best first: :func:`beam_search` with a beam so wide that nothing is pruned.

    Parameters are those of :func:`beam_search`, without the width.

    Raises
    ------
    ArgumentError
        There are more than a million sequences. :func:`exact_search` finds the best one without
        holding all.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> result = tg.decode.exhaustive(step, None, start=0, max_length=2)
    >>> len(result), result.tokens, result[-1].tokens
    (9, (1, 1), (0, 0))
    """
    run: Any = step

    def limited(tokens: Array, state: State) -> Any:
        answer = run(tokens, state)
        values: Any = answer[0] if isinstance(answer, (tuple, list)) and answer else None
        if getattr(values, "ndim", 0) == 2 and tokens.shape[0] * values.shape[1] > MOST_SEQUENCES:
            raise ArgumentError(
                f"exhaustive: over {MOST_SEQUENCES:,} candidates at once, with {values.shape[1]} tokens; "
                "lower max_length, or use tg.decode.exact_search"
            )
        return answer

    step = limited if callable(run) else run
    return beam_search(
        step, state, start, UNLIMITED, max_length, eos, length_penalty, state_axis, trace
    )


class Expansion(NamedTuple):
    """One step of the A examples still searched: which prefixes it extended, and which it kept.

    Attributes
    ----------
    length : int
        Tokens in a prefix after the step.
    places : dict of int to int
        The row in the arrays of each example.
    before : array (A, K')
        Log-probabilities of the K' beams before the step; −inf for an empty beam.
    top : array (A, K')
        The largest log-probability of a next token after each of these beams.
    ends : array (A, K') or None
        The log-probability of each of these beams followed by the end token.
    kept, parents, tokens : arrays (A, K)
        The K beams after the step: log-probability, the beam that was extended, and the new token.
    pruned : array (A, 1) or (A, 0)
        Log-probability of the best candidate that was not kept, if there was one.
    candidates : array (A, K', M) or None
        For the lattice: the log-probability of every continuation, the end token included.
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
    """A complete sequence: its length, the beam that its last step extended, and its last token."""

    score: float
    log_probability: float
    length: int
    parent: int
    token: int
    state: Callable[[], State] = field(default=lambda: None)


class BeamSearch:
    """One :func:`beam_search` over a batch of examples.

    A prefix is stored as a link to a beam of the step before, and a token. The links are followed back at
    the end. On a GPU all steps are read in one transfer after the last one, with two exceptions that are
    read step by step: with an end token an example can stop early, and an unlimited beam grows every step.
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
        reads = self.eos is not None or self.width >= UNLIMITED or xp.device(tokens) == "cpu"
        self.steps: list[Expansion] = []  # those that the host has read
        self.complete: list[list[Complete]] = [[] for _ in range(B)]
        self.pruned = np.full(B, -math.inf)
        # The beams that the end token completed, by example and length.
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
        """Extend every beam by every token, and choose the best candidates."""
        xp, (A, K) = self.xp, beams.shape
        found = best_candidates(beams, log_probs, self.width + 1, without=self.eos)
        n = min(self.width, found.token.shape[1])
        ends = candidates = None
        if self.eos is not None:
            ends = beams + xp.reshape(log_probs[:, self.eos], (A, K))
        if self.trace:
            candidates = beams[:, :, None] + xp.reshape(log_probs, (A, K, log_probs.shape[1]))
        return Expansion(
            length=length,
            places=places,
            before=beams,
            top=found.top,
            ends=ends,
            kept=found.log_probability[:, :n],
            parents=found.parent[:, :n],
            tokens=found.token[:, :n],
            pruned=found.log_probability[:, n:],
            candidates=candidates,
        )

    def _advance(
        self, step: Expansion, going: Collection[int]
    ) -> tuple[dict[int, int], Array, Array, Array]:
        """Select the examples that go on.

        Returns their places, log-probabilities of their beams, rows of the state and last tokens.
        """
        xp, places = self.xp, step.places
        beams, parents, tokens = step.kept, step.parents, step.tokens
        chosen = xp.arange(len(places))
        if len(going) < len(places):
            chosen = xp.asarray(np.array([places[b] for b in going]))
            beams, parents, tokens = (xp.take(x, chosen, axis=0) for x in (beams, parents, tokens))
            places = {b: i for i, b in enumerate(going)}
        if going is not step.places:
            # An empty beam becomes a copy of the first: the step only gets prefixes that can be reached.
            empty = beams == -math.inf
            parents = xp.where(empty, parents[:, :1], parents)
            tokens = xp.where(empty, tokens[:, :1], tokens)
        rows = parents + step.before.shape[1] * chosen[:, None]
        return places, beams, xp.reshape(rows, (-1,)), xp.reshape(tokens, (-1,))

    # --- on the host ----------------------------------------------------------------------------

    def _read(self, steps: Sequence[Expansion]) -> None:
        """Bring steps to the host in one transfer, and check their numbers."""
        steps = steps if self.xp is backend.NUMPY else self.stepper.read(steps)
        self.steps += steps
        for step in steps:
            if not step.top.max() <= 0:
                wrong = (step.before > -math.inf) & ~(step.top <= 0)
                if wrong.any():
                    check_values(step.top[wrong], self._where(step, wrong))

    def _settle(self, step: Expansion, state: State) -> Collection[int]:
        """Count the sequences that ended at a step, and return the examples that can still improve.

        It returns ``step.places`` itself if all can and no beam is empty.
        """
        if self.eos is None and min(step.kept[:, -1].tolist()) > -math.inf:
            return step.places
        going = []
        for b, i in step.places.items():
            if self.eos is not None:
                self._end(b, step, self.eos)
            if self._can_improve(b, step.kept[i], step.length):
                going.append(b)
        self._store_states(step, state)
        return going

    def _account(self) -> None:
        """Count the prefixes extended, and find the best score that a pruned one could have reached."""
        for _, same in groupby(self.steps, key=lambda step: id(step.places)):
            steps = list(same)
            examples = list(steps[0].places)
            before = np.concatenate([step.before for step in steps], axis=1)
            reach = [self.scoring.reach(step.pruned, step.length) for step in steps]
            best = np.concatenate(reach, axis=1).max(axis=1, initial=-math.inf)
            self.expanded[examples] += (before > -math.inf).sum(axis=1)
            self.pruned[examples] = np.maximum(self.pruned[examples], best)

    def _end(self, b: int, step: Expansion, eos: int) -> None:
        """Complete the beams of an example with the end token."""
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
        """Whether an end token counts: always, unless decoding is greedy and another token is likelier."""
        if not self.greedy or not len(kept) or ended > kept[0]:
            return True
        if ended == kept[0] and eos < int(step.tokens[step.places[b], 0]):
            return True
        self.pruned[b] = max(self.pruned[b], self.scoring.score(ended, step.length))
        return False

    def _can_improve(self, b: int, kept: Host, length: int) -> bool:
        """Whether a beam of an example can still get among its best complete sequences."""
        if not len(kept) or kept[0] == -math.inf:
            return False
        reach = self.scoring.reach(float(kept[0]), length)
        ranked = self.complete[b]
        if len(ranked) < self.width or reach > ranked[-1].score:
            return True
        if length == self.scoring.max_length and reach == ranked[-1].score:
            return True  # a tie at equal length: parent and token decide
        self.pruned[b] = max(self.pruned[b], reach)
        return False

    def _add(self, b: int, step: Expansion, value: float, parent: int, token: int) -> None:
        score = self.scoring.score(value, step.length)
        self.complete[b].append(Complete(score, value, step.length, parent, token))

    def _rank(self, b: int) -> None:
        """Sort the complete sequences, ties by length, parent and token, and drop all but the best."""
        self.complete[b].sort(key=lambda one: (-one.score, one.length, one.parent, one.token))
        del self.complete[b][self.width :]

    def _complete_unfinished(self, examples: Collection[int], state: State) -> None:
        """Complete the beams that reached the greatest length."""
        step = self.steps[-1]
        for b in examples:
            i = step.places[b]
            columns = (x[i].tolist() for x in (step.kept, step.parents, step.tokens))
            for value, parent, token in zip(*columns, strict=True):
                if value > -math.inf:
                    self._add(b, step, value, parent, token)
            self._rank(b)
        self._store_states(step, state)

    def _store_states(self, step: Expansion, state: State) -> None:
        """Give the sequences completed at a step the state that their last token was chosen from."""
        rows, new = [], []
        for b, i in step.places.items():
            own = [sequence for sequence in self.complete[b] if sequence.length == step.length]
            rows += [i * step.before.shape[1] + sequence.parent for sequence in own]
            new += own
        if new:
            states = self.stepper.gather(state, self.xp.asarray(np.array(rows)))
            for n, sequence in enumerate(new):
                sequence.state = partial(self.stepper.one, states, n)

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

    # --- results --------------------------------------------------------------------------------

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
        """All tokens but the last of each sequence, by following the links of all sequences at once."""
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
        """Text that names the first beam with a wrong number: step, parent, example and tokens."""
        i, beam = (int(n) for n in np.argwhere(wrong)[0])
        b = next(b for b, place in step.places.items() if place == i)
        place = f"at step {step.length}, parent {beam}, example {b}"
        words: list[int] = []
        for earlier in reversed(self.steps[: step.length - 1]):
            at = earlier.places[b], beam
            words.append(int(earlier.tokens[at]))
            beam = int(earlier.parents[at])
        return f"{place}, after tokens {words[::-1]}"
