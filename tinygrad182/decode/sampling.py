"""Sampling: tokens drawn from the model's distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from .._numbers import real_number
from ..backend import Array
from ..errors import ArgumentError, brief
from ..modes import modes_kept, no_grad
from ..nn.init import generator
from .result import Hypotheses, Hypothesis
from .search import begin
from .selection import best_candidates
from .step_function import Host, State, Step, Stepper, check_values, whole

AT_ONCE = 256
"""Steps for which chance is drawn, and brought to a device, at once."""


@modes_kept
def sample(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None = None,
    state_axis: int = 0,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    count: int = 1,
    rng: int | np.random.Generator | None = None,
) -> Hypotheses | list[Hypotheses]:
    """Draw sequences, token by token.

    Parameters
    ----------
    step, state, start, max_length, eos, state_axis
        As :func:`beam_search` takes them.
    temperature : float
        Log-probabilities are divided by it: below 1 the likely tokens become likelier.
    top_k : int, optional
        Draw from the k most likely tokens only; among equals the lower ones.
    count : int
        How many sequences for each example.
    rng : int or numpy.random.Generator, optional
        Where chance comes from. Numbers are drawn on the host, so CPU and CUDA start equal, and from a
        stream for each sequence, so it depends on no other, nor on ``count`` or ``max_length``.

    Returns
    -------
    Hypotheses, or a list of B of them
        In the order drawn. ``log_probability`` is the model's, at temperature 1. A sequence that comes to a
        point from which nothing can be reached is left out.

    Raises
    ------
    ArgumentError
        A temperature, ``top_k`` or ``count`` that makes no sense.
    DecodingError, DeviceError
        As :func:`beam_search`.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> drawn = tg.decode.sample(step, None, start=0, max_length=1, count=1000, rng=0)
    >>> np.bincount([h.tokens[0] for h in drawn]) / 1000
    array([0.205, 0.516, 0.279])
    """
    many = whole(count, "count", 1)
    k = None if top_k is None else whole(top_k, "top_k", 1)
    warmth = _positive(temperature)
    stepper, tokens, single, end, scoring = begin(
        step, state, start, max_length, eos, 0.0, state_axis
    )
    B = tokens.shape[0]
    seeds = np.random.SeedSequence(int(generator(rng).integers(2**63))).spawn(B)
    streams = [np.random.default_rng(one) for seed in seeds for one in seed.spawn(many)]
    with no_grad(), backend.on(tokens):
        xp = backend.namespace(tokens)
        rows = xp.asarray(np.repeat(np.arange(B), many))
        draw = _Draw(stepper, end, warmth, k, streams, scoring.max_length)
        draw.run(stepper.gather(state, rows), xp.take(tokens, rows, axis=0))
    found = draw.hypotheses()
    drawn = [Hypotheses([h for h in found[b * many : (b + 1) * many] if h]) for b in range(B)]
    return drawn[0] if single else drawn


def _positive(temperature: Any) -> float:
    number = real_number(temperature)
    if not 0 < number < math.inf:
        raise ArgumentError(
            f"sample: temperature {brief(temperature)} must be a number above 0; as it goes to 0, sampling "
            "becomes tg.decode.greedy"
        )
    return number


class _Drawn(NamedTuple):
    """One step of the sequences still drawn: a row for each.

    Attributes
    ----------
    tokens : array (N,)
    values : array (N,), float64
        Their log-probabilities: −inf where nothing can be reached.
    top : array (N, 1)
        The largest log-probability there was; NaN if one of them was NaN.
    """

    tokens: Array
    values: Array
    top: Array


class _Draw:
    """Sequences being drawn, each with a stream of chance of its own.

    The host reads a step when it is made if its numbers are there already, or if an end token can end a
    sequence; otherwise all steps in one transfer. Sequences that have come to a dead end go on until they
    are read, and what the step then says of them is not looked at.
    """

    def __init__(
        self,
        stepper: Stepper,
        eos: int | None,
        temperature: float,
        top_k: int | None,
        streams: Sequence[np.random.Generator],
        max_length: int,
    ) -> None:
        self.stepper = stepper
        self.eos = eos
        self.temperature = temperature
        self.top_k = top_k
        self.streams = streams
        self.max_length = max_length
        self.words: list[Host] = []  # of each step, a token for each sequence
        self.sums = np.zeros(len(streams))  # −inf after a dead end
        self.ended: dict[int, tuple[int, Callable[[], State]]] = {}  # sequence → length and state

    def run(self, state: State, tokens: Array) -> None:
        """Draw until every sequence has ended."""
        self.xp = xp = backend.namespace(tokens)
        reads = self.eos is not None or xp.device(tokens) == "cpu"
        live = np.arange(len(self.streams))
        unread: list[_Drawn] = []
        for length in range(1, self.max_length + 1):
            log_probs, state = self.stepper(tokens, state)
            if (length - 1) % AT_ONCE == 0:
                chance = self._chance(live, min(AT_ONCE, self.max_length - length + 1), tokens)
            unread.append(self._choose(log_probs, chance[(length - 1) % AT_ONCE, ...]))
            tokens = unread[-1].tokens
            if not reads and length < self.max_length:
                continue
            going = self._read(unread, live, state)
            unread = []
            if not len(going):
                return
            if len(going) < len(live):
                rows = xp.asarray(going)
                tokens, chance = xp.take(tokens, rows, axis=0), xp.take(chance, rows, axis=1)
                live, state = live[going], self.stepper.gather(state, rows)

    def _chance(self, live: Host, steps: int, like: Array) -> Array:
        """Numbers in [0, 1) for some steps of the sequences still drawn: (steps, N)."""
        drawn = np.stack([self.streams[n].random(steps) for n in live.tolist()], axis=1)
        return self.xp.from_numpy(drawn, self.xp.device(like))

    def _choose(self, log_probs: Array, chance: Array) -> _Drawn:
        """A token for each row, where the running sum of probabilities comes above chance."""
        xp = self.xp
        N, M = log_probs.shape
        values, words, top = xp.astype(log_probs, "float64"), None, None
        if self.top_k is not None and self.top_k < M:
            nothing = xp.zeros((N, 1), dtype=values.dtype)
            values, _, words, top = best_candidates(nothing, log_probs, self.top_k)
        highest = xp.max(values, axis=1, keepdims=True)
        weights = xp.exp((values - xp.where(xp.isfinite(highest), highest, 0.0)) / self.temperature)
        # A running sum made in parallel may rise or fall by a rounding where a weight is 0.
        reached = xp.where(weights > 0, xp.cumulative_sum(weights, axis=1), 0.0)
        total = xp.max(reached, axis=1, keepdims=True)
        # Chance is at most 1 - 2^-53, so the product is below the total, as rounded as it may be.
        there = reached > xp.reshape(chance, (N, 1)) * total
        at = xp.argmax(xp.astype(there, "uint8"), axis=1)
        place = xp.arange(N), at
        tokens = at if words is None else xp.index(words, place)
        return _Drawn(tokens, xp.index(values, place), highest if top is None else top)

    def _read(self, steps: Sequence[_Drawn], live: Host, state: State) -> Host:
        """Bring steps to the host, in one transfer; the rows that go on after the last one."""
        for step in steps if self.xp is backend.NUMPY else self.stepper.read(steps):
            going, ended = self._note(step, live)
        if len(ended):
            kept = self.stepper.gather(state, self.xp.asarray(ended))
            for i, n in enumerate(live[ended].tolist()):
                self.ended[n] = len(self.words), partial(self.stepper.one, kept, i)
        return going

    def _note(self, drawn: _Drawn, live: Host) -> tuple[Host, Host]:
        """Add a step to the sequences: the rows that go on, and those that have ended."""
        length = len(self.words) + 1
        before = self.sums[live]
        alive = before > -math.inf
        check_values(drawn.top[alive], f"at step {length}")
        after = before + np.where(alive, drawn.values, -math.inf)
        self.sums[live] = after
        words = np.zeros(len(self.streams), np.int64)
        words[live] = drawn.tokens
        self.words.append(words)
        reached = after > -math.inf
        if length == self.max_length:
            return live[:0], reached.nonzero()[0]
        if self.eos is None:
            return reached.nonzero()[0], live[:0]
        end = drawn.tokens == self.eos
        return (reached & ~end).nonzero()[0], (reached & end).nonzero()[0]

    def hypotheses(self) -> list[Hypothesis | None]:
        """Each sequence with the state that chose its last token; None for one that came to a dead end."""
        words, sums = np.stack(self.words, axis=1).tolist(), self.sums.tolist()
        found: list[Hypothesis | None] = [None] * len(self.streams)
        for n, (length, state) in self.ended.items():
            tokens = tuple(words[n][:length])
            found[n] = Hypothesis(tokens, sums[n], sums[n], tokens[-1] == self.eos, state)
        return found
