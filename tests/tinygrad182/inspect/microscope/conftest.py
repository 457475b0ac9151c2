"""Charts are made as a page makes them: whole pages are checked against the schema in test_look.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tinygrad182.display import charts


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    pytest.importorskip("altair")
    with charts.unchecked():
        yield
