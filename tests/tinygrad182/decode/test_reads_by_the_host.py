"""A search without an end token on a GPU, whose numbers the host reads only at its end."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad182 as tg
from tests.support import array, device, in_numpy
from tinygrad182.arrays import backend

from .cases import Case, cases
from .properties import (
    companions_do_not_matter,
    equals_the_textbook,
    states_are_those_of_running_again,
)


def _unread(*args: Any, **named: Any) -> Any:
    """Run beam_search as if its arrays were not on the host."""
    if device() != "cpu":
        return tg.decode.beam_search(*args, **named)
    with mock.patch.object(type(backend.NUMPY), "device", return_value="elsewhere"):
        return tg.decode.beam_search(*args, **named)


@given(cases())
def test_the_same_is_found(case: Case) -> None:
    """This holds also when all sequences have ended, which the host does not notice."""
    case = case.with_(eos=None)
    for holds in (equals_the_textbook, companions_do_not_matter, states_are_those_of_running_again):
        holds(case, _unread)


@given(cases(), st.sampled_from([None, 2]))
def test_the_same_is_drawn(case: Case, top_k: int | None) -> None:
    """This holds also after dead ends, which go on until the host reads them."""
    case = case.with_(eos=None)

    def drawn(beam_width: int, length_penalty: float, **told: Any) -> Any:
        return tg.decode.sample(**told, rng=3, count=5, top_k=top_k)

    def found(one: Any) -> Any:
        return [(h.tokens, h.log_probability, *case.model.parts(h.state)) for h in one]

    read = case.run(drawn)
    with mock.patch.object(type(backend.NUMPY), "device", return_value="elsewhere"):
        unread = case.run(drawn)
    for a, b in zip(map(found, read), map(found, unread), strict=True):
        np.testing.assert_equal(b, a)


def test_nothing_is_read_before_the_end() -> None:
    """A wrong number raises at the end, and the error names its place."""
    asked: list[int] = []

    def step(tokens: Any, state: Any) -> tuple[Any, Any]:
        asked.append(len(tokens))
        values = np.log(np.tile([0.6, 0.4], (len(tokens), 1)))
        if len(asked) == 2:
            values[1, 0] = math.nan
        return values, state

    with pytest.raises(
        tg.DecodingError, match=r"at step 2, parent 1, example 0, after tokens \[1\] is NaN"
    ):
        _unread(in_numpy(step), array(np.zeros((1, 1))), 0, 2, 5)
    assert len(asked) == 5
