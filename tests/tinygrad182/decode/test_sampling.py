"""Sampling: the model's distribution, drawn reproducibly, each example on its own."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import beam_search
from tests.support import array, host, in_numpy, xp
from tinygrad182.decode import sampling

from .cases import Case, cases
from .models import Table
from .properties import (
    a_step_keeps_its_arrays,
    ended_sequences_are_not_extended,
    states_are_those_of_running_again,
)


def _drawn(case: Case, **named: Any) -> list[tg.decode.Hypotheses]:
    def search(beam_width: int, length_penalty: float, **told: Any) -> Any:
        return tg.decode.sample(**told, **{"rng": 7, "count": beam_width, **named})

    return case.run(search)


def _search(
    step: Any, state: Any, start: Any, beam_width: int, max_length: int, length_penalty: float = 0,
    **named: Any,
) -> Any:  # fmt: skip
    return tg.decode.sample(step, state, start, max_length, rng=3, count=beam_width, **named)


@pytest.mark.parametrize(
    "holds",
    [ended_sequences_are_not_extended, states_are_those_of_running_again, a_step_keeps_its_arrays],
    ids=lambda p: p.__name__,
)
@given(st.data())
def test_what_holds_for_beam_search(holds: Any, data: st.DataObject) -> None:
    holds(data.draw(cases()).with_(penalty=0.0), _search)


@given(cases())
def test_log_probabilities_are_the_models_at_temperature_1(case: Case) -> None:
    for b, drawn in enumerate(_drawn(case, count=5, temperature=1.7, top_k=3)):
        for h in drawn:
            expected = beam_search.rescored(case.next_token(b), h.tokens)
            assert h.log_probability == h.score == pytest.approx(expected, abs=1e-10)
            assert h.log_probability > -math.inf


@given(cases(), st.integers(0, 99))
def test_seeds_companions_and_count(case: Case, seed: int) -> None:
    """One seed always draws the same; an example's draws depend on neither the others nor the count."""
    many = _drawn(case, count=6, rng=seed)
    again = _drawn(case, count=6, rng=seed)
    assert [[h.tokens for h in one] for one in many] == [[h.tokens for h in one] for one in again]
    if case.model.exact:  # no dead ends left out: as many as were asked for
        fewer = _drawn(case, count=2, rng=seed)
        for few, all_ in zip(fewer, many, strict=True):
            assert [h.tokens for h in few] == [h.tokens for h in all_][: len(few)]
        first = _drawn(case.of([0]), count=6, rng=seed)[0]
        assert [h.tokens for h in first] == [h.tokens for h in many[0]]


@given(cases())
def test_cold_or_of_one_token_it_is_greedy(case: Case) -> None:
    """Sampling is greedy at a temperature close to 0, and for top_k = 1."""
    greedy = case.run(tg.decode.beam_search, beam_width=1, length_penalty=0.0)
    for b, one in enumerate(_drawn(case, top_k=1, count=2)):
        assert [h.tokens for h in one] == [h.tokens for h in greedy[b]] * 2
    if not (isinstance(case.model, Table) and case.told.startswith(("ties", "holes"))):
        for b, one in enumerate(_drawn(case, temperature=1e-9, count=2)):
            assert [h.tokens for h in one] == [h.tokens for h in greedy[b]] * 2


with np.errstate(divide="ignore"):
    TABLE = np.log(
        [[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.5, 0], [1, 0, 0, 0]]
    )


@in_numpy
def _chain(tokens: Any, state: Any) -> tuple[Any, Any]:
    return TABLE[tokens], state


@pytest.mark.parametrize("eos", [None, 2])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 2])
def test_the_distribution(eos: int | None, temperature: float, top_k: int | None) -> None:
    """Frequencies of whole sequences, within five standard errors, at every temperature and top_k."""
    N, T = 4000, 2
    drawn = tg.decode.sample(
        _chain, None, 0, T, eos=eos, temperature=temperature, top_k=top_k, count=N, rng=11
    )
    with np.errstate(divide="ignore"):
        p = np.exp(TABLE) ** (1 / temperature)
    for row in p:
        if top_k is not None:
            row[np.argsort(-row, kind="stable")[top_k:]] = 0
        row /= row.sum()
    expected: Counter[tuple[int, ...]] = Counter()
    for a in range(4):
        if a == eos:
            expected[a,] = p[0, a]
            continue
        for z in range(4):
            expected[a, z] = p[0, a] * p[a, z]
    found = Counter(h.tokens for h in drawn)
    assert sum(expected.values()) == pytest.approx(1)
    for tokens in {*found, *expected}:
        q = expected[tokens]
        assert abs(found[tokens] / N - q) <= 5 * math.sqrt(q * (1 - q) / N) + 1e-12, tokens


def test_unnormalized_models_are_normalized_for_the_draw() -> None:
    @in_numpy
    def lower(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.tile(np.log([0.5, 0.3, 0.2]) - 900, (len(tokens), 1)), state

    drawn = tg.decode.sample(lower, None, 0, 1, count=4000, rng=0)
    share = np.bincount([h.tokens[0] for h in drawn], minlength=3) / 4000
    np.testing.assert_allclose(share, [0.5, 0.3, 0.2], atol=0.04)
    assert drawn[0].log_probability < -900


def test_what_has_probability_0_is_never_drawn() -> None:
    @in_numpy
    def holes(tokens: Any, state: Any) -> tuple[Any, Any]:
        values = np.full((len(tokens), 50), -np.inf)
        values[:, [7, 30]] = np.log(0.5)
        return values, state

    for top_k in (None, 1, 5, 50, 99):
        drawn = tg.decode.sample(holes, None, 0, 3, count=100, top_k=top_k, rng=0)
        assert {token for h in drawn for token in h.tokens} == ({7} if top_k == 1 else {7, 30})


@pytest.mark.parametrize("chance", [0.0, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("ulps", [-1, 1])
def test_no_rounding_of_the_running_sum_lets_it_be_drawn(chance: float, ulps: int) -> None:
    """A sum made in parallel may change where a probability is 0."""
    table = np.log([0.25, 0.75, 1.0, 1.0, 1.0])
    impossible = [0, 2, 4]
    table[impossible] = -np.inf

    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.tile(table, (len(tokens), 1)), state

    def rounded(x: Any, axis: int) -> Any:
        sums = host(x).cumsum(axis=axis)
        sums[:, impossible] *= 1 + ulps * 2.0**-52
        return array(sums)

    def chosen(draw: Any, live: Any, steps: int, like: Any) -> Any:
        return array(np.full((steps, len(live)), chance))

    with (
        mock.patch.object(xp(), "cumulative_sum", rounded),
        mock.patch.object(sampling._Draw, "_chance", chosen),
    ):
        [drawn] = tg.decode.sample(step, None, 0, 3)
    assert drawn.tokens == ((1,) * 3 if chance < 0.4 else (3,) * 3)


def test_dead_ends_are_left_out() -> None:
    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        values = np.tile(np.log([0.5, 0.5]), (len(tokens), 1))
        values[tokens == 1] = -np.inf
        return values, state

    drawn = tg.decode.sample(step, None, 0, 2, count=200, rng=0)
    assert 50 < len(drawn) < 150
    assert {h.tokens for h in drawn} == {(0, 0), (0, 1)}


def test_a_generator_goes_on() -> None:
    rng = np.random.default_rng(0)
    first, second = (tg.decode.sample(_chain, None, 0, 8, count=5, rng=rng) for _ in range(2))
    assert [h.tokens for h in first] != [h.tokens for h in second]
    same = tg.decode.sample(_chain, None, 0, 8, count=5, rng=np.random.default_rng(0))
    assert [h.tokens for h in first] == [h.tokens for h in same]


def test_examples_have_streams_of_their_own() -> None:
    one, two = tg.decode.sample(_chain, None, np.array([0, 0]), 12, count=3, rng=0)
    assert [h.tokens for h in one] != [h.tokens for h in two]


@pytest.mark.parametrize(
    "named",
    [
        *({"temperature": t} for t in (0, -1.0, math.nan, math.inf, "1", None)),
        *({"top_k": k} for k in (0, -1, 1.5, "2")),
        *({"count": n} for n in (0, -1, 1.5, None)),
    ],
    ids=str,
)
def test_wrong_arguments(named: dict[str, Any]) -> None:
    [name] = named
    with pytest.raises(tg.ArgumentError, match=name):
        tg.decode.sample(_chain, None, 0, 3, **named)


def test_a_generator_is_drawn_from_and_sequences_have_streams_of_their_own() -> None:
    @in_numpy
    def even(tokens: Any, state: Any) -> Any:
        return np.log(np.full((len(tokens), 2), 0.5)), state

    def drawn(rng: Any, length: int = 12, count: int = 3) -> list[tuple[int, ...]]:
        return [h.tokens for h in tg.decode.sample(even, None, 0, length, rng=rng, count=count)]  # type: ignore[union-attr]

    rng = np.random.default_rng(7)
    before = rng.bit_generator.state
    first, second = drawn(rng), drawn(rng)
    assert first != second
    rng.bit_generator.state = before  # as from a checkpoint
    assert drawn(rng) == first
    assert [words[:5] for words in first] == drawn(np.random.default_rng(7), 5)
    assert drawn(np.random.default_rng(7), count=2) == first[:2]
