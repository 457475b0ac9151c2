"""The page of a watched run: its numbers are ``gradient_flow``'s at every position of the slider."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad182 as tg
from tests.browser.texts import clipped, overlapping, texts
from tinygrad182.display import charts

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

Open = Callable[..., Any]
T, S = 12, 6


class Shown(NamedTuple):
    """A page, and what each training step had."""

    path: Path
    losses: list[float]
    flows: list[tg.inspect.GradientFlow[Any]]


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """An LSTM whose numbers overflow at the last training step but one, and that forgets at the third."""
    lstm = tg.nn.LSTM(2, 4, rng=0, dtype="float64")
    losses, flows = [], []
    with tg.inspect.watch(lstm, every=1) as watch:
        for i in range(S):
            x = tg.tensor(np.random.default_rng(i).normal(size=(T, 3, 2)))
            loss = (lstm(x)[0][-1] ** 2).sum() * (math.nan if i == S - 2 else 10.0**-i)
            losses.append(float(loss.item()))
            flows.append(tg.inspect.gradient_flow(loss))
            loss.backward()
    path = tmp_path_factory.mktemp("pages") / "watch.html"
    watch.save_html(path)
    return Shown(path, losses, flows)


def moved(page: Any, i: int) -> None:
    """Move the slider to a training step, by its keys."""
    slider = page.locator("#controls input")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(i):
        page.keyboard.press("ArrowRight")
    says(page, i)


def says(page: Any, i: int) -> None:
    """Wait until the rule is at a training step, and the slider too."""
    page.get_by_text(f"Training step {i}", exact=True).first.wait_for(state="attached")
    assert page.locator("#controls input").input_value() == str(i)


def middle(page: Any, i: int, over: float = 0.0) -> tuple[float, float]:
    """A position of the pointer over a cell of a training step."""
    cell = f'[aria-roledescription="rect mark"][aria-label*="training step: {i}; step t: 5"]'
    box = page.locator(f"#chart svg path{cell}").first.bounding_box()
    return box["x"] + box["width"] / 2 + over, box["y"] + box["height"] / 2


CELLS = """
() => [...document.querySelectorAll("#chart svg path[aria-roledescription='rect mark']")]
  .map(e => e.getAttribute("aria-label"))
  .filter(s => s.includes("step t:"))
"""

POINTS = """
() => [...document.querySelectorAll("#chart svg .mark-line.role-mark path")]
  .filter(e => e.getAttribute("stroke") === COLOUR)
  .map(e => e.getAttribute("d"))
"""


def curves(page: Any, colour: str) -> list[str]:
    """The paths of the lines of a colour."""
    found: list[str] = page.evaluate(POINTS.replace("COLOUR", json.dumps(colour)))
    return found


def log10s(paths: str, low: float, high: float, width: float) -> list[float]:
    """The logarithms that a line is drawn at."""
    points = [p.split(",") for p in paths.replace("M", "L").split("L") if p]
    return [low + float(x) / width * (high - low) for x, _ in points]


def test_every_cell_says_what_gradient_flow_finds(written: Shown, opened: Open) -> None:
    page = opened(written.path)
    said = [dict(part.split(": ") for part in s.split("; ")) for s in page.evaluate(CELLS)]
    assert len(said) == 2 * S * T
    for name in ("h", "c"):
        key = f"‖∂L/∂{name}‖"
        for cell in (cell for cell in said if key in cell):
            flow = written.flows[int(cell["training step"])]
            norm = flow["lstm.l0" if "lstm.l0" in flow else next(iter(flow))][name]
            expected = norm.grad_norm[int(cell["step t"])]
            if math.isnan(expected):
                assert cell[key] == "NaN"
            else:
                assert float(cell[key]) == pytest.approx(expected, rel=0.06)


def test_slider_and_clicks_move_the_curves_and_the_first_ones_stay(
    written: Shown, opened: Open
) -> None:
    page = opened(written.path)
    every = [
        state.log10_grad_norm for f in written.flows for s in f.values() for state in s.values()
    ]
    finite = np.concatenate(every)[np.isfinite(np.concatenate(every))]
    room = 0.04 * (finite.max() - finite.min())
    ends = finite.min() - room, finite.max() + room
    firsts = curves(page, charts.GREY)
    for i in (0, 3, 5):
        moved(page, i)
        lines = curves(page, charts.BLUE)[-2:]  # the first blue line is the loss
        states = [state for stack in written.flows[i].values() for state in stack.values()]
        for line, state in zip(lines, states, strict=True):
            found = log10s(line, *ends, width=300)
            np.testing.assert_allclose(found, state.log10_grad_norm, rtol=0, atol=2e-3)
        assert curves(page, charts.GREY) == firsts
    moved(page, 4)
    assert page.locator("#chart svg .mark-symbol path").count() >= 2 * T  # marks in place of a line
    for i in (2, 4):
        cell = f'[aria-roledescription="rect mark"][aria-label*="training step: {i}; step t: 5"]'
        page.locator(f"#chart svg path{cell}").first.click(force=True)
        says(page, i)
    page.locator("#chart svg").click(position={"x": 1000, "y": 300}, force=True)  # a curve's panel
    says(page, 4)
    page.mouse.move(*middle(page, 1))  # without a button, the rule stays
    page.mouse.down()
    page.mouse.move(*middle(page, 0))
    says(page, 0)
    page.mouse.move(*middle(page, 3))
    says(page, 3)
    page.mouse.up()
    page.mouse.move(*middle(page, 5))
    page.mouse.move(*middle(page, 5, over=1))
    says(page, 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(written: Shown, opened: Open, scheme: str) -> None:
    page = opened(written.path, scheme)
    found = texts(page)
    assert min(text.size for text in found) >= 11
    assert not overlapping(found)
    assert not clipped(page, found)
    assert {"exactly 0", "infinite"}.isdisjoint(text.text for text in found)
    assert "NaN" in {text.text for text in found}
    assert any("it was stopped. The last loss is" in text.text for text in found)
