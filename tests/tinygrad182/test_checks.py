"""Every check on every row of the table."""

from __future__ import annotations

import pytest

from . import checks, corners
from .table import ROWS, Row

CHECKS = [*checks.CHECKS, *corners.CHECKS]


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
