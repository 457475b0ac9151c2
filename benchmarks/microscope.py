"""The microscope's page of an LSTM: how long it takes to write, to open and to answer a click.

``python -m benchmarks.microscope [--out DIR]``

``trace(loss).save_html(path)`` of a loss at the last step, run fused, in float32; "first" is the first page
of the process, for which libraries are loaded. Then the page is opened in headless Chromium at 1280 × 800
until its chart is painted, and random steps are clicked, each until what follows from it is painted. The
browser's columns are empty where Chromium or Playwright is missing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import track

import tinygrad182 as tg
from benchmarks.browser import SIZE, NoBrowserError, browser
from benchmarks.options import OutputOptions, sizes
from benchmarks.timing import report

INPUTS, HIDDEN = 8, 64

PAINTED = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
"""Fulfilled when the next frame was drawn."""

ANSWERED = f"""
addEventListener("click", () => {{
  const start = performance.now();
  window.answered = {PAINTED}.then(() => performance.now() - start);
}}, {{ capture: true, once: true }});
"""
"""Measures the next click, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    """Measure how long the microscope's page takes to write, to open and to answer."""

    shapes: tuple[str, ...] = ("1000,1", "1000,16", "10000,1")
    """T,B each."""

    repeats: int = 3
    """Pages that are written and opened of each shape, after the first."""

    clicks: int = 20
    """Steps that are clicked."""


def loss_of(steps: int, batch: int) -> tg.Tensor:
    """Mean squared error at the last step of a whole sequence."""
    lstm = tg.nn.LSTM(INPUTS, HIDDEN, rng=0)
    head = tg.nn.Linear(HIDDEN, 1, rng=1)
    draw = np.random.default_rng(0)
    x = tg.tensor(draw.normal(size=(steps, batch, INPUTS)).astype(np.float32))
    output, _ = lstm(x)
    return tg.nn.mse_loss(head(output[-1]), tg.ones((batch, 1)))


def written(steps: int, batch: int, path: Path) -> float:
    """Seconds from a loss to its page."""
    loss = loss_of(steps, batch)
    start = time.perf_counter()
    tg.inspect.trace(loss).save_html(path)
    return time.perf_counter() - start


@contextmanager
def shown(chromium: Any, path: Path) -> Iterator[tuple[Any, float]]:
    """Open a page in a fresh context: the page, and seconds until its chart is painted."""
    context = chromium.new_context(offline=True, viewport=SIZE)
    try:
        page = context.new_page()
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("#chart svg text", state="attached")
        page.evaluate(PAINTED)
        yield page, time.perf_counter() - start
    finally:
        context.close()


def loaded(chromium: Any, path: Path) -> float:
    """Seconds until a page is painted."""
    with shown(chromium, path) as (_, seconds):
        return seconds


def clicked(page: Any, count: int) -> list[float]:
    """Seconds of clicks at random steps of the curves; each has to change what the page says."""
    steps = page.locator('#chart svg path[aria-label^="step t: "][opacity="0"]')
    draw = np.random.default_rng(0)
    found = []
    for i in track(draw.permutation(steps.count())[:count], description="Clicking", transient=True):
        before = page.locator("#chart svg").text_content()
        page.evaluate(ANSWERED)
        steps.nth(i).click(force=True)
        found.append(page.evaluate("window.answered") / 1e3)
        if page.locator("#chart svg").text_content() == before:
            raise RuntimeError("a click changed nothing")
    return found


def row(shape: str, chromium: Any, options: Options) -> dict[str, Any]:
    """Seconds and megabytes of one shape."""
    steps, batch = sizes(shape)
    found: dict[str, Any] = {"T, B, H": f"{steps}, {batch}, {HIDDEN}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        found["first, s"] = written(steps, batch, path)
        again = [written(steps, batch, path) for _ in range(options.repeats)]
        found["write, s"] = statistics.median(again)
        found["MB"] = path.stat().st_size / 1e6
        found |= dict.fromkeys(("open, s", "click, s", "worst click, s"))
        if chromium is not None:
            opened = [loaded(chromium, path) for _ in range(options.repeats)]
            found["open, s"] = statistics.median(opened)
            with shown(chromium, path) as (page, _):
                clicks = clicked(page, options.clicks)
            found["click, s"], found["worst click, s"] = statistics.median(clicks), max(clicks)
    return found


def rows(options: Options) -> list[dict[str, Any]]:
    """All shapes, in a browser where there is one."""
    try:
        with browser() as chromium:
            return [row(shape, chromium, options) for shape in options.shapes]
    except NoBrowserError as error:
        sys.stderr.write(f"No page is opened: {error}\n")
        return [row(shape, None, options) for shape in options.shapes]


def main(options: Options) -> None:
    """Run the measurements."""
    report("microscope", rows(options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.microscope"))
