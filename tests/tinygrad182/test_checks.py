"""Every check on every row of the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import checks, corners
from .table import ROWS, Row

CHECKS = [*checks.CHECKS, *corners.CHECKS]
PAIRS = [pytest.param(check, row, id=f"{check.__name__}-{row}") for check in CHECKS for row in ROWS]


@pytest.mark.parametrize(("check", "row"), PAIRS)
def test_holds(check: Callable[[Row], None], row: Row) -> None:
    check(row)
