"""Every check on every row of the table."""

from __future__ import annotations

import pytest

from . import checks, edge_case_checks
from .table import ROWS, Row

CHECKS = [*checks.CHECKS, *edge_case_checks.CHECKS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_holds(row: Row) -> None:
    """One test for all checks of a row, for pytest takes longer over a test than most checks do."""
    failures = []
    for check in CHECKS:
        try:
            check(row)
        except Exception as failure:
            failure.add_note(f"{check.__name__} of {row}")
            failures.append(failure)
    if failures:
        raise ExceptionGroup(f"{row}", failures)
