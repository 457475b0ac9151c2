"""Pages in a real browser; ``make browser`` installs its driver, which may be missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import SIZE, NoBrowserError
from benchmarks.browser import browser as started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser for each file: its event loop runs while it is open, and others need their own."""
    try:
        with started() as found:
            yield found
    except NoBrowserError as error:
        pytest.skip(f"no page was opened: {error}")


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page without a network; whatever it asks for or complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_(path: Path, scheme: str = "light") -> Any:
        context = browser.new_context(offline=True, viewport=SIZE, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        own = path.as_uri()
        page.on("request", lambda asked: asked.url == own or complaints.append(asked.url))
        page.on("console", lambda said: said.type in CALM or complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(own)
        page.wait_for_selector("#chart svg")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


CALM = ("log", "info", "debug")
"""Messages that a page may write; Vega warns of values that it cannot draw."""
