"""The table is complete: every primitive and every public function has a row that reaches it."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles.definitions import OTHERS
from tests.support import assert_close, const, leaves
from tinygrad182.engine.backpropagation import ancestors
from tinygrad182.engine.recording import node_of

from .table import PLAIN, ROWS, PlainRow


def _primitives_recorded() -> set[str]:
    """The primitives whose derivative rules the rows run."""
    found: set[str] = set()
    for row in ROWS:
        y = row.f(*leaves(row.draw()))
        found |= {node.op for node in ancestors([node_of(y)])}
    return found - {"leaf"}


REMEDY = "add a row to a file of tests/tinygrad182/table/, such as FUNCTIONS in elementwise.py"


def test_every_primitive_has_a_row_under_its_own_name() -> None:
    assert set(tg.PRIMITIVES) <= {r.name for r in ROWS}, REMEDY


def test_every_primitive_is_recorded_by_a_row() -> None:
    assert _primitives_recorded() == set(tg.PRIMITIVES), REMEDY


def test_every_public_function_has_a_row() -> None:
    composed = set(tg.compositions.__all__)  # test_compositions.py checks that they have calls
    assert set(tg.functions.__all__) - composed <= {r.name for r in [*ROWS, *PLAIN]}, REMEDY


def test_every_primitive_has_a_row_with_an_empty_input() -> None:
    assert {r.name for r in ROWS if any(0 in shape for shape in r.shapes)} >= set(tg.PRIMITIVES)


def test_row_names_are_unique() -> None:
    names = [str(r) for r in [*ROWS, *PLAIN]]
    assert len(set(names)) == len(names)


def test_every_definition_is_compared_with_a_row() -> None:
    assert {str(r) for r in ROWS} >= set(OTHERS)


def test_no_function_is_both_differentiated_and_plain() -> None:
    assert not {r.name for r in ROWS} & {r.name for r in PLAIN}


@pytest.mark.parametrize("row", PLAIN, ids=str)
def test_plain_functions_equal_numpy(row: PlainRow) -> None:
    inputs = leaves(row.inputs)
    actual, expected = row.f(*inputs), np.asarray(row.numpy(*row.inputs))
    assert not actual.requires_grad
    assert str(actual.dtype) == str(expected.dtype)
    assert_close(actual.numpy().astype(float), expected.astype(float), 0.0)
    with np.errstate(all="raise"):
        row.f(*map(const, row.inputs))
