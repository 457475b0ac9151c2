"""Ancestral sampling: draw each token from the model's distribution, given those before.

A temperature and top-k sampling change the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .._numbers import check_whole, real_number
from ..arrays import backend
from ..arrays.namespaces import Array
from ..engine.modes import modes_kept, no_grad
from ..errors import ArgumentError, brief
from ..nn.init import generator
from .result import Hypotheses, Hypothesis
from .selection import best_candidates
from .step_function import Host, State, Step, Stepper, check_arguments, check_values

AT_ONCE = 256
"""Random numbers are drawn, and moved to the device, for so many steps at once."""


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
        See :func:`beam_search`.
    temperature : float
        Log-probabilities are divided by it: below 1 the likely tokens become likelier.
    top_k : int, optional
        Draw from the k most likely tokens only. Of tokens that tie, the lower ones are taken.
    count : int
        The number of sequences for each example.
    rng : int or numpy.random.Generator, optional
        The source of random numbers. They are drawn on the host, so CPU and CUDA use equal ones. Each
        sequence has its own stream: it does not depend on the others, nor on ``count`` or ``max_length``.

    Returns
    -------
    Hypotheses, or a list of B of them
        In the order drawn. ``log_probability`` is the model's, at temperature 1. A sequence is left out if
        it comes to a prefix after which all tokens have probability 0.

    Raises
    ------
    ArgumentError
        A temperature, ``top_k`` or ``count`` is out of range.
    DecodingError, DeviceError
        See :func:`beam_search`.

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
    many = check_whole("sample", "count", count, 1)
    k = None if top_k is None else check_whole("sample", "top_k", top_k, 1)
    heat = _positive(temperature)
    given = check_arguments(step, state, start, max_length, eos, 0.0, state_axis)
    stepper, tokens, single, end, scoring = given
    B = tokens.shape[0]
    seeds = np.random.SeedSequence(int(generator(rng).integers(2**63))).spawn(B)
    streams = [np.random.default_rng(one) for seed in seeds for one in seed.spawn(many)]
    with no_grad(), backend.on(tokens):
        xp = backend.namespace(tokens)
        rows = xp.asarray(np.repeat(np.arange(B), many))
        draw = _Draw(stepper, end, heat, k, streams, scoring.max_length)
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
    """One step of the N sequences that are still drawn.

    Attributes
    ----------
    tokens : array (N,)
    values : array (N,), float64
        Their log-probabilities; −inf if all tokens have probability 0.
    top : array (N, 1)
        The largest log-probability of any token; NaN if one of them is NaN.
    """

    tokens: Array
    values: Array
    top: Array


@dataclass(eq=False)
class _Draw:
    """Sequences that are drawn together, each with its own stream of random numbers.

    On a GPU without an end token all steps are read in one transfer; otherwise they are read step by step.
    A sequence at a dead end goes on until it is read, and its further tokens are ignored.
    """

    stepper: Stepper
    eos: int | None
    temperature: float
    top_k: int | None
    streams: Sequence[np.random.Generator]
    max_length: int

    def __post_init__(self) -> None:
        self.drawn: list[Host] = []  # for each step, a token for each sequence
        self.sums = np.zeros(len(self.streams))  # −inf after a dead end
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
        """Random numbers in [0, 1) for some steps of the sequences that are still drawn: (steps, N)."""
        drawn = np.stack([self.streams[n].random(steps) for n in live.tolist()], axis=1)
        return self.xp.from_numpy(drawn, self.xp.device(like))

    def _choose(self, log_probs: Array, chance: Array) -> _Drawn:
        """Draw a token for each row: the first at which the cumulative probability is above ``chance``."""
        xp = self.xp
        N, M = log_probs.shape
        values, likeliest, top = xp.astype(log_probs, "float64"), None, None
        if self.top_k is not None and self.top_k < M:
            zeros = xp.zeros((N, 1), dtype=values.dtype)
            values, _, likeliest, top = best_candidates(zeros, log_probs, self.top_k)
        highest = xp.max(values, axis=1, keepdims=True)
        weights = xp.exp((values - xp.where(xp.isfinite(highest), highest, 0.0)) / self.temperature)
        # A cumulative sum computed in parallel may change by a rounding where a weight is 0.
        reached = xp.where(weights > 0, xp.cumulative_sum(weights, axis=1), 0.0)
        total = xp.max(reached, axis=1, keepdims=True)
        # Chance is at most 1 - 2^-53, so the product is below the total even after rounding.
        above = reached > xp.reshape(chance, (N, 1)) * total
        at = xp.argmax(xp.astype(above, "uint8"), axis=1)
        place = xp.arange(N), at
        tokens = at if likeliest is None else xp.index(likeliest, place)
        return _Drawn(tokens, xp.index(values, place), highest if top is None else top)

    def _read(self, steps: Sequence[_Drawn], live: Host, state: State) -> Host:
        """Bring steps to the host in one transfer, and return the rows that go on after the last one."""
        for step in steps if self.xp is backend.NUMPY else self.stepper.read(steps):
            going, ended = self._note(step, live)
        if len(ended):
            states = self.stepper.gather(state, self.xp.asarray(ended))
            for i, n in enumerate(live[ended].tolist()):
                self.ended[n] = len(self.drawn), partial(self.stepper.one, states, i)
        return going

    def _note(self, drawn: _Drawn, live: Host) -> tuple[Host, Host]:
        """Add a step to the sequences, and return the rows that go on and those that have ended."""
        length = len(self.drawn) + 1
        before = self.sums[live]
        alive = before > -math.inf
        check_values(drawn.top[alive], f"at step {length}")
        after = before + np.where(alive, drawn.values, -math.inf)
        self.sums[live] = after
        tokens = np.zeros(len(self.streams), np.int64)
        tokens[live] = drawn.tokens
        self.drawn.append(tokens)
        reached = after > -math.inf
        if length == self.max_length:
            return live[:0], reached.nonzero()[0]
        if self.eos is None:
            return reached.nonzero()[0], live[:0]
        end = drawn.tokens == self.eos
        return (reached & ~end).nonzero()[0], (reached & end).nonzero()[0]

    def hypotheses(self) -> list[Hypothesis | None]:
        """Each sequence with the state before its last token; None for a sequence at a dead end."""
        drawn, sums = np.stack(self.drawn, axis=1).tolist(), self.sums.tolist()
        found: list[Hypothesis | None] = [None] * len(self.streams)
        for n, (length, state) in self.ended.items():
            tokens = tuple(drawn[n][:length])
            found[n] = Hypothesis(tokens, sums[n], sums[n], tokens[-1] == self.eos, state)
        return found
