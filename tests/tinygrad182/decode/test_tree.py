"""Beam search on the tree whose every number is known."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad182 as tg

from .tree import NETWORK, NEURAL, START, state, step

BEST = (NEURAL, NEURAL, NEURAL)


def _search(width: int, length: int = 3, **named: Any) -> Any:
    return tg.decode.beam_search(step, state(), START, width, length, **named)


def _found(result: Any) -> list[tuple[tuple[int, ...], float]]:
    return [(h.tokens, pytest.approx(h.log_probability, abs=1e-12)) for h in result]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [((NEURAL,), -0.65), ((NETWORK,), -0.73)]),
        (2, [((NEURAL, NETWORK), -1.25), ((NETWORK, NEURAL), -1.33)]),
        (3, [((NEURAL, NETWORK, NETWORK), -1.85), ((NETWORK, NEURAL, NETWORK), -1.93)]),
    ],
)
def test_what_two_beams_hold(length: int, expected: Any) -> None:
    assert _found(_search(2, length)) == expected


def test_two_beams_miss_the_optimum_and_say_by_how_much_at_most() -> None:
    result = _search(2)
    assert not result.certified
    assert result.pruned == result.bound == pytest.approx(-1.45, abs=1e-12)  # neural neural
    assert result.gap == pytest.approx(0.40, abs=1e-12)
    [best] = [h for h in tg.decode.exhaustive(step, state(), START, 3) if h.tokens == BEST]
    assert best.score - result.score == pytest.approx(0.39, abs=1e-12)


def test_three_beams_find_it_and_prove_it() -> None:
    result = _search(3)
    assert _found(result)[0] == (BEST, -1.46)
    assert result.certified
    assert result.gap == 0
    assert result.bound == result.score
    assert result.pruned == pytest.approx(-1.53, abs=1e-12)  # network network


def test_one_beam_is_greedy() -> None:
    for result in (_search(1), tg.decode.greedy(step, state(), START, 3)):
        assert _found(result) == [((NEURAL, NETWORK, NETWORK), -1.85)]
        assert result.bound == pytest.approx(-0.73, abs=1e-12)  # network
        assert not result.certified


@pytest.mark.parametrize("search", [tg.decode.exhaustive, tg.decode.exact_search])
def test_the_optimum(search: Any) -> None:
    result = search(step, state(), START, 3)
    assert _found(result)[0] == (BEST, -1.46)
    assert result.certified


def test_exhaustive_search_returns_all_eight() -> None:
    result = tg.decode.exhaustive(step, state(), START, 3)
    assert len({h.tokens for h in result}) == len(result) == 8
    assert result.pruned == float("-inf")


def test_the_state_holds_all_words_but_the_last() -> None:
    for h in _search(3):
        assert h.state.tolist() == [[*h.tokens[:2], -1]]


def test_early_stop_asks_no_more_than_it_needs() -> None:
    """With end token ``network``, one of two beams is left after one step, and none can win after two."""
    asked: list[int] = []

    def counting(tokens: Any, words: Any) -> Any:
        asked.append(len(tokens))
        return step(tokens, words)

    result = tg.decode.beam_search(counting, state(), START, 1, 3, eos=NETWORK, length_penalty=-1.0)
    assert result.tokens == (NETWORK,)
    assert asked == [1]
    assert result.certified
