"""Exact search: the optimum of all sequences and a proof, or a bound that says how far it can be off."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.oracles import beam_search
from tests.support import in_numpy, moved

from .cases import Case, cases
from .properties import (
    a_step_keeps_its_arrays,
    companions_do_not_matter,
    ended_sequences_are_not_extended,
    scores_are_the_models,
    states_are_those_of_running_again,
)

EXAMPLES = settings().max_examples


def _exact(case: Case, **named: Any) -> list[tg.decode.SearchResult]:
    def search(beam_width: int, **told: Any) -> Any:
        return tg.decode.exact_search(**told, beam_width=beam_width, **named)

    return case.run(search)


def _optimum(case: Case, b: int) -> float:
    every = beam_search.everything(case.next_token(b), case.rules)
    return every[0].score if every else -math.inf


@settings(max_examples=2 * EXAMPLES)
@given(cases(wide=False))
def test_finds_the_optimum_and_proves_it(case: Case) -> None:
    for b, result in enumerate(_exact(case)):
        optimum = _optimum(case, b)
        assert result.certified
        assert result.gap == 0
        assert len(result) == (optimum > -math.inf)
        assert case.same(result.score if result else -math.inf, optimum)
        assert result.bound == (result.score if result else -math.inf)


@settings(max_examples=2 * EXAMPLES)
@given(cases(wide=False), st.integers(0, 12))
def test_a_spent_budget_leaves_a_bound_that_holds(case: Case, budget: int) -> None:
    beams = case.run(tg.decode.beam_search)
    for b, result in enumerate(_exact(case, max_expansions=budget)):
        optimum = _optimum(case, b)
        slack = case.tolerance * (1 + abs(optimum)) if optimum > -math.inf else 0.0
        best = result.score if result else -math.inf
        assert best <= optimum + slack
        assert optimum <= result.bound + slack
        assert not result.certified or case.same(best, optimum)
        # Exact search begins with a beam search, and keeps what that one has found and proven.
        assert best >= (beams[b].score if beams[b] else -math.inf)
        assert result.bound <= beams[b].bound
        assert result.expanded <= beams[b].expanded + budget


PROPERTIES = (
    scores_are_the_models,
    ended_sequences_are_not_extended,
    states_are_those_of_running_again,
    companions_do_not_matter,
    a_step_keeps_its_arrays,
)


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
@given(st.data())
def test_what_holds_for_beam_search(holds: Any, data: st.DataObject) -> None:
    def search(
        step: Any, state: Any, start: Any, beam_width: int, max_length: int, **named: Any
    ) -> Any:
        return tg.decode.exact_search(
            step, state, start, max_length, beam_width=beam_width, **named
        )

    holds(data.draw(cases()), search)


@pytest.mark.parametrize("eos", [None, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_peaked_models_are_searched_fast(eos: int | None, penalty: float) -> None:
    """The search looks at a few hundred prefixes, although there are 20^30 sequences."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(20, 20)) * 6
    table = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    asked: list[int] = []

    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        asked.append(len(tokens))
        return np.minimum(table[tokens], 0), None

    result = tg.decode.exact_search(
        step, None, 0, 30, eos=eos, length_penalty=penalty, beam_width=2
    )
    assert result.certified
    assert result.expanded == sum(asked) < 5000
    assert result.score >= tg.decode.beam_search(step, None, 0, 1, 30, eos, penalty).score
    if eos is None:  # a chain: dynamic programming knows the optimum
        best = np.zeros(20)
        for _ in range(30):
            best = (np.minimum(table, 0) + best).max(axis=1)
        assert result.log_probability == pytest.approx(best[0], abs=1e-10)


def test_flat_models_end_with_their_budget() -> None:
    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.log(np.full((len(tokens), 4), 0.25)) - 1e-9 * (tokens[:, None] == 0), None

    for budget in (0, 1, 100):
        result = tg.decode.exact_search(step, None, 0, 12, beam_width=1, max_expansions=budget)
        assert not result.certified
        assert 0 < result.gap <= -12 * math.log(0.25)
        assert result.expanded <= 12 + budget


@pytest.mark.parametrize("array", [True, False])
def test_only_prefixes_of_one_length_are_asked_together(array: bool) -> None:
    """A state may hold one count of tokens for all rows, or grow with them."""
    chain = np.log(np.random.default_rng(5).random((6, 3, 3)))  # by step, token before, token
    rows: list[int] = []

    @in_numpy
    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        n = state["n"]
        rows.append(len(tokens))
        assert state["tokens"].shape[2] == (n.flat[0] if array else n)
        now = np.concatenate([state["tokens"], tokens[None, :, None]], axis=2)
        return chain[n[0] if array else n, tokens], {"n": n + 1, "tokens": now}

    state = {"n": np.zeros((1, 1), int) if array else 0, "tokens": np.zeros((1, 1, 0), int)}
    result = tg.decode.exact_search(step, moved(state), 0, 6, state_axis=1, beam_width=3)
    scores = {
        words: sum(chain[n][pair] for n, pair in enumerate(itertools.pairwise((0, *words))))
        for words in itertools.product(range(3), repeat=6)
    }
    assert result.certified
    assert result.tokens == max(scores, key=lambda words: scores[words])
    assert max(rows) == 3


@pytest.mark.parametrize("budget", [-1, 0.5, None])
def test_a_budget_that_is_none(budget: Any) -> None:
    with pytest.raises(tg.ArgumentError, match="max_expansions"):
        tg.decode.exact_search(lambda t, s: (t, s), None, 0, 3, max_expansions=budget)
