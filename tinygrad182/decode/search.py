"""The searches a person calls: over beams, greedily, and over everything."""

from __future__ import annotations

import math
from typing import Any

from .. import backend
from ..backend import Array
from ..errors import ArgumentError, brief
from ..modes import modes_kept, no_grad
from .beam import ALL, BeamSearch
from .result import Scoring, SearchResult
from .step_function import State, Step, Stepper, check_start, start_tokens, whole

MOST_SEQUENCES = 1_000_000
"""More prefixes than this :func:`exhaustive` refuses to hold at once."""


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
    """Search for the most likely sequences, and tell what the search can have missed.

    At each step every live prefix is extended by every token. Those that take the end token are complete,
    all of them; of the others the ``beam_width`` most likely live on. An example stops when no live prefix
    can get among its ``beam_width`` best complete sequences any more; prefixes of ``max_length`` tokens are
    complete as they are. With ``beam_width=1`` and no penalty only the most likely token is taken, the end
    token or another: greedy decoding.

    Parameters
    ----------
    step : callable
        ``step(tokens, state) -> (log_probabilities, state)``, the model: an int64 array (N,) of last tokens
        to the log-probabilities (N, M) of the next ones, as an array or a Tensor. It is run without
        recording gradients, on the device of the state.
    state : nested tuples, lists and dicts of arrays or Tensors
        The state before the start token, with a row for each example (one if ``start`` is one token) on
        ``state_axis`` of every array. What is not an array is passed on as it is.
    start : int or sequence of int (B,), array or Tensor
        The first token of one example, or of each of B, which are searched together. Numbers, lists and
        NumPy arrays go where the state is, or to the default device if it has no array; a Tensor or an
        array on a GPU must be where the state is, and decides where there is none. It is not a prompt: run
        the model over all tokens of a prompt but the last, and start with that one and the state after
        them. A list of several needs a state with a row for each; without one, give an array.
    beam_width, max_length : int
        K and T.
    eos : int, optional
        The end token, counted among a sequence's tokens.
    length_penalty : float
        Sequences are ranked by log-probability / length^penalty. What lives on is ranked among prefixes of
        one length, by its log-probability.
    state_axis : int
        1 takes the ``(layers, N, H)`` states of ``tg.nn.LSTM`` as they are.
    trace : bool
        Keep the lattice of what was kept, pruned and finished.

    Returns
    -------
    SearchResult, or a list of B of them
        Hypotheses, best first, with the certificate ``certified``, ``gap`` and ``bound``. Fewer than
        ``beam_width`` where fewer sequences can be reached. Equal scores go by length, parent and token.

    Raises
    ------
    DecodingError
        A log-probability that is NaN or more than 0, which names the step and the parent; a shape that is
        not (N, M); a state without a row for each prefix.
    ArgumentError
        A width, length, penalty, start or end token that makes no sense.
    DeviceError
        Log-probabilities, start tokens or an array of the state on another device than the state.
    IndexOutOfRangeError
        The step has looked up a token beyond its table. On a GPU it is told when the host reads the step.

    Notes
    -----
    Log-probabilities are at most 0, so no completion of a pruned prefix has a larger log-probability than
    the prefix itself. With U the best score that any pruned prefix could still reach, ``bound`` = max(best,
    U), and the best hypothesis is the optimum of all sequences if it is not below U. Probabilities need not
    add up to 1 for that. Sums are float64 whatever the model's dtype is.

    On a GPU the host waits once for a whole search without ``eos``, since nothing is read before its last
    step (a ``trace`` holds K · M numbers a step until then); with ``eos`` once a step.

    Examples
    --------
    A model without a state that prefers 1, and whose word 0 ends a sequence:

    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> result = tg.decode.beam_search(step, None, start=0, beam_width=2, max_length=3)
    >>> result.tokens, round(result.log_probability, 4), result.certified
    ((1, 1, 1), -2.0794, False)
    >>> result[1].tokens, round(result.gap, 4)     # a sequence from 0 on could be better by 0.47
    ((1, 1, 2), 0.47)
    >>> result = tg.decode.beam_search(step, None, start=0, beam_width=2, max_length=3, eos=0)
    >>> result.tokens, result.certified
    ((0,), True)
    """
    width = whole(beam_width, "beam_width", 1)
    return _search(step, state, start, width, max_length, eos, length_penalty, state_axis, trace)


def greedy(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None = None,
    state_axis: int = 0,
    trace: bool = False,
) -> SearchResult | list[SearchResult]:
    """Take the most likely token at each step: beam search with ``beam_width=1``, which see.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad182 as tg
    >>> def step(tokens, state):
    ...     return np.log(np.tile([0.2, 0.5, 0.3], (len(tokens), 1))), state
    >>> result = tg.decode.greedy(step, None, start=0, max_length=3, eos=0)
    >>> result.tokens, result.certified            # (0,), the likelier one, was dropped
    ((1, 1, 1), False)
    """
    return _search(step, state, start, 1, max_length, eos, 0.0, state_axis, trace)


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
    """All sequences, best first: beam search with a beam so wide that nothing is pruned.

    Parameters are those of :func:`beam_search`.

    Raises
    ------
    ArgumentError
        More than a million sequences; :func:`exact_search` proves the best one without holding all.

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
    ask: Any = step

    def affordable(tokens: Array, state: State) -> Any:
        answer = ask(tokens, state)
        values: Any = answer[0] if isinstance(answer, (tuple, list)) and answer else None
        if getattr(values, "ndim", 0) == 2 and tokens.shape[0] * values.shape[1] > MOST_SEQUENCES:
            raise ArgumentError(
                f"exhaustive: over {MOST_SEQUENCES:,} candidates at once ({values.shape[1]} tokens); "
                "lower max_length, or use tg.decode.exact_search"
            )
        return answer

    return _search(
        affordable if callable(ask) else ask,
        state, start, ALL, max_length, eos, length_penalty, state_axis, trace,
    )  # fmt: skip


def begin(
    step: Step,
    state: State,
    start: Any,
    max_length: int,
    eos: int | None,
    penalty: float,
    axis: int,
) -> tuple[Stepper, Array, bool, int | None, Scoring]:
    """Check what every search is given: the stepper, start tokens, whether one, end token, scoring."""
    end = None if eos is None else whole(eos, "eos", 0)
    stepper = Stepper(step, axis, end)
    tokens, single = start_tokens(start, state)
    check_start(start, tokens, state, stepper.axis)
    T = whole(max_length, "max_length", 1)
    return stepper, tokens, single, end, Scoring(_exponent(penalty, T), T, end is not None)


@modes_kept
def _search(
    step: Step, state: State, start: Any, width: int, max_length: int,
    eos: int | None, penalty: float, axis: int, trace: bool,
) -> SearchResult | list[SearchResult]:  # fmt: skip
    stepper, tokens, single, end, scoring = begin(
        step, state, start, max_length, eos, penalty, axis
    )
    with no_grad(), backend.on(tokens):
        results = BeamSearch(stepper, width, scoring, end, trace).run(state, tokens)
    return results[0] if single else results


def _exponent(penalty: Any, max_length: int) -> float:
    try:
        exponent = float(penalty)
        usable = math.isfinite(exponent) and math.isfinite(max_length ** abs(exponent))
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise ArgumentError(f"decode: length_penalty {brief(penalty)} must be a finite number")
    return exponent
