"""Pages in a real browser: Chromium from the system, driven by Playwright, both of which may be missing.

``make browser`` installs the driver and runs these tests; ``apt-get install chromium`` (or the browser
of another distribution) has to be there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser that does nothing but what it is told to; without a sandbox, which root cannot have."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip(
        "playwright.sync_api", reason="no page was opened: make browser installs Playwright"
    )
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no page was opened: there is no Chromium; on Debian: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[*QUIET])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page at 1280 × 800 without a network; whatever it complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_(path: Path, scheme: str = "light") -> Any:
        context = browser.new_context(
            offline=True, viewport={"width": 1280, "height": 800}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        address = path.as_uri()
        page.on("request", lambda r: r.url == address or complaints.append(f"asked for {r.url}"))
        page.on("console", lambda m: m.type in QUIET_LEVELS or complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#chart svg")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


QUIET_LEVELS = ("log", "info", "debug")
