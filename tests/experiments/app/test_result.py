"""Claims that only a number on the right side upholds, and numbers as people read them."""

import pytest

from experiments.app.result import Claim
from experiments.drawing.tables import Column, Table, power_text


@pytest.mark.parametrize(
    ("measured", "relation", "holds"),
    [
        (0.5, "at most", True),
        (1.0, "at most", True),
        (1.5, "at most", False),
        (0.5, "at least", False),
        (1.0, "at least", True),
        (1.5, "at least", True),
        (float("nan"), "at most", False),
        (float("nan"), "at least", False),
    ],
)
def test_a_claim_holds_on_the_claimed_side_of_its_threshold_alone(measured, relation, holds):
    claim = Claim("it is", measured, threshold=1.0, relation=relation)
    assert claim.holds is holds
    assert claim.verdict.startswith("holds" if holds else "does not hold")


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (0.0, "1"),
        (-2.0, "0.01"),
        (1.99, "98"),
        (2.0, "1.0e+02"),
        (-2.0001, "1.0e-02"),
        (-59.5, "3.2e-60"),
        (35.999, "1.0e+36"),
        (4567.0, "1.0e+4567"),
        (float("inf"), "inf"),
        (float("-inf"), "0"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_is_written_from_its_logarithm(log10, text):
    assert power_text(log10) == text


def test_columns_of_words_and_of_numbers_are_distinguished():
    table = Table("t", "t", [{"a": None, "b": 1.0, "c": True}, {"a": "x", "b": None, "c": False}])
    assert [Column(key, key).is_text(table) for key in "abc"] == [True, False, False]
    assert [Column(key, key).text(table.rows[0]) for key in "abc"] == ["–", "1.0", "yes"]
