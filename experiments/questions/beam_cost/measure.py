"""Time beam search with the state stored and without, count its steps, and search in two stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import tinygrad182 as tg
from models import CharLM

if TYPE_CHECKING:
    from experiments.questions.beam_cost import BeamCostOptions

FIRST_CHARACTER = 0x4E00
"""Vocabularies are consecutive characters from this code point on."""

Beams = list[tuple[tuple[int, ...], float]]
"""Sequences and their log-probabilities, best first."""


@dataclass(frozen=True)
class Decoder:
    """A character model with random weights, M tokens and H hidden units, as a search asks it."""

    vocabulary: int
    hidden_size: int
    seed: int
    device: str = "cpu"

    def steps(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return a step that stores the state, and one that gets the tokens alone and starts over."""
        words = "".join(chr(FIRST_CHARACTER + i) for i in range(self.vocabulary))
        made: dict[str, Any] = {"rng": self.seed, "dtype": "float64", "device": self.device}
        model = CharLM(words, hidden_size=self.hidden_size, **made)
        model.head.weight.assign(
            20 * model.head.weight.numpy()
        )  # so that tokens differ in likelihood
        stored = model.frozen_step()

        def again(tokens: Any, prefix: Any) -> tuple[Any, Any]:
            """Re-run from the start: the state is the tokens so far, (N, t)."""
            xp = tg.backend.namespace(tokens)
            prefix = xp.concat([prefix, tokens[:, None]], axis=1)
            *earlier, last = xp.unstack(xp.copy(prefix.T))
            state = None
            for column in earlier:
                state = stored.states(column, state)
            values, _ = stored(last, state)
            return values, prefix

        return stored, again

    def zero_state(self) -> tuple[Any, Any]:
        """Hidden and cell state before the start token."""
        shape = (1, 1, self.hidden_size)
        zero = tg.zeros(shape, dtype="float64", device=self.device).data
        return zero, zero

    def no_tokens(self) -> Any:
        """The state of a search that keeps the tokens alone, before the start token."""
        return tg.zeros((1, 0), dtype="int64", device=self.device).data


@dataclass(frozen=True)
class Cost:
    """One search, done both ways.

    Attributes
    ----------
    length, width, vocabulary : int
        T, K and M.
    stored, again : float
        Seconds, least of several runs.
    stored_steps, again_steps : int
        Single steps of the model: of one hypothesis by one token.
    difference : float
        Largest difference of the hypotheses' log-probabilities; infinite if the tokens differ.
    """

    length: int
    width: int
    vocabulary: int
    stored: float
    again: float
    stored_steps: int
    again_steps: int
    difference: float


def time_both(
    decoder: Decoder, length: int, width: int, repeats: int, advance: Callable[[], object]
) -> Cost:
    """Search with the state stored and by running again, in turns."""
    stored, again = decoder.steps()
    least = [float("inf")] * 2
    results: list[Any] = [None, None]
    counts = [0, 0]

    def keeping(tokens: Any, state: Any) -> Any:
        counts[0] += tokens.shape[0]
        return stored(tokens, state)

    def repeating(tokens: Any, prefix: Any) -> Any:
        counts[1] += tokens.shape[0] * (prefix.shape[1] + 1)
        return again(tokens, prefix)

    ways = [(keeping, decoder.zero_state(), 1), (repeating, decoder.no_tokens(), 0)]
    for _ in range(repeats):
        for i, (step, state, axis) in enumerate(ways):
            began = time.perf_counter()
            results[i] = tg.decode.beam_search(step, state, 0, width, length, state_axis=axis)
            least[i] = min(least[i], time.perf_counter() - began)
        advance()
    kept, over = counts[0] // repeats, counts[1] // repeats
    difference = apart(*map(beams, results))
    return Cost(length, width, decoder.vocabulary, least[0], least[1], kept, over, difference)


def beams(result: tg.decode.SearchResult) -> Beams:
    """Hypotheses as sequences and log-probabilities."""
    return [(h.tokens, h.log_probability) for h in result]


def apart(a: Beams, b: Beams) -> float:
    """The largest difference of log-probabilities; infinite where the sequences differ."""
    if [tokens for tokens, _ in a] != [tokens for tokens, _ in b]:
        return float("inf")
    return max((abs(x - y) for (_, x), (_, y) in zip(a, b, strict=True)), default=0.0)


def two_stage_beams(step: Callable[..., Any], state: Any, length: int, width: int) -> Beams:
    """Beam search in two stages: the top k tokens of each hypothesis, then the best k of all these."""
    found: Beams = [((), 0.0)]
    last = [0]
    for _ in range(length):
        answer, state = step(tg.tensor(last, dtype="int64").data, state)
        values = tg.tensor(answer).numpy()
        candidates = []
        for i, (tokens, total) in enumerate(found):
            for token in np.argsort(-values[i], kind="stable")[:width].tolist():
                candidates.append((total + float(values[i, token]), i, token, tokens))
        candidates.sort(key=lambda one: (-one[0], one[1], one[2]))
        kept = candidates[:width]
        found = [((*tokens, token), total) for total, _, token, tokens in kept]
        last = [token for _, _, token, _ in kept]
        state = tuple(tg.tensor(part)[:, [i for _, i, _, _ in kept]].data for part in state)
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a straight line through the logarithms, by least squares.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


LAST = 3
"""Slopes are taken over the greatest lengths, where what does not depend on T matters least."""


@dataclass(frozen=True)
class Costs:
    """All that was measured.

    Attributes
    ----------
    by_length : dict of int to list of Cost
        For the smallest and the largest vocabulary.
    by_width, by_vocabulary : list of Cost
    two_stages : float
        The largest difference between the beams of the search in two stages and ours.
    """

    by_length: dict[int, list[Cost]]
    by_width: list[Cost]
    by_vocabulary: list[Cost]
    two_stages: float

    @property
    def all(self) -> list[Cost]:
        """Every search that was made, once."""
        lengths = [cost for costs in self.by_length.values() for cost in costs]
        found = [*lengths, *self.by_width, *self.by_vocabulary]
        return list({(cost.length, cost.width, cost.vocabulary): cost for cost in found}.values())


def compare_with_two_stages(opts: BeamCostOptions, vocabulary: int, widths: Sequence[int]) -> float:
    """The largest difference between the final beams, over the widths."""
    decoder = Decoder(vocabulary, opts.hidden_size, opts.seed, opts.device)
    stored, _ = decoder.steps()
    length = min(opts.at_length, 32)
    differences = []
    for width in widths:
        result = tg.decode.beam_search(stored, decoder.zero_state(), 0, width, length, state_axis=1)
        assert isinstance(result, tg.decode.SearchResult)
        theirs = two_stage_beams(stored, decoder.zero_state(), length, width)
        differences.append(apart(beams(result), theirs))
    return max(differences)


def slopes(costs: Sequence[Cost], field: str) -> float:
    """Log-log slope over the greatest lengths."""
    last = costs[-LAST:]
    return slope([cost.length for cost in last], [getattr(cost, field) for cost in last])
