"""Sampling: tokens drawn from the model's distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..errors import ArgumentError
from ..modes import no_grad
from ..nn.init import generator
from .result import Hypotheses, Hypothesis
from .search import begin
from .selection import best_candidates
from .stepping import State, Step, Stepper, check_values, whole


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
    drawn = [Hypotheses([h for h in draw.found[b * many : (b + 1) * many] if h]) for b in range(B)]
    return drawn[0] if single else drawn


def _positive(temperature: Any) -> float:
    if not (isinstance(temperature, (int, float, np.number)) and 0 < temperature < math.inf):
        raise ArgumentError(
            f"sample: temperature {temperature!r} must be a number above 0; as it goes to 0, sampling "
            "becomes tg.decode.greedy"
        )
    return float(temperature)


class _Draw:
    """Sequences being drawn, each with a stream of chance of its own."""

    def __init__(
        self,
        stepper: Stepper,
        eos: int | None,
        temperature: float,
        top_k: int | None,
        streams: list[np.random.Generator],
        max_length: int,
    ) -> None:
        self.stepper = stepper
        self.eos = eos
        self.temperature = temperature
        self.top_k = top_k
        self.streams = streams
        self.max_length = max_length
        self.words: list[list[int]] = [[] for _ in streams]
        self.sums = [0.0] * len(streams)
        self.found: list[Hypothesis | None] = [None] * len(streams)

    def run(self, state: State, tokens: Array) -> None:
        self.xp = xp = backend.namespace(tokens)
        live = np.arange(len(self.streams))
        for length in range(1, self.max_length + 1):
            log_probs, state = self.stepper(tokens, state)
            chance = np.array([self.streams[n].random() for n in live])
            tokens, values = self._choose(log_probs, chance, length)
            last = length == self.max_length
            going = []
            for row, (n, word, value) in enumerate(
                zip(live.tolist(), xp.to_numpy(tokens).tolist(), values.tolist(), strict=True)
            ):
                if value == -math.inf:
                    continue  # a dead end
                self.words[n].append(word)
                self.sums[n] += value
                if word == self.eos or last:
                    self._finish(n, state, row)
                else:
                    going.append(row)
            if not going:
                return
            if len(going) < len(live):
                rows = xp.asarray(np.array(going))
                tokens, state = xp.take(tokens, rows, axis=0), self.stepper.gather(state, rows)
                live = live[going]

    def _choose(
        self, log_probs: Array, chance: np.ndarray[Any, Any], length: int
    ) -> tuple[Array, np.ndarray[Any, Any]]:
        """A token for each row, and its log-probability: −inf where none can be drawn."""
        xp = self.xp
        N, M = log_probs.shape
        values = xp.astype(log_probs, "float64")
        check_values(xp.to_numpy(xp.max(values, axis=1)), f"at step {length}")
        words = None
        if self.top_k is not None and self.top_k < M:
            nothing = xp.zeros((N, 1), dtype=values.dtype)
            values, _, words, _ = best_candidates(nothing, log_probs, self.top_k)
        highest = xp.max(values, axis=1, keepdims=True)
        highest = xp.where(highest == -math.inf, 0.0, highest)
        reached = xp.cumulative_sum(xp.exp((values - highest) / self.temperature), axis=1)
        total = reached[:, -1:]
        point = xp.from_numpy(chance[:, None], xp.device(log_probs)) * total
        # The second condition is for a point that was rounded up to the total.
        below = xp.astype((reached <= point) & (reached < total), "int64")
        at = xp.sum(below, axis=1)
        rows = xp.arange(N)
        chosen = xp.to_numpy(xp.index(values, (rows, at)))
        return (at if words is None else xp.index(words, (rows, at))), chosen

    def _finish(self, n: int, state: State, row: int) -> None:
        """Keep a sequence, with the state that chose its last token."""
        words, value = tuple(self.words[n]), self.sums[n]
        kept = self.stepper.one(self.xp, state, row)
        ended = words[-1] == self.eos
        self.found[n] = Hypothesis(words, value, value, ended, lambda: kept)
