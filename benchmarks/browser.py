"""Chromium from the system, driven by Playwright; either may be missing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

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
"""Flags for a browser that does nothing by itself; without a sandbox, which root cannot have."""

SIZE = {"width": 1280, "height": 800}


class NoBrowserError(RuntimeError):
    """Playwright or Chromium is missing; the message says where it comes from."""


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Start a headless browser, and end it.

    Raises
    ------
    NoBrowserError
        Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError(
            "Playwright is not installed: pip install 'tinygrad182[browser]'"
        ) from error
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise NoBrowserError("there is no Chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[*QUIET])
        try:
            yield started
        finally:
            started.close()
