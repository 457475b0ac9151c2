"""Invalid calls raise our errors, which name the problem and the remedy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.support import const, in_numpy, moved

from .cases import Search

UNIFORM = np.log(np.full(3, 1 / 3))
SEARCHES: dict[str, Search] = {
    "beam_search": lambda step, state, start, T, **k: tg.decode.beam_search(
        step, state, start, 2, T, **k
    ),
    "greedy": tg.decode.greedy,
    "exhaustive": tg.decode.exhaustive,
    "exact_search": tg.decode.exact_search,
    "sample": tg.decode.sample,
}
every_search = pytest.mark.parametrize("name", sorted(SEARCHES))


def step(tokens: Any, state: Any) -> tuple[Any, Any]:
    return np.tile(UNIFORM, (len(tokens), 1)), state


def _raises(kind: type[Exception], words: str, name: str, *args: Any, **named: Any) -> None:
    step, state, *rest = args
    with pytest.raises(kind, match=words) as error:
        SEARCHES[name](in_numpy(step) if callable(step) else step, moved(state), *rest, **named)
    assert isinstance(error.value, tg.TinygradError)


@every_search
@pytest.mark.parametrize("wrong", [None, 3, "step", np.zeros((2, 3))])
def test_a_step_that_is_not_a_function(name: str, wrong: Any) -> None:
    _raises(tg.ArgumentError, type(wrong).__name__, name, wrong, None, 0, 3)


@every_search
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda tokens, state: step(tokens, state)[0],
            r"returned ndarray.*log_probabilities, state",
        ),
        (lambda tokens, state: None, "returned NoneType"),
        (lambda tokens, state: (1, 2, 3), "returned tuple of 3"),
        (lambda tokens, state: ([[0.0]], state), "type list"),
        (lambda tokens, state: (None, state), "type NoneType"),
        (lambda tokens, state: (0.0, state), "type float"),
        (lambda tokens, state: (np.zeros((len(tokens), 3), int), state), "int64"),
        (lambda tokens, state: (np.zeros((len(tokens), 3), complex), state), "complex128"),
        (lambda tokens, state: (UNIFORM, state), r"\(3,\).*\(1, M\)"),
        (lambda tokens, state: (UNIFORM[None, None], state), r"\(1, 1, 3\)"),
        (lambda tokens, state: (np.zeros((len(tokens), 0)), state), r"\(1, 0\)"),
        (lambda tokens, state: (np.zeros((len(tokens) + 1, 3)), state), r"\(2, 3\) for 1 tokens"),
        (lambda tokens, state: (np.zeros((len(tokens), 3)).T, state), r"\(3, 1\)"),
    ],
)
def test_a_step_that_returns_something_else(name: str, wrong: Any, words: str) -> None:
    _raises(tg.DecodingError, words, name, wrong, None, 0, 3)


@every_search
def test_a_vocabulary_that_changes(name: str) -> None:
    def changing(tokens: Any, state: Any) -> tuple[Any, Any]:
        return np.full((len(tokens), 3 + int(state[0])), -2.0), state + 1

    _raises(tg.DecodingError, r"\(1, 4\).*\(1, 3\)" if name in ("greedy", "sample") else "4", name,
            changing, np.zeros(1, int), 0, 3)  # fmt: skip


@every_search
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (-1, "-1"),
        (1.0, r"1\.0"),
        (True, "True"),
        ("a", "'a'"),
        (None, "None"),
        ([], r"\[\]"),
        ([[1, 2]], "start"),
        ([1, [2]], "start"),
        ([1, -2], "start"),
        (np.array([0.5]), "start"),
        (2**70, "start"),
    ],
)
def test_a_start_that_is_not_a_token(name: str, start: Any, words: str) -> None:
    _raises(tg.ArgumentError, words, name, step, None, start, 3)


@every_search
def test_a_prompt_is_not_taken_for_examples(name: str) -> None:
    """A list without a state that has a row for each may be either; an array is examples."""
    for start in ([1, 2, 1], (1, 2)):
        _raises(
            tg.ArgumentError, r"prompt.*last token alone.*np\.array", name, step, None, start, 3
        )
    _raises(
        tg.DecodingError, "1 rows|3 rows.*For a prompt", name, step, np.zeros(1, int), [1, 2, 1], 3
    )


@every_search
@pytest.mark.parametrize("eos", [-1, 1.5, "</s>", 3, 100])
def test_an_end_token_that_is_none(name: str, eos: Any) -> None:
    _raises(tg.ArgumentError, f"eos.*{eos}", name, step, None, 0, 3, eos=eos)


@every_search
@pytest.mark.parametrize("length", [0, -1, 2.5, None, "3"])
def test_a_length_that_is_none(name: str, length: Any) -> None:
    _raises(tg.ArgumentError, f"max_length.*{length}", name, step, None, 0, length)


@pytest.mark.parametrize("width", [0, -2, 1.5, None])
def test_a_width_that_is_none(width: Any) -> None:
    for search in (tg.decode.beam_search, tg.decode.exact_search):
        with pytest.raises(tg.ArgumentError, match=f"beam_width.*{width}"):
            search(step, None, 0, beam_width=width, max_length=3)


@pytest.mark.parametrize("name", ["beam_search", "exhaustive", "exact_search"])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("penalty", [math.nan, math.inf, -math.inf, None, "one", [1.0]])
def test_a_penalty_that_is_none(name: str, length: int, penalty: Any) -> None:
    _raises(tg.ArgumentError, "length_penalty", name, step, None, 0, length, length_penalty=penalty)


def test_a_penalty_too_large_for_a_float() -> None:
    _raises(
        tg.ArgumentError, "length_penalty", "beam_search", step, None, 0, 3, length_penalty=-1e6
    )


@every_search
@pytest.mark.parametrize("axis", [-1, 0.5, None])
def test_an_axis_that_is_none(name: str, axis: Any) -> None:
    _raises(tg.ArgumentError, "state_axis", name, step, None, 0, 3, state_axis=axis)


@every_search
@pytest.mark.parametrize(
    ("state", "start", "axis"),
    [
        (np.zeros((2, 3)), 0, 0),
        (np.zeros((1, 3)), [0, 1], 0),
        ((np.zeros((1, 3)), {"c": np.zeros((3, 1))}), 0, 0),
        (np.zeros((1, 2, 3)), 0, 1),
        (np.zeros(1), 0, 1),
        (np.zeros((1, 2)), [0, 1], 0),
    ],
)
def test_a_state_without_a_row_for_each_example(
    name: str, state: Any, start: Any, axis: int
) -> None:
    _raises(tg.DecodingError, "state.*state_axis", name, step, state, start, 3, state_axis=axis)
    tensors = const(state) if isinstance(state, np.ndarray) else state
    _raises(tg.DecodingError, "state.*state_axis", name, step, tensors, start, 3, state_axis=axis)


@every_search
def test_a_step_whose_state_lost_rows(name: str) -> None:
    def losing(tokens: Any, state: Any) -> tuple[Any, Any]:
        return step(tokens, state)[0], np.zeros((len(tokens) + 1, 2))

    _raises(
        tg.DecodingError, r"step returned a state.*\(2, 2\)", name, losing, np.zeros((1, 2)), 0, 3
    )


@every_search
def test_a_mistake_inside_the_step_comes_through(name: str) -> None:
    def failing(tokens: Any, state: Any) -> Any:
        raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        SEARCHES[name](failing, None, 0, 3)


def test_a_search_over_too_many() -> None:
    with pytest.raises(tg.ArgumentError, match=r"1,000,000.*max_length.*exact_search"):
        tg.decode.exhaustive(in_numpy(step), None, 0, 40)


def test_chance_and_nothing_to_return() -> None:
    @in_numpy
    def step(tokens: Any, state: Any) -> Any:
        return np.full((len(tokens), 2), -np.inf), state

    for rng in ("a", -1):
        with pytest.raises(tg.ArgumentError, match=r"rng .*whole number"):
            tg.decode.sample(step, None, 0, 2, rng=rng)  # type: ignore[arg-type]
    with pytest.raises(tg.IndexOutOfRangeError, match="there is no hypothesis"):
        _ = tg.decode.greedy(step, None, 0, 2).best  # type: ignore[union-attr]


def test_a_state_whose_rows_cannot_be_chosen_is_refused() -> None:
    @in_numpy
    def step(tokens: Any, state: Any) -> Any:
        return np.log(np.full((len(tokens), 2), 0.5)), state

    for search in (tg.decode.greedy, tg.decode.exact_search, tg.decode.sample):
        with pytest.raises(
            tg.DecodingError, match="leaf 1 is a object, whose rows cannot be chosen"
        ):
            search(step, (None, object()), 0, 2)  # type: ignore[operator]
