"""The playground's page as a reader meets it: without a network, every control moved, in the dark."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad182 as tg
from tests.browser.test_page import says
from tests.browser.texts import clipped, overlapping, texts
from tests.tinygrad182.inspect.sliders.recipe import Stop, network, rows_of
from tinygrad182.display import charts
from tinygrad182.inspect import playground

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

Open = Callable[..., Any]
SIZE, SEED = 4, 1
TWO_DIGITS = math.log10(1.0501)
"""Tolerance for drawn numbers, which have two digits; the data are compared in full elsewhere."""
STOPS: dict[str, Any] = {
    "radius": (0.5, 1.1),
    "bias": (0.0, 3.0),
    "forget_bias": (0.0, 2.0),
    "length": (10, 30),
}


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of few stops; ``browser`` comes first, so that none is made without a browser."""
    path = tmp_path_factory.mktemp("pages") / "playground.html"
    playground(SIZE, SEED, STOPS).save_html(path)
    return path


def told(page: Any, what: str) -> dict[int, str]:
    """One value of each step's label, by t; the labels belong to the transparent columns."""
    columns = page.locator('#chart svg path[aria-roledescription="rect mark"]')
    labels = columns.evaluate_all("found => found.map(e => e.getAttribute('aria-label'))")
    said = (dict(part.split(": ", 1) for part in label.split("; ")) for label in labels)
    return {int(each["t"]): each[what] for each in said if what in each}


def log10(text: str) -> float:
    """The logarithm of a number that is drawn; its exponent may be any."""
    mantissa, _, exponent = text.replace("−", "-").partition("e")
    return math.log10(float(mantissa)) + int(exponent or 0)


def choose(page: Any, control: str, choice: str) -> None:
    page.locator(f"#{control}").select_option(label=choice)


def move(page: Any, control: str, key: str) -> None:
    """Move a slider by a key, as a reader does."""
    page.locator(f"#{control}").press(key)


def check(written: Path, page: Any, key: str) -> None:
    """Wait for a stop's sentences, and compare what is drawn with the library's numbers."""
    stop = Stop.read(key)
    loss = network(stop, SIZE, SEED).loss
    (flow,) = tg.inspect.gradient_flow(loss).values()
    for line in rows_of(written)[key]["lines"]:
        says(page, line)
    for name in "hc" if stop.cell == "LSTM" else "h":
        norms = flow[name].log10_grad_norm, np.log10(flow[name].value_norm)
        for what, logs in zip((f"‖∂L/∂{name}ₜ‖", f"‖{name}ₜ‖"), norms, strict=True):
            drawn = told(page, what)
            assert drawn.keys() == set(range(stop.length))
            for t, text in drawn.items():
                assert abs(log10(text) - logs[t]) < TWO_DIGITS, (key, what, t)
    shares = tg.inspect.path_split(loss)["c" if stop.cell == "LSTM" else "h"].shares
    for part, share in shares.items():
        for t, text in told(page, part).items():
            assert math.isclose(
                float(text.strip("%").replace("−", "-")) / 100, share[t], abs_tol=6e-4
            )


def test_every_control_moves_what_is_drawn(written: Path, opened: Open) -> None:
    """Opened without a network, it asks for nothing and complains of nothing (see ``opened``)."""
    page = opened(written)
    check(written, page, "RNN/tanh/0.5/0//10/last")
    move(page, "radius", "ArrowRight")
    check(written, page, "RNN/tanh/1.1/0//10/last")
    move(page, "length", "End")
    check(written, page, "RNN/tanh/1.1/0//30/last")
    choose(page, "loss", "every state")
    check(written, page, "RNN/tanh/1.1/0//30/all")
    choose(page, "nonlinearity", "relu")
    check(written, page, "RNN/relu/1.1/0//30/all")
    choose(page, "cell", "LSTM")
    check(written, page, "LSTM//1.1/0/0/30/all")
    move(page, "forget_bias", "ArrowRight")
    check(written, page, "LSTM//1.1/0/2/30/all")
    choose(page, "cell", "ResNet")
    check(written, page, "ResNet/relu/1.1/0//30/all")
    move(page, "bias", "End")
    choose(page, "nonlinearity", "identity")
    choose(page, "loss", "the last state")
    check(written, page, "ResNet/identity/1.1/3//30/last")


def test_what_a_cell_does_not_have_is_greyed(written: Path, opened: Open) -> None:
    page = opened(written)
    for cell, has in {
        "RNN": ("nonlinearity",),
        "LSTM": ("forget_bias",),
        "GRU": (),
        "ResNet": ("nonlinearity",),
    }.items():
        choose(page, "cell", cell)
        for control in ("nonlinearity", "forget_bias"):
            label = page.locator(f"label.{control}")
            grey = float(label.evaluate("e => getComputedStyle(e).opacity")) < 0.5
            assert grey == (control not in has), (cell, control)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_can_read_it(written: Path, opened: Open, scheme: str) -> None:
    """No text overlaps another or is cut off, none is small, the background is the theme's."""
    page = opened(written, scheme)
    for cell in ("RNN", "LSTM", "ResNet"):
        choose(page, "cell", cell)
        for loss in ("the last state", "every state"):
            choose(page, "loss", loss)
            page.wait_for_timeout(50)
            found = texts(page)
            assert not overlapping(found)
            assert not clipped(page, found)
            assert min(text.size for text in found) >= charts.SMALLEST
            time = "block" if cell == "ResNet" else "step"
            assert [text.text for text in found].count(f"{time} t") == 3
    page.set_viewport_size({"width": 1000, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == {"light": "rgb(26, 26, 26)", "dark": "rgb(232, 232, 232)"}[scheme]
