"""The microscope's page as a reader meets it: without a network, clicked, in the dark, and large."""

from __future__ import annotations

import math
import re
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


class Shown(NamedTuple):
    """A page, and what it shows."""

    loss: tg.Tensor
    path: Path


@pytest.fixture(scope="module")
def written(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Shown]:
    """The page of a stack of LSTMs; ``browser`` comes first, so that none is made without a browser."""
    made: dict[Any, Shown] = {}

    def write(steps: int, layers: int = 1, hidden: int = 6) -> Shown:
        key = steps, layers, hidden
        if key not in made:
            rng = np.random.default_rng(0)
            lstm = tg.nn.LSTM(3, hidden, layers, rng=0, dtype="float64")
            output, _ = lstm(tg.tensor(rng.normal(size=(steps, 2, 3))))
            loss = (output[-1] ** 2).sum()
            path = tmp_path_factory.mktemp("pages") / "page.html"
            tg.inspect.trace(loss).save_html(path)
            made[key] = Shown(loss, path)
        return made[key]

    return write


def click_step(page: Any, i: int) -> None:
    """Click the curves at the i-th step."""
    columns = page.locator('#chart svg path[aria-label^="step t: "][opacity="0"]')
    columns.nth(i).click(force=True)


def rect_mark(page: Any, told: str) -> Any:
    """The box whose description holds this."""
    return page.locator(f'#chart svg path[aria-roledescription="rect mark"][aria-label*="{told}"]')


def says(page: Any, text: str) -> Any:
    """Wait until the chart says this, exactly."""
    found = page.locator("#chart svg text").get_by_text(text, exact=True)
    found.first.wait_for(state="attached", timeout=10_000)
    return found.first


def between(text: str) -> tuple[float, float]:
    """The range of log10 of a number that is rounded to this text, whatever its exponent."""
    mantissa, _, exponent = text.strip().replace("−", "-").partition("e")
    if mantissa == "0":
        return -math.inf, -math.inf
    half = 0.5000001 * 10.0 ** -len(mantissa.partition(".")[2])
    low, high = float(mantissa) - half, float(mantissa) + half
    return math.log10(low) + int(exponent or 0), math.log10(high) + int(exponent or 0)


def boxes(page: Any) -> dict[str, tuple[str, str]]:
    """The norms of value and gradient below each operation's label in the opened step."""
    found = texts(page)
    norms = [text for text in found if re.fullmatch(r"∂\s?[\d.e−-]+", text.text)]
    read = {}
    for norm in norms:
        middle = (norm.left + norm.right) / 2
        above = [
            text
            for text in found
            if abs((text.left + text.right) / 2 - middle) < 2 and 0 < norm.top - text.top < 40
        ]
        label, value = sorted(above, key=lambda text: text.top)[-2:]
        read[label.text] = value.text, norm.text[1:]
    return read


@pytest.mark.parametrize("steps", [8, 1000])
def test_a_page_says_what_there_is_to_see(written: Any, opened: Open, steps: int) -> None:
    """Loaded without a network, it asks for nothing and complains of nothing (see ``opened``)."""
    shown = written(steps)
    page = opened(shown.path)
    told = [s.text for s in tg.inspect.look(shown.loss).sentences if not s.folded]
    assert page.locator("header p").all_text_contents() == told
    assert not page.locator("li").first.is_visible()
    page.locator("summary", has_text="How to read this page").click()
    assert page.locator("li").first.is_visible()


@pytest.mark.parametrize(("steps", "clicked"), [(8, [0, 5, 7]), (1000, [3, 500])])
def test_a_click_opens_a_step_whose_numbers_are_the_traces(
    written: Any, opened: Open, steps: int, clicked: list[int]
) -> None:
    shown = written(steps)
    page = opened(shown.path)
    (states,) = tg.inspect.gradient_flow(shown.loss).values()
    for t in clicked:
        click_step(page, t)
        says(page, f"Step t = {t} of {states.path}, opened")
        read = boxes(page)
        assert {"c", "h", "i", "f", "g", "o"} <= set(read)
        for name in ("c", "h"):
            state = states[name]
            found = math.log10(state.value_norm[t]), state.log_grad_norm[t] / math.log(10)
            for log10, text in zip(found, read[name], strict=True):
                low, high = between(text)
                assert low <= log10 <= high


def test_the_arrow_keys_move_the_step(written: Any, opened: Open) -> None:
    shown = written(8)
    page = opened(shown.path)
    (path,) = (flow.path for flow in tg.inspect.gradient_flow(shown.loss).values())
    click_step(page, 4)
    says(page, f"Step t = 4 of {path}, opened")
    page.locator("#controls input").focus()
    page.keyboard.press("ArrowRight")
    says(page, f"Step t = 5 of {path}, opened")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    says(page, f"Step t = 3 of {path}, opened")


def test_a_click_on_an_operation_shows_its_units(written: Any, opened: Open) -> None:
    page = opened(written(8).path)
    click_step(page, 2)
    for label in ("f", "tanh(c)"):
        rect_mark(page, f"operation: {label};").click(force=True)
        says(page, f"{label} at t = 2")


def test_a_click_on_a_box_shows_its_steps(written: Any, opened: Open) -> None:
    """A click on the other layer shows it at that time, and drops the selected operation of the first."""
    shown = written(8, layers=2)
    page = opened(shown.path)
    paths = list(tg.inspect.gradient_flow(shown.loss))
    assert len(paths) == 2
    click_step(page, 3)
    for path in (*paths, *paths):
        rect_mark(page, f"path: {path};").click(force=True)  # on its text
        says(page, f"Step t = 3 of {path}, opened")
        assert boxes(page)


def rgb(colour: str) -> str:
    named = {"white": "#ffffff"}.get(colour, colour)
    return "rgb({}, {}, {})".format(*(int(named[k : k + 2], 16) for k in (1, 3, 5)))


def colours(page: Any) -> tuple[str, str, str]:
    """The colours of the page's text, its paper, and an axis's label."""
    body = "getComputedStyle(document.body)"
    label = "getComputedStyle(document.querySelector('#chart svg .role-axis-label text')).fill"
    return tuple(page.evaluate(f"[{body}.color, {body}.backgroundColor, {label}]"))  # type: ignore[return-value]


def test_light_and_dark(written: Any, opened: Open) -> None:
    """The page follows what the reader's system prefers, also when that changes while it is open."""
    light, dark = (
        (rgb(scheme.ink), rgb(scheme.paper), rgb(scheme.ink))
        for scheme in (charts.LIGHT, charts.DARK)
    )
    assert colours(opened(written(8).path)) == light
    page = opened(written(8).path, "dark")
    assert colours(page) == dark
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        "ink => getComputedStyle(document.querySelector('#chart svg .role-axis-label text')).fill === ink",
        arg=light[0],
    )
    assert colours(page) == light


@pytest.mark.parametrize(("steps", "layers", "hidden"), [(8, 1, 6), (8, 2, 64), (1000, 1, 64)])
def test_all_text_can_be_read(
    written: Any, opened: Open, steps: int, layers: int, hidden: int
) -> None:
    page = opened(written(steps, layers, hidden).path)
    for at in (None, steps // 2, 0):
        if at is not None:
            click_step(page, at)
            page.wait_for_timeout(200)
        found = texts(page)
        assert len(found) > 100
        assert [text for text in found if text.size < charts.SMALLEST] == []
        assert overlapping(found) == []
        assert clipped(page, found) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def far(page: Any) -> None:
    """Nothing on the page is easily misread, wherever the pointer is."""
    found = texts(page)
    assert overlapping(found) == []
    assert clipped(page, found) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_box_without_time_leaves_the_curves_as_they_are(opened: Open, tmp_path: Path) -> None:
    """Its operations are opened; the curves are those of the recurrence beside it, at the same step."""
    rnn, head = tg.nn.RNN(2, 4, rng=0), tg.nn.Linear(4, 1, rng=1)
    loss = head(rnn(tg.ones((8, 2, 2)))[0][-1]).sum()
    view = tg.inspect.look(loss)
    view.save_html(tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    (path,) = (flow.path for flow in view.flow.values())
    click_step(page, 3)
    says(page, f"{path}, t = 3")
    block = max(view.steps)
    linear, last = view.network.blocks[block].title, view.steps[block].operations[-1].label
    rect_mark(page, f"title: {linear};").click(force=True)
    says(page, f"{linear}, opened")
    says(page, f"{last} has one step: nothing changes over time.")
    says(page, f"{path}, t = 3")
    far(page)
    rect_mark(page, "title: input;").click(force=True)  # nothing is in it
    says(page, f"{linear}, opened")


def broken() -> tg.Tensor:
    """An LSTM with a NaN in an input, whose gradients are NaN."""
    inputs = np.ones((8, 1, 2), dtype="f4")
    inputs[5] = np.nan
    return tg.nn.LSTM(2, 3, rng=0)(tg.tensor(inputs))[0][-1].sum()


def both_ways() -> tg.Tensor:
    """Two LSTMs, of which one has gradients that are exactly 0."""
    return tg.nn.LSTM(2, 3, bidirectional=True, rng=0)(tg.ones((8, 1, 2)))[0][-1].sum()


def functions() -> tg.Tensor:
    """Operations outside modules, with a constant."""
    weights = tg.ones((2, 3), requires_grad=True)
    return (tg.tanh(tg.ones((4, 2)) @ weights) * tg.exp(weights[0])).sum()


@pytest.mark.parametrize("model", [broken, both_ways, functions])
def test_every_box_of_a_model_can_be_looked_at(
    opened: Open, tmp_path: Path, model: Callable[[], tg.Tensor]
) -> None:
    with np.errstate(all="ignore"):
        view = tg.inspect.look(model())
        view.save_html(tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    far(page)
    boxes = rect_mark(page, "path: ")
    for i in range(boxes.count()):
        boxes.nth(i).click(force=True)
        page.wait_for_timeout(100)
        far(page)
    assert ("NaN" in {text.text for text in texts(page)}) == (model is broken)
