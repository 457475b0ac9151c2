"""What follows from a line of the catalogue."""

import pytest

from experiments.app.catalogue import CATALOGUE, load
from tests.experiments.sizes import SMALL


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_question_has_a_small_size_for_the_tests_on_a_card(name):
    """``tests/tinygrad182/cuda/test_experiments.py`` runs them; this test needs no card."""
    assert name in SMALL, "tests/experiments/sizes.py lacks it"
    options = load(name).options(**SMALL[name])
    assert vars(options).items() >= SMALL[name].items()
