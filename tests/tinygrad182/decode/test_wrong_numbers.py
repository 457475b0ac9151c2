"""Log-probabilities that are not valid numbers, and those of impossible tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import array, const, in_numpy

from .cases import Search
from .faults import Fault

M = 4
SEARCHES: dict[str, Search] = {
    "beam_search": lambda *a, **k: tg.decode.beam_search(*a[:3], 2, *a[3:], **k),
    "greedy": tg.decode.greedy,
    "exhaustive": tg.decode.exhaustive,
    "exact_search": tg.decode.exact_search,
    "sample": lambda *a, **k: tg.decode.sample(*a, rng=0, **k),
}
PROBABILITIES = np.array([0.4, 0.3, 0.2, 0.1])


def _stepping(
    change: Callable[[np.ndarray[Any, Any], int], None], dtype: str = "float64", M: int = M
) -> Any:
    """A step whose log-probabilities ``change`` overwrites; it also gets the number of steps before."""

    def step(tokens: Any, count: Any) -> tuple[Any, Any]:
        values = np.log(np.resize(PROBABILITIES, (len(tokens), M))).astype(dtype)
        change(values, int(count[0]))
        return values, count + 1

    return in_numpy(step)


def _wrong_from(first: int, token: int, value: float) -> Callable[[Any, int], None]:
    def change(values: Any, count: int) -> None:
        if count >= first:
            values[-1, token] = value

    return change


def not_a_number_raises(search: Search, token: int, eos: int | None, M: int) -> None:
    """In any column, that of the end token too; step and parent are named."""
    step = _stepping(_wrong_from(1, token, math.nan), M=M)
    with pytest.raises(tg.DecodingError, match="NaN") as error:
        search(step, array([0]), 0, 2, 3, eos=eos)
    second = 1 if M < 5 else 4  # as likely as 0, where the probabilities begin again
    assert f"step 2, parent 1, example 0, after tokens [{second}]" in str(error.value)


@pytest.mark.parametrize("vocabulary", [4, 900])
@pytest.mark.parametrize("token", [0, 2, 3])
@pytest.mark.parametrize("eos", [None, 2])
def test_nan_raises(vocabulary: int, token: int, eos: int | None) -> None:
    not_a_number_raises(tg.decode.beam_search, token, eos, vocabulary)


def nan_is_impossible(call: Any, self: Any, *args: Any) -> Any:
    values, state = call(self, *args)
    return np.where(np.isnan(values), -np.inf, values), state


def test_a_search_that_takes_nan_for_nothing_is_seen() -> None:
    fault = Fault("NaN is −inf", "Stepper.__call__", nan_is_impossible, lambda case, search: None)
    with pytest.raises(pytest.fail.Exception):
        not_a_number_raises(fault.search, 2, None, 4)


@pytest.mark.parametrize("value", [1e-7, 3.0, math.inf])
def test_positive_raises(value: float) -> None:
    step = _stepping(_wrong_from(0, 1, value))
    with pytest.raises(tg.DecodingError, match=r"more than 0.*log_softmax") as error:
        tg.decode.beam_search(step, array([0]), 0, 2, 3)
    assert f"{value:.6g}" in str(error.value)
    assert "step 1, parent 0, example 0, after tokens []" in str(error.value)


@pytest.mark.parametrize("name", sorted(SEARCHES))
@pytest.mark.parametrize("value", [math.nan, 0.5])
@pytest.mark.parametrize("first", [0, 1])
def test_every_search_raises(name: str, value: float, first: int) -> None:
    """Every row has the wrong number, because a search sees only the rows that it reaches."""

    def change(values: Any, count: int) -> None:
        if count >= first:
            values[:, 2] = value

    with pytest.raises(tg.DecodingError, match="NaN" if math.isnan(value) else "more than 0"):
        SEARCHES[name](_stepping(change), array([0]), 0, 3)


def test_the_example_is_named() -> None:
    """The message names the last of three examples, although the first has ended."""

    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        example, count = state[:, 0], state[:, 1]
        values = np.log(np.resize(PROBABILITIES, (len(tokens), M)))
        values[(example == 0)] = [-math.inf, -math.inf, -math.inf, 0.0]  # ends at once
        values[(example == 2) & (count == 1), 1] = math.nan
        return values, state + np.array([0, 1])

    state = array([[0, 0], [1, 0], [2, 0]])
    with pytest.raises(tg.DecodingError, match=r"step 2, parent 0, example 2, after tokens \[0\]"):
        tg.decode.beam_search(step, state, [0, 0, 0], 2, 3, eos=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_is_a_log_probability(dtype: str) -> None:
    step = _stepping(lambda values, count: values.fill(0.0), dtype)
    result = tg.decode.beam_search(step, array([0]), 0, 3, 2)
    assert [h.tokens for h in result] == [(0, 0), (0, 1), (0, 2)]
    assert result.certified


def test_log_softmax_is_never_more_than_0() -> None:
    """tg.log_softmax of float32 logits, whose own rounding must not look like a mistake of the user's."""
    rng = np.random.default_rng(0)

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        z = rng.normal(size=(len(tokens), 50)) * 10.0 ** rng.integers(-6, 3)
        return tg.log_softmax(const(z.astype("float32")), axis=1), None

    for _ in range(20):
        tg.decode.beam_search(step, None, 0, 4, 5)


@pytest.mark.parametrize("name", sorted(SEARCHES))
@pytest.mark.parametrize("eos", [None, 1])
@pytest.mark.parametrize("M", [4, 700])
@pytest.mark.parametrize("at", [0, 1])
def test_nothing_can_be_reached(name: str, eos: int | None, M: int, at: int) -> None:
    """The search returns an empty result with a proof, not a hypothesis of log-probability −inf."""

    def change(values: Any, count: int) -> None:
        if count >= at:
            values[:] = -math.inf
        else:
            values[:, 2:] = -math.inf
            values[:, eos or 0] = -math.inf

    result = SEARCHES[name](_stepping(change, M=M), array([0]), 0, 3, eos=eos)
    assert len(result) == 0
    assert list(result) == []
    assert not result
    with pytest.raises(IndexError):
        result.best  # noqa: B018
    if name != "sample":
        assert result.bound == -math.inf
        assert result.certified
        assert result.gap == 0
        assert "nothing" in repr(result)


def test_an_empty_result_is_not_a_proof_that_there_is_nothing() -> None:
    """Greedy decoding runs into a dead end that it could have avoided."""

    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        first = state == 0
        values = np.where(first[:, None], np.log([0.6, 0.4]), np.log([0.5, 0.5]))
        values[(~first) & (tokens == 0)] = -math.inf
        return values, state + 1

    result = tg.decode.greedy(step, array([0]), 1, 2)
    assert not result
    assert not result.certified
    assert result.bound == math.log(0.4)
    assert result.gap == math.inf
    exact = tg.decode.exact_search(step, array([0]), 1, 2, beam_width=1)
    assert exact.tokens == (1, 0)
    assert exact.certified
