"""Beam search against the textbook, brute force and the model itself, over random models."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad182 as tg

from .cases import cases
from .properties import OFTEN, PROPERTIES, SMALL, Property

EXAMPLES = settings().max_examples


def _check(holds: Property, data: st.DataObject) -> None:
    holds(data.draw(cases(wide=holds not in SMALL)), tg.decode.beam_search)


@pytest.mark.parametrize(
    "holds", [p for p in PROPERTIES if p not in OFTEN], ids=lambda p: p.__name__
)
@given(st.data())
def test_beam_search(holds: Property, data: st.DataObject) -> None:
    _check(holds, data)


@pytest.mark.parametrize("holds", OFTEN, ids=lambda p: p.__name__)
@settings(max_examples=3 * EXAMPLES)
@given(st.data())
def test_beam_search_in_rare_cases(holds: Property, data: st.DataObject) -> None:
    _check(holds, data)
